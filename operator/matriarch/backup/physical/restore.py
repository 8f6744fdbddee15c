"""A physical backup into an empty directory, and the same reading without writing.

Checking    the directory, the manifest, the map, and that every pack is there; of an incremental one for all its chain
Restoring   packs in threads: decrypted, decompressed, every digest compared, written where the map says; those whose
            content another directory has already are not fetched (reuse.py)
Finishing   settings of recovery, everything synced, pg_control last: without it PostgreSQL starts nothing half restored
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from matriarch.backup import lineage
from matriarch.backup.jobspec import Reason
from matriarch.backup.keys import Kek
from matriarch.backup.manifest import Opened
from matriarch.backup.physical import reuse, writing
from matriarch.backup.physical.contents import Contents, File, Pack, Piece
from matriarch.backup.physical.crew import work
from matriarch.backup.physical.exclude import CONTROL
from matriarch.backup.physical.merge import Merge, Place, Source, everything, spans
from matriarch.backup.physical.objects import Sealing, damaged, read_object
from matriarch.backup.physical.recovery import settings
from matriarch.backup.progress import Tracker
from matriarch.backup.restore import find_trusted
from matriarch.backup.stop import Stop
from matriarch.backup.store import Store
from matriarch.decide.pitr import LATEST, Target
from matriarch.errors import Corrupt, Refused, Unavailable

T = TypeVar("T")

SYNCING = 8  # files at a time
_AUTO_CONF = "postgresql.auto.conf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`restore_command` None: only the WAL of the backup. `timeline`: that recovery follows, None: the backup's.
    `accept_suspect`: also one whose pages were bad. `reuse`: another data directory, of whose files what is the same is
    taken instead of fetched; it is only read, and `tracker.reused` says how much that was.
    """

    store: Store
    keys: tuple[Kek, ...]
    backup: str
    directory: Path
    target: Target = LATEST
    restore_command: str | None = None
    timeline: int | None = None
    allow_unencrypted: bool = False
    accept_suspect: bool = False
    reuse: Path | None = None
    workers: int = 2
    tracker: Tracker = field(default_factory=Tracker)
    stop: Stop = field(default_factory=Stop)


def restore(request: Request) -> Opened:
    """Fill the directory. Raises MatriarchError with the directory as empty as it was."""
    request.tracker.step("Checking")
    if request.reuse is not None:
        reuse.refuse(request.reuse, request.directory)
    _refuse_filled(request.directory)
    opened = find(request.store, request.backup, request.keys, request.allow_unencrypted)
    if opened.body.suspect and not request.accept_suspect:
        raise Refused(
            f"{opened.body.name} is Suspect: pages failed their checksum when it was made; choose another backup, or "
            "say that this one is accepted.",
            reason=Reason.SUSPECT,
        )
    contents, sources = merged(request.store, opened, request.keys)
    made = _make_directory(request.directory)
    try:
        _fill(request, contents, sources)
    except OSError as error:
        _empty(request.directory, made)
        raise Unavailable(
            f"The directory could not be filled: {error.strerror} ({error.filename or request.directory}).",
            reason=Reason.TARGET_UNAVAILABLE,
        ) from error
    except BaseException:
        _empty(request.directory, made)
        raise
    return opened


def find(store: Store, backup: str, keys: tuple[Kek, ...], allow_unencrypted: bool) -> Opened:
    return find_trusted(store, backup, keys, allow_unencrypted, "physical")


def verify(
    store: Store, opened: Opened, tracker: Tracker, stop: Stop, workers: int = 2, keys: tuple[Kek, ...] = ()
) -> tuple[str, ...]:
    """Read every byte and compare every digest, of an incremental backup and of all that it builds on; writes nothing.

    The names of those below it, the full one last. `keys` open them. Raises Corrupt that names the object, Refused.
    """
    tracker.step("Checking")
    merged(store, opened, keys)  # that its parents have what it inherits
    below = []
    for link in lineage.links(store, opened, keys):
        if link is not opened:
            below.append(link.body.name)
        sealing, contents = read_map(store, link)
        tracker.step("Checking", bytes_total=contents.size)
        _read_packs(store, everything(sealing, contents), workers, tracker, stop)
    return tuple(below)


def merged(store: Store, opened: Opened, keys: tuple[Kek, ...]) -> tuple[Contents, list[Source]]:
    """What a restore lays down, and the packs it comes from: of a full backup all, of a chain those that are needed.

    Every map is read and every pack of the chain is there in its size when this returns. Raises Corrupt, Refused.
    """
    _, newest = read_map(store, opened)
    merge, sources = Merge(newest), list[Source]()
    for link in lineage.links(store, opened, keys):
        sealing, contents = read_map(store, link)
        try:
            sources += merge.add(sealing, contents)
        except ValueError as error:
            raise damaged(link.body.object.path, str(error)) from None
    if not merge.is_complete:
        raise damaged(opened.body.object.path, "it inherits from a backup that is not named")
    return newest, sources


def read_map(store: Store, opened: Opened) -> tuple[Sealing, Contents]:
    """The map, and that every object it names is there in its size. Raises Corrupt."""
    body = opened.body
    sealing = Sealing(backup_id=body.id, origin=body.origin, dek=opened.dek, encryption=body.encryption)
    wanted = body.object
    size = wanted.text_size
    pack = Pack(
        path=wanted.path,
        object_id=wanted.object_id,
        stored_size=wanted.stored_size,
        stored_sha256=wanted.stored_sha256,
        size=size,
    )
    text = b"".join(bytes(piece) for piece in read_object(store, pack, sealing, "map"))
    if hashlib.sha256(text).hexdigest() != wanted.text_sha256:
        raise damaged(wanted.path, "its content is not the one the manifest was made of")
    contents = Contents.from_json(text, backup=body.id)
    there = {e.key: e.size for e in store.list(wanted.path.rpartition("/")[0])}
    for pack in contents.packs:
        if pack.path not in there:
            raise Corrupt(f"The object {store.address}/{pack.path} is gone.", reason=Reason.OBJECT_MISSING)
        if there[pack.path] != pack.stored_size:
            raise damaged(pack.path, f"it has {there[pack.path]} bytes in place of {pack.stored_size}")
    return sealing, contents


def _refuse_filled(directory: Path) -> None:
    try:
        names = sorted(p.name for p in directory.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise Refused(
            f"{directory} can't be used as a directory ({error.strerror}).", reason=Reason.TARGET_NOT_EMPTY
        ) from error
    if "postmaster.pid" in names:
        raise Refused(
            f"{directory} has a postmaster.pid: a server runs there, or ran; restore into an empty directory.",
            reason=Reason.TARGET_NOT_EMPTY,
        )
    if names:
        raise Refused(
            f"{directory} is not empty (it holds {names[0]}); restore into an empty directory.",
            reason=Reason.TARGET_NOT_EMPTY,
        )


def _make_directory(directory: Path) -> bool:
    """Whether it was made by us."""
    try:
        directory.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        directory.chmod(0o700)  # PostgreSQL starts in no other
        return False
    return True


def _empty(directory: Path, made: bool) -> None:
    """It was empty, so all that is in it is ours."""
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if made:
        with contextlib.suppress(OSError):
            directory.rmdir()


def _fill(request: Request, contents: Contents, sources: Sequence[Source]) -> None:
    root, tracker = request.directory, request.tracker
    tracker.step("Restoring", bytes_total=sum(s.pack.size for s in sources))
    for folder in contents.directories:
        (root / folder.path).mkdir(mode=folder.mode | 0o700)
    for file in contents.files:
        if not file.pieces:
            writing.create(root, file)
    with reuse.opened(request.reuse) as old:
        _read_packs(request.store, sources, request.workers, tracker, request.stop, root, old)
    tracker.step("Finishing")
    _settle(root, contents)
    with (root / _AUTO_CONF).open("a", encoding="utf-8") as conf:
        conf.write(settings(request.target, request.restore_command, request.timeline))
    (root / "recovery.signal").touch(mode=0o600)
    _sync(root, contents, request.stop)
    (root / (CONTROL + writing.UNFINISHED)).rename(root / CONTROL)
    _sync_path(root / "global")
    _sync_path(root)
    _sync_path(root.parent)


def _read_packs(
    store: Store,
    sources: Sequence[Source],
    workers: int,
    tracker: Tracker,
    stop: Stop,
    root: Path | None = None,
    old: reuse.Old | None = None,
) -> None:
    """Every pack through `workers` threads, every piece of it to its place below `root`, every digest compared."""
    lock = threading.Lock()

    def write(piece: Piece, place: Place) -> writing.Writer:
        assert root is not None
        return writing.Writer(root, place.file, spans(piece, place))

    def one(_: int, source: Source) -> None:
        if old is not None and (taken := reuse.take(old, source, write, stop.check)) is not None:
            with lock:
                tracker.bytes_done += source.pack.size
                tracker.reused += taken
            return

        def writer(piece: Piece) -> writing.Writer | None:
            place = source.places.get(piece.at)
            return write(piece, place) if root is not None and place is not None else None

        flow = _Flow(source.pack, source.pieces, writer)
        try:
            for data in read_object(store, source.pack, source.sealing, "pack"):
                stop.check()
                flow.take(data)
                with lock:
                    tracker.bytes_done += len(data)
            flow.finish()
        finally:
            flow.close()

    work(apart(sources, workers), workers, lambda: one, stop)


def apart(sources: Sequence[T], workers: int) -> list[T]:
    """Neighbours hold parts of one file, whose lock only one writer has: each worker begins elsewhere in the list."""
    stretch = -(-len(sources) // max(1, workers))
    return [sources[at] for first in range(stretch) for at in range(first, len(sources), stretch)]


class _Flow:
    """The content of a pack, cut into its pieces."""

    def __init__(
        self, pack: Pack, pieces: tuple[tuple[File, Piece], ...], writer: Callable[[Piece], writing.Writer | None]
    ) -> None:
        self._pack, self._make = pack, writer
        self._pieces: Iterator[tuple[File, Piece]] = iter(pieces)
        self._now: tuple[File, Piece] | None = None
        self._writer: writing.Writer | None = None
        self._digest = hashlib.sha256()
        self._done = 0

    def take(self, data: memoryview) -> None:
        while data:
            if self._now is None and not self._begin():
                raise damaged(self._pack.path, "it holds more than its pieces")
            assert self._now is not None
            _, piece = self._now
            part = data[: piece.size - self._done]
            data = data[len(part) :]
            self._digest.update(part)
            if self._writer is not None:
                self._writer.write(part, self._done)
            self._done += len(part)
            if self._done == piece.size:
                self._end()

    def _begin(self) -> bool:
        self._now = next(self._pieces, None)
        if self._now is None:
            return False
        self._writer = self._make(self._now[1])
        self._digest, self._done = hashlib.sha256(), 0
        return True

    def _end(self) -> None:
        assert self._now is not None
        file, piece = self._now
        if self._digest.hexdigest() != piece.sha256:
            raise damaged(self._pack.path, f"{file.path} in it is not what was backed up (SHA-256)")
        self.close()
        self._now = None

    def finish(self) -> None:
        if self._now is not None or next(self._pieces, None) is not None:
            raise damaged(self._pack.path, "it ends before its last piece")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _settle(root: Path, contents: Contents) -> None:
    """Sizes, modes and times as they were."""
    for file in contents.files:
        path = root / writing.name(file)
        if path.stat().st_size != file.size:
            os.truncate(path, file.size)
        path.chmod(file.mode)
        os.utime(path, (file.mtime, file.mtime))


def _sync(root: Path, contents: Contents, stop: Stop) -> None:
    """One syncfs writes everything out at the disk's speed; then each fsync finds it done, or tells of an error."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None, use_errno=True).syncfs(fd)
    finally:
        os.close(fd)
    paths = [root / writing.name(file) for file in contents.files]
    paths += [root / name for name in (_AUTO_CONF, "recovery.signal")]
    paths += [root / folder.path for folder in contents.directories]

    def sync(path: Path) -> None:
        stop.check()
        _sync_path(path)

    # Each fsync makes the disk empty its cache, which it does for several at once in the same time.
    with ThreadPoolExecutor(SYNCING, thread_name_prefix="sync") as threads:
        for _ in threads.map(sync, paths):
            pass
    _sync_path(root)


def _sync_path(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
