"""What instances need to archive: the store's place in their configuration, its credentials and the key as files.

The files are optional in the Pod: a Secret that is missing must stop the archiving, which says so, and not PostgreSQL.
"""

from __future__ import annotations

from matriarch.api.defaults import S3_REGION
from matriarch.resources.blueprint import Blueprint, Object
from matriarch.resources.storefiles import KEY, SecretFiles, s3_files

STORE_PATH = "/etc/matriarch/archive-store"
KEY_PATH = "/etc/matriarch/archive-key"
KEY_FILE = "backup-key"


def document(b: Blueprint) -> Object | None:
    """The part of `cluster.json` that agents read; None when nothing is archived."""
    wanted = b.defaults.wal_archive
    if wanted is None:
        return None
    lock = wanted.s3.object_lock
    return {
        "bucket": wanted.s3.bucket,
        "prefix": (wanted.s3.prefix or "").strip("/"),
        "region": wanted.s3.region or S3_REGION,
        "endpoint": wanted.s3.endpoint,
        "path_style": wanted.s3.force_path_style,
        "keys": [KEY_FILE] if b.defaults.backup_key_secret is not None else [],
        "max_rate": wanted.max_rate,
        **({} if lock is None else {"lock": {"mode": lock.mode.upper(), "days": lock.days}}),
    }


def mounts(b: Blueprint) -> list[Object]:
    return [
        {"name": volume["name"], "mountPath": path, "readOnly": True}
        for volume, path in zip(volumes(b), (STORE_PATH, KEY_PATH), strict=False)
    ]


def volumes(b: Blueprint) -> list[Object]:
    wanted = b.defaults.wal_archive
    if wanted is None:
        return []
    found = [_projected("archive-store", s3_files(wanted.s3))]
    if (secret := b.defaults.backup_key_secret) is not None:
        key = SecretFiles(secret=secret, files={b.defaults.backup_key or KEY: KEY_FILE})
        found.append(_projected("archive-key", (key,)))
    return found


def _projected(name: str, files: tuple[SecretFiles, ...]) -> Object:
    sources = [
        {
            "secret": {
                "name": f.secret,
                "items": [{"key": key, "path": path} for key, path in sorted(f.files.items())],
                "optional": True,
            }
        }
        for f in files
    ]
    return {"name": name, "projected": {"defaultMode": 0o440, "sources": sources}}
