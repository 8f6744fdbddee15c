"""What the archiver is told: the variable MATRIARCH_ARCHIVE, set by the agent or by a restore. No secret is in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from matriarch.backup.jobspec import ClusterIdentity, StoreSpec
from matriarch.backup.jsonclass import decode, encode

ENVIRONMENT = "MATRIARCH_ARCHIVE"
SOCKET = "/run/matriarch/archive.sock"
KEY_FOLDER = "/etc/matriarch/archive-key"
STORE_FOLDER = "/etc/matriarch/archive-store"
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveConfig:
    """`store` without the cluster's own folder when `own_folder` is set: it is known with the data's identity only."""

    cluster: ClusterIdentity
    store: StoreSpec
    pgdata: str
    keys: tuple[str, ...] = ()  # files in `key_folder`; the first one encrypts, all can decrypt; empty: unencrypted
    key_folder: str = KEY_FOLDER
    own_folder: bool = False  # append <namespace>/<cluster>-<system identifier> to the store's prefix
    socket: str = SOCKET
    spool: str = "/var/lib/matriarch/archive-spool"  # on the data's volume, so that a rename puts a file in its place
    leads: bool | None = None  # None: nobody has said yet, so it stores nothing by itself
    parallel: int = 4  # files in memory at once, about 48 MiB each at worst
    level: int = 1  # of zstd
    max_rate: int | None = None  # bytes a second to the store
    prefetch: int = 256 * MIB  # bytes read ahead by a recovery
    patience: float = 45.0  # seconds until an unfinished push is answered with why
    mode: Literal["archive", "fetch"] = "archive"  # fetch: a recovery's; nothing is ever stored

    def to_json(self) -> str:
        return json.dumps(encode(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ArchiveConfig:
        """Raises ValueError with the path of the first field that is wrong or unknown."""
        return decode(cls, json.loads(text))
