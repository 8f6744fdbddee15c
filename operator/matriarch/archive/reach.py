"""What an archive holds, as the choice of a recovery's timeline needs it: segments by listing, histories by reading."""

from __future__ import annotations

from datetime import datetime

from matriarch.archive.names import ENCRYPTED, PLAIN, parse
from matriarch.archive.vault import Vault
from matriarch.backup.store import Store
from matriarch.decide.pitr import Archive
from matriarch.postgres.lsn import SEGMENT_SIZE
from matriarch.postgres.timeline import Switch, parse_history


def read(store: Store, vault: Vault) -> Archive:
    """Raises Refused (KeyMissing, WrongKey, …), Corrupt and Unavailable: a history that cannot be read may be the one
    that counts."""
    histories: dict[int, tuple[Switch, ...]] = {}
    segments: dict[tuple[int, int], datetime] = {}
    for entry in store.list("wal"):
        name = parse(entry.key.rpartition("/")[2].removesuffix(ENCRYPTED).removesuffix(PLAIN))
        if name is not None and name.kind == "segment":
            segments[name.timeline, name.start // SEGMENT_SIZE] = entry.modified
        elif name is not None and name.kind == "history" and (text := vault.get(name)) is not None:
            histories[name.timeline] = parse_history(name.timeline, text.decode())
    return Archive(histories=histories, segments=segments)
