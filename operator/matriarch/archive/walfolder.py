"""What lies in a data directory for the archiver: files that are ready, their content, who the system is. Blocks."""

from __future__ import annotations

import os
import struct
import threading
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from matriarch.archive.names import WalName, parse
from matriarch.archive.report import Reason
from matriarch.errors import Corrupt, Unavailable
from matriarch.postgres.lsn import SEGMENT_SIZE
from matriarch.postgres.timeline import history_file, parse_history

_READY = ".ready"


@dataclass(frozen=True, slots=True)
class FileId:
    """Which file it was: a segment that was recycled or written again is another one."""

    device: int
    inode: int
    size: int
    changed_ns: int


class WalFolder:
    """`pgdata` need not hold anything yet."""

    def __init__(self, pgdata: Path) -> None:
        self._pgdata = pgdata
        self._wal = pgdata / "pg_wal"
        self._buffers = threading.local()
        self._own = 0
        self._lock = threading.Lock()

    def system_identifier(self) -> int:
        """From pg_control, whose first field it is. Raises Unavailable where there is no data yet."""
        try:
            with (self._pgdata / "global" / "pg_control").open("rb") as file:
                raw = file.read(8)
        except OSError as error:
            raise Unavailable(f"the data directory cannot be read yet ({error.strerror})") from None
        if len(raw) != 8 or not any(raw):
            raise Corrupt(f"{self._pgdata}/global/pg_control is cut off")
        return int(struct.unpack("=Q", raw)[0])

    def own_system(self) -> int:
        """The system that was here when this was asked first. Raises Unavailable while there is no data, and with the
        reason OtherSystem for good once a clone or a Restore brought another: its files have a place of their own."""
        found = self.system_identifier()
        with self._lock:
            self._own = self._own or found
            if found != self._own:
                raise Unavailable(
                    f"the data directory holds database system {found} by now, in place of {self._own}",
                    reason=Reason.OTHER_SYSTEM,
                )
        return found

    def ready(self) -> dict[WalName, float]:
        """What PostgreSQL wants archived → since when (seconds since the epoch)."""
        found: dict[WalName, float] = {}
        try:
            with os.scandir(self._wal / "archive_status") as entries:
                for entry in entries:
                    if not entry.name.endswith(_READY):
                        continue
                    name = parse(entry.name.removesuffix(_READY))
                    if name is not None:
                        try:
                            found[name] = entry.stat().st_mtime
                        except FileNotFoundError:
                            continue  # archived since
        except FileNotFoundError:
            pass
        return found

    def identify(self, name: WalName) -> FileId | None:
        try:
            found = (self._wal / name.text).stat()
        except FileNotFoundError:
            return None
        return FileId(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)

    def read(self, name: WalName) -> bytes | bytearray:
        """Its content; a segment's is valid until the same thread reads the next one. Raises Unavailable when it is
        gone."""
        try:
            with (self._wal / name.text).open("rb", buffering=0) as file:
                if os.fstat(file.fileno()).st_size != SEGMENT_SIZE:
                    return file.readall()
                return self._segment(file)
        except FileNotFoundError:
            raise Unavailable(f"{name} is not in pg_wal", reason=Reason.FILE_GONE) from None

    def _segment(self, file: FileIO) -> bytes | bytearray:
        """Into memory that the thread has already: 4096 fresh pages for each file cost as much as reading it."""
        buffer: bytearray | None = getattr(self._buffers, "segment", None)
        if buffer is None:
            buffer = self._buffers.segment = bytearray(SEGMENT_SIZE)
        view, done = memoryview(buffer), 0
        while done < SEGMENT_SIZE and (count := file.readinto(view[done:])):
            done += count
        return buffer if done == SEGMENT_SIZE else bytes(view[:done])

    def has_history(self, timeline: int) -> bool:
        """Whether the file is there and real: the agent also leaves tombstones, which name no parent."""
        try:
            return bool(parse_history(timeline, (self._wal / history_file(timeline)).read_text()))
        except (FileNotFoundError, ValueError):
            return False
