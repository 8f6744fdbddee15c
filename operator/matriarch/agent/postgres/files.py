"""Files that survive a crash as the old content or the new one, and never wait longer than the caller.

Everything here blocks on a disk; `in_thread` keeps that out of the event loop and gives it an end.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from matriarch.agent.reserve import Reserve
from matriarch.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")

RESERVE: Reserve | None = None
"""The agent's own room on the volume, once it has said where that is: its small files fit on a full one too."""


@asynccontextmanager
async def ends_within(timeout: float, otherwise: str) -> AsyncIterator[None]:
    """Bounds the block; past `timeout` seconds it raises Unavailable with `otherwise`."""
    try:
        async with asyncio.timeout(timeout):
            yield
    except TimeoutError:
        msg = f"{otherwise} within {timeout:g} s"
        raise Unavailable(msg) from None


async def in_thread(timeout: float, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`call(*args)` off the event loop. Raises Unavailable after `timeout` s; the thread itself cannot be ended."""
    async with ends_within(timeout, "the disk did not answer"):
        return await asyncio.to_thread(call, *args, **kwargs)


def write_durably(path: Path, content: str | bytes, mode: int = 0o600, *, flush: bool = True) -> bool:
    """Atomic and durable; False without touching the file when it holds `content` already.

    Without `flush` the file is whole for whoever reads it, and a crash of the machine may leave the old content or an
    empty file: only for what is written anew before it counts again.
    """
    if RESERVE is None:
        return _write_once(path, content, mode, flush=flush)
    return RESERVE.with_room(lambda: _write_once(path, content, mode, flush=flush))


def _write_once(path: Path, content: str | bytes, mode: int, *, flush: bool) -> bool:
    data = content.encode() if isinstance(content, str) else content
    try:
        if path.read_bytes() == data and path.stat().st_mode & 0o777 == mode:
            return False
    except FileNotFoundError:
        pass
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), mode)
        if flush:
            os.fsync(file.fileno())
    temporary.replace(path)
    if flush:
        fsync_folder(path.parent)
    return True


def remove_durably(path: Path) -> bool:
    """False when it was not there."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    fsync_folder(path.parent)
    return True


def rename_durably(old: Path, new: Path) -> None:
    old.rename(new)
    fsync_folder(new.parent)


def remove_tree(path: Path) -> None:
    """Nothing happens when it is not there; a half-removed tree can be removed again."""
    if path.exists():
        shutil.rmtree(path, onerror=_unless_gone)
        fsync_folder(path.parent)


def _unless_gone(_call: object, _path: str, raised: tuple[type[BaseException], BaseException, object]) -> None:
    """A process that is ending may remove its own files meanwhile."""
    if not isinstance(raised[1], FileNotFoundError):
        raise raised[1]


def fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
