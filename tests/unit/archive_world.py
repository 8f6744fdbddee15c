"""A data directory and a store in memory for tests of the archiver: WAL files that look right, calls that can fail."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from matriarch.archive.keyring import Keyring
from matriarch.archive.names import WalName, parse
from matriarch.archive.vault import Vault
from matriarch.backup.jobspec import ClusterIdentity
from matriarch.backup.keys import Kek
from matriarch.backup.store import Entry, Exists
from matriarch.errors import Corrupt, Unavailable
from matriarch.postgres.lsn import PAGE_SIZE, SEGMENT_SIZE, segment_name

SYSTEM = 7412345678901234567
KEY = Kek.of(bytes(range(32)))
CLUSTER = ClusterIdentity(namespace="prod", name="orders", uid="0000-1111")


def named(text: str) -> WalName:
    found = parse(text)
    assert found is not None
    return found


def wal(timeline: int, number: int, *, fill: bytes = b"", system: int = SYSTEM) -> bytes:
    """A segment whose first page has a proper header."""
    start = number * SEGMENT_SIZE
    header = struct.pack("=HHIQI4xQII", 0xD116, 0x0006, timeline, start, 0, system, SEGMENT_SIZE, PAGE_SIZE)
    return (header + fill).ljust(SEGMENT_SIZE, b"\0")


@dataclass
class MemoryStore:
    """A store; `faults` are taken one for each call: True fails before it works, None after (its answer is lost)."""

    objects: dict[str, bytes] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    faults: list[bool | None] = field(default_factory=list)
    calls: int = 0
    address: str = "memory"
    lock: threading.Lock = field(default_factory=threading.Lock)

    def _fault(self) -> bool:
        """Whether the answer gets lost. Raises Unavailable."""
        with self.lock:
            self.calls += 1
            fault = self.faults.pop(0) if self.faults else False
        if fault is True:
            raise Unavailable("the store does not answer", reason="StoreUnavailable")
        return fault is None

    def check(self) -> None: ...

    def get(self, key: str) -> bytes | None:
        if self._fault():
            raise Unavailable("lost", reason="StoreUnavailable")
        return self.objects.get(key)

    def size(self, key: str) -> int | None:
        if self._fault():
            raise Unavailable("lost", reason="StoreUnavailable")
        found = self.objects.get(key)
        return None if found is None else len(found)

    @contextmanager
    def read(self, key: str) -> Iterator[Iterator[bytes]]:
        if self._fault():
            raise Unavailable("lost", reason="StoreUnavailable")
        if key not in self.objects:
            raise Corrupt("gone", reason="ObjectMissing")
        yield iter([self.objects[key]])

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        lost = self._fault()
        with self.lock:
            if if_absent and key in self.objects:
                raise Exists(key)
            self.objects[key] = data
            self.order.append(key)
        if lost:
            raise Unavailable("the answer was lost", reason="StoreUnavailable")

    def list(self, folder: str) -> Iterator[Entry]:
        for key in sorted(self.objects):
            if key.startswith(f"{folder}/"):
                yield Entry(key, len(self.objects[key]), datetime.now(UTC))

    def now(self) -> datetime:
        return datetime.now(UTC)


def vault(store: MemoryStore, *, keys: tuple[Kek, ...] = (KEY,), system: int = SYSTEM, level: int = 1) -> Vault:
    return Vault(store, Keyring(keys, lambda: 1e9), system=system, cluster=CLUSTER, level=level)  # type: ignore[arg-type]  # all it needs of one


class DataFolder:
    """A pgdata in which tests play PostgreSQL."""

    def __init__(self, root: Path, *, system: int = SYSTEM) -> None:
        self.root = root
        (root / "global").mkdir(parents=True)
        (root / "global" / "pg_control").write_bytes(struct.pack("=Q", system) + bytes(100))
        self.wal = root / "pg_wal"
        self.status = self.wal / "archive_status"
        self.status.mkdir(parents=True)

    def finish(self, timeline: int, number: int, fill: bytes = b"") -> WalName:
        return self.write(segment_name(timeline, number * SEGMENT_SIZE), wal(timeline, number, fill=fill))

    def write(self, text: str, content: bytes) -> WalName:
        (self.wal / text).write_bytes(content)
        (self.status / f"{text}.ready").touch()
        return named(text)

    def push_arguments(self, name: WalName) -> tuple[str, int, int]:
        found = (self.wal / name.text).stat()
        return name.text, found.st_dev, found.st_ino

    def acknowledge(self, name: WalName) -> None:
        (self.status / f"{name}.ready").rename(self.status / f"{name}.done")
