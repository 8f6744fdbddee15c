"""Which Secrets a store needs, as files: for the Jobs of backups, and for instances that archive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from matriarch.api.stores import S3Credentials, S3Store

ACCESS_KEY_ID, SECRET_ACCESS_KEY, CA, KEY = "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "ca.crt", "key"
"""Keys within Secrets where the resource names no others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretFiles:
    """Keys of a Secret as files: `files` maps the Secret's key to the file's name."""

    secret: str
    files: Mapping[str, str]
    optional: bool = False


def credential_keys(s3: S3Store) -> tuple[str, str]:
    return _keys(s3.credentials)


def _keys(of: S3Credentials) -> tuple[str, str]:
    return of.access_key_id_key or ACCESS_KEY_ID, of.secret_access_key_key or SECRET_ACCESS_KEY


def s3_files(s3: S3Store, *, deleting: bool = False) -> tuple[SecretFiles, ...]:
    """The credentials, and the CA where the store has one of its own. `deleting`: those that may, where there are."""
    of = s3.delete_credentials if deleting and s3.delete_credentials is not None else s3.credentials
    access, secret = _keys(of)
    found = [SecretFiles(secret=of.secret_name, files={access: "access-key", secret: "secret-key"})]
    if s3.ca is not None:
        found.append(SecretFiles(secret=s3.ca.secret_name, files={s3.ca.key or CA: "ca.crt"}))
    return tuple(found)
