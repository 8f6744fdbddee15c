"""A folder as a store: a mounted volume, or a disk on somebody's desk.

An object appears by link(2) from a synced temporary file: complete or not at all, never over another. Where a file
system has no hard links a rename after a look does it; two writers of one key are then told apart by the engine's
random names alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from matriarch.backup.jobspec import LocalStore, Reason
from matriarch.backup.store import Entry, Exists, Unfinished
from matriarch.errors import Corrupt, MatriarchError, Refused, Unavailable

_PART = ".part"
_PIECE = 1 << 20
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class Local:
    """See store.Store. Files are made 0600, folders 0700: backups in the clear hold everybody's data."""

    def __init__(self, spec: LocalStore) -> None:
        self._root = Path(spec.path)
        self._base = self._root / spec.prefix if spec.prefix else self._root
        self._colons: bool | None = None

    @property
    def address(self) -> str:
        return str(self._base)

    def check(self) -> None:
        if not self._root.is_dir():
            raise Refused(
                f"The folder {self._root} does not exist; create it, or mount the volume it stands for.",
                reason=Reason.BUCKET_MISSING,
            )
        with _explained(self._base), contextlib.suppress(FileNotFoundError):
            os.scandir(self._base).close()

    def get(self, key: str) -> bytes | None:
        path = self._path(key)
        with _explained(path):
            try:
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    @contextmanager
    def read(self, key: str) -> Iterator[Iterator[bytes]]:
        path = self._path(key)
        with _explained(path):
            try:
                file = path.open("rb", buffering=0)
            except (FileNotFoundError, NotADirectoryError):
                raise Corrupt(f"The object {path} is gone.", reason=Reason.OBJECT_MISSING) from None

        def pieces() -> Iterator[bytes]:
            with _explained(path):
                while piece := file.read(_PIECE):
                    yield piece

        with file:
            yield pieces()

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        upload = _LocalUpload(self._path(key), replace=not if_absent)
        try:
            upload.write(data)
            upload.finish()
        except BaseException:
            upload.abort()
            raise

    def upload(self, key: str, *, estimate: int) -> _LocalUpload:
        return _LocalUpload(self._path(key), replace=False)

    def size(self, key: str) -> int | None:
        path = self._path(key)
        with _explained(path):
            try:
                return path.stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def list(self, folder: str) -> Iterator[Entry]:
        for path in self._files(folder):
            if not path.name.endswith(_PART):
                with contextlib.suppress(FileNotFoundError):  # deleted since
                    stat = path.stat()
                    yield Entry(self._key(path), stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC))

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _explained(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
            _sync_folder(path.parent)

    def unfinished(self) -> Iterator[Unfinished]:
        for path in self._files(""):
            if path.name.endswith(_PART):
                with contextlib.suppress(FileNotFoundError):
                    begun = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                    name = path.name.removeprefix(".").rsplit(".", 2)[0]
                    yield Unfinished(self._key(path.with_name(name)), str(path), begun)

    def discard(self, upload: Unfinished) -> None:
        Path(upload.id).unlink(missing_ok=True)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def _files(self, folder: str) -> Iterator[Path]:
        top = self._base / folder if folder else self._base
        with _explained(top):
            for where, folders, files in os.walk(top, onerror=_raise_unless_missing):
                folders.sort()
                for name in sorted(files):
                    yield Path(where) / name

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if any(part in ("", ".", "..") for part in parts):
            raise Refused(f"{key!r} is no key of a store.", reason=Reason.STORE_REFUSED)
        if ":" in key and not self._holds_colons():
            parts = [part.replace(":", "%3A") for part in parts]
        return self._base.joinpath(*parts)

    def _key(self, path: Path) -> str:
        key = path.relative_to(self._base).as_posix()
        return key if self._holds_colons() else key.replace("%3A", ":")

    def _holds_colons(self) -> bool:
        """FAT and SMB mounts refuse `:` in names; asked once, by making such a file."""
        if self._colons is None:
            probe = self._base / f".probe:{secrets.token_hex(4)}{_PART}"
            try:
                probe.touch(mode=0o600, exist_ok=False)
            except OSError as error:
                # Read-only, or no folder yet: whoever only reads finds out by what is there.
                refused = error.errno in (errno.EINVAL, errno.EIO)
                self._colons = not refused and not any(self._base.glob("logical/*%3A*"))
                return self._colons
            probe.unlink(missing_ok=True)
            self._colons = True
        return self._colons


class _LocalUpload:
    def __init__(self, path: Path, *, replace: bool) -> None:
        self._path, self._replace = path, replace
        self._part = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_PART}")
        with _explained(self._part):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._open = True

    def write(self, data: bytes) -> None:
        with _explained(self._part):
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]

    def finish(self) -> None:
        with _explained(self._path):
            os.fsync(self._fd)
            self._close()
            if self._replace:
                self._part.replace(self._path)
            else:
                self._appear()
            _sync_folder(self._path.parent)

    def _appear(self) -> None:
        try:
            os.link(self._part, self._path)
        except FileExistsError:
            raise Exists(self._path) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if self._path.exists():
                raise Exists(self._path) from None
            self._part.rename(self._path)
        else:
            self._part.unlink()

    def abort(self) -> None:
        self._close()
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems can't, and sync on their own
            raise
    finally:
        os.close(fd)


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _explain(error, path) from error


def _explain(error: OSError, path: Path) -> MatriarchError:
    why = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Unavailable(
            f"The store is full at {path} ({why}); make room or shorten the retention.", reason=Reason.STORE_FULL
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Refused(
            f"The store does not let us work at {path} ({why}); give this user the right to write there.",
            reason=Reason.CREDENTIALS_REFUSED,
        )
    return Unavailable(f"The store fails at {path} ({why}).", reason=Reason.STORE_UNAVAILABLE)
