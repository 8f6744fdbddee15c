"""What instances need to archive: the store's place in their configuration, its credentials and the key as files.

The files are optional in the Pod: a Secret that is missing must stop the archiving, which says so, and not PostgreSQL.
"""

from __future__ import annotations

from matriarch.api.defaults import S3_REGION
from matriarch.api.stores import BackupStore
from matriarch.resources.blueprint import Blueprint, Object
from matriarch.resources.storefiles import KEY, SecretFiles, files_of

STORE_PATH = "/etc/matriarch/archive-store"
KEY_PATH = "/etc/matriarch/archive-key"
KEY_FILE = "backup-key"


def document(b: Blueprint) -> Object | None:
    """The part of `cluster.json` that agents read; None when nothing is archived."""
    wanted = b.defaults.wal_archive
    if wanted is None:
        return None
    return {
        **_place(wanted.store),
        "keys": [KEY_FILE] if b.defaults.backup_key_secret is not None else [],
        "max_rate": wanted.max_rate,
    }


def _place(store: BackupStore) -> Object:
    if (gcs := store.gcs) is not None:
        return {
            "kind": "gcs",
            "bucket": gcs.bucket,
            "prefix": (gcs.prefix or "").strip("/"),
            "endpoint": gcs.endpoint,
            "project": gcs.project_id,
        }
    s3 = store.s3
    assert s3 is not None  # the resource's rules
    lock = s3.object_lock
    return {
        "bucket": s3.bucket,
        "prefix": (s3.prefix or "").strip("/"),
        "region": s3.region or S3_REGION,
        "endpoint": s3.endpoint,
        "path_style": s3.force_path_style,
        **({} if lock is None else {"lock": {"mode": lock.mode.upper(), "days": lock.days}}),
    }


def mounts(b: Blueprint) -> list[Object]:
    paths = {"archive-store": STORE_PATH, "archive-key": KEY_PATH}
    return [{"name": volume["name"], "mountPath": paths[volume["name"]], "readOnly": True} for volume in volumes(b)]


def volumes(b: Blueprint) -> list[Object]:
    wanted = b.defaults.wal_archive
    if wanted is None:
        return []
    files = files_of(wanted.store)
    found = [_projected("archive-store", files)] if files else []
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
