"""Which Secrets a store needs, as files: for the Jobs of backups, and for instances that archive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from matriarch.api.stores import BackupStore, GcsStore, S3Ca, S3Credentials, S3Store

ACCESS_KEY_ID, SECRET_ACCESS_KEY, CA, KEY = "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "ca.crt", "key"
KEY_JSON = "key.json"
"""Keys within Secrets where the resource names no others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretFiles:
    """Keys of a Secret as files: `files` maps the Secret's key to the file's name."""

    secret: str
    files: Mapping[str, str]
    optional: bool = False


def files_of(store: BackupStore, *, deleting: bool = False) -> tuple[SecretFiles, ...]:
    """The credentials, and the CA where the store has one of its own; a volume needs none.

    `deleting`: those that may, where there are others.
    """
    if store.s3 is not None:
        return _s3_files(store.s3, deleting=deleting)
    return _gcs_files(store.gcs) if store.gcs is not None else ()


def _s3_files(s3: S3Store, *, deleting: bool) -> tuple[SecretFiles, ...]:
    of = s3.delete_credentials if deleting and s3.delete_credentials is not None else s3.credentials
    access, secret = _keys(of)
    return (SecretFiles(secret=of.secret_name, files={access: "access-key", secret: "secret-key"}), *_ca(s3.ca))


def _gcs_files(gcs: GcsStore) -> tuple[SecretFiles, ...]:
    of = gcs.credentials
    key = () if of is None else (SecretFiles(secret=of.secret_name, files={of.key or KEY_JSON: "key.json"}),)
    return (*key, *_ca(gcs.ca))


def _keys(of: S3Credentials) -> tuple[str, str]:
    return of.access_key_id_key or ACCESS_KEY_ID, of.secret_access_key_key or SECRET_ACCESS_KEY


def _ca(ca: S3Ca | None) -> tuple[SecretFiles, ...]:
    return () if ca is None else (SecretFiles(secret=ca.secret_name, files={ca.key or CA: "ca.crt"}),)
