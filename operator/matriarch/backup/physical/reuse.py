"""What a restore need not fetch: bytes that another data directory has already.

A pack stays in the store when that directory has every wanted piece of it, by the SHA-256 that the map has: times and
sizes lie, and a page's LSN is the same on two timelines. The directory may be a running server's, or damaged, and is
not trusted to stand still. So what is compared is never read a second time: it is the very memory that was written, or,
where the file system can share the extents of two files, what lies in the new file after it did. What turned out wrong
is in the new file then, and the pack, fetched after all, overwrites every byte of it.

Whatever can't be read there (gone, short, no file, behind a symbolic link, an error of its disk) is fetched. The
directory is only read.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from matriarch.backup.jobspec import Reason
from matriarch.backup.physical.contents import Piece
from matriarch.backup.physical.merge import Place, Source, Span, spans
from matriarch.backup.physical.objects import FRAME
from matriarch.backup.physical.writing import Writer
from matriarch.errors import Refused

CLONE = 256 << 10  # bytes from which on extents are shared; many small ones would make a file slow to read

_ROOT = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FOLDER = _ROOT | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # of a pipe nobody has to be the other end
_FICLONERANGE = 0x4020940D  # linux/fs.h
_NEVER = {errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EXDEV, errno.EPERM}


def refuse(old: Path, new: Path) -> None:
    """Raises Refused for a directory that can't be what `new` takes files from."""
    try:
        os.close(os.open(old, _ROOT))
    except OSError as error:
        raise Refused(
            f"{old} is no directory from which files could be taken ({error.strerror}); name a data directory, or "
            "none.",
            reason=Reason.BAD_SPEC,
        ) from None
    there, here = old.resolve(), new.resolve()
    if there.is_relative_to(here) or here.is_relative_to(there):
        raise Refused(
            f"{old} can't be both read and filled: it is {new}, or one lies in the other; restore into a directory "
            "beside it.",
            reason=Reason.BAD_SPEC,
        )


class Old:
    """The other directory."""

    def __init__(self, root: int) -> None:
        self._root, self._clones = root, True

    def open(self, path: str) -> int | None:
        """A regular file, by folders none of which is a symbolic link."""
        *folders, name = path.split("/")
        with contextlib.ExitStack() as held:
            here = self._root
            try:
                for folder in folders:
                    here = os.open(folder, _FOLDER, dir_fd=here)
                    held.callback(os.close, here)
                fd = os.open(name, _FILE, dir_fd=here)
            except OSError:
                return None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            return None
        return fd

    def reaches(self, path: str, end: int) -> bool:
        fd = self.open(path)
        if fd is None:
            return False
        try:
            return os.fstat(fd).st_size >= end
        except OSError:
            return False
        finally:
            os.close(fd)

    def clone(self, fd: int, into: int, span: Span) -> bool:
        """Share the extents. False where it can't be done: then nothing was."""
        if not self._clones:
            return False
        try:
            fcntl.ioctl(into, _FICLONERANGE, struct.pack("=qQQQ", fd, span.offset, span.size, span.offset))
        except OSError as error:
            # Other errors are of this range alone, and an error of the new file shows when it is written.
            self._clones = error.errno not in _NEVER
            return False
        return True


@contextlib.contextmanager
def opened(directory: Path | None) -> Iterator[Old | None]:
    """None where there is none, also when it went away."""
    try:
        root = os.open(directory, _ROOT) if directory is not None else None
    except OSError:
        root = None
    if root is None:
        yield None
        return
    try:
        yield Old(root)
    finally:
        os.close(root)


def take(old: Old, source: Source, writer: Callable[[Piece, Place], Writer], check: Callable[[], None]) -> int | None:
    """Write all that is wanted of the pack; how many bytes. None: fetch it.

    `check` raises when the restore is to end. Raises OSError of the new directory alone.
    """
    wanted = [(piece, source.places[piece.at]) for _, piece in source.pieces if piece.at in source.places]
    if not all(old.reaches(place.file.path, piece.end) for piece, place in wanted):
        return None
    buffer, taken = memoryview(bytearray(FRAME)), 0
    for piece, place in wanted:
        fd = old.open(place.file.path)
        if fd is None:
            return None
        try:
            if not _take_piece(old, fd, piece, place, writer, buffer, check):
                return None
        finally:
            os.close(fd)
        taken += sum(span.size for span in spans(piece, place))
    return taken


def _take_piece(
    old: Old,
    fd: int,
    piece: Piece,
    place: Place,
    writer: Callable[[Piece, Place], Writer],
    buffer: memoryview,
    check: Callable[[], None],
) -> bool:
    to, digest, good = writer(piece, place), hashlib.sha256(), False
    try:
        for part in parts(piece, place, os.fstatvfs(to.fd).f_bsize):
            cloned = part.clone and old.clone(fd, to.fd, part.span)
            position = part.span.at
            for data in _read(to.fd if cloned else fd, part.span, buffer):
                check()
                digest.update(data)
                if not cloned:
                    to.write(data, position)
                position += len(data)
            if position < part.span.at + part.span.size:
                return False
        good = digest.hexdigest() == piece.sha256
        return good
    finally:
        to.close(good=good)


def _read(fd: int, span: Span, buffer: memoryview) -> Iterator[memoryview]:
    """Less than the span where the file ends or can't be read: extents that are shared are the other directory's."""
    done = 0
    while done < span.size:
        try:
            count = os.preadv(fd, [buffer[: span.size - done]], span.offset + done)
        except OSError:
            return
        if not count:
            return
        yield buffer[:count]
        done += count


@dataclass(frozen=True, slots=True)
class Part:
    """Of a piece; `clone`: its extents may be shared."""

    span: Span
    clone: bool


def parts(piece: Piece, place: Place, block: int) -> Iterator[Part]:
    """All of the piece in its order, for the digest is of all of it, whatever of it is wanted. Pure.

    `block` is the file system's, in bytes. Only whole blocks of pieces that are wanted whole are shared: of the others
    some pages are another pack's, which may be there already.
    """
    whole = spans(piece, Place(place.file, sys.maxsize))
    alone = spans(piece, place) == whole
    for span in whole:
        begin = -(-span.offset // block) * block - span.offset
        end = (span.offset + span.size) // block * block - span.offset
        if not alone or end - begin < CLONE:
            yield Part(span, clone=False)
            continue
        for start, stop, clone in ((0, begin, False), (begin, end, True), (end, span.size, False)):
            if start < stop:
                yield Part(Span(span.at + start, stop - start, span.offset + start), clone)
