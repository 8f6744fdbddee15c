"""Gives a recovery its WAL: the file that is asked for, and meanwhile those that follow.

A file is complete, proven and synced in the spool folder before PostgreSQL's restore_command hears of it; that command
then moves it into its place. The spool lies outside pg_wal, where pg_rewind and PostgreSQL would meet half a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from matriarch.archive.names import WalName, following, parse
from matriarch.archive.vault import Vault
from matriarch.errors import MatriarchError, Unavailable
from matriarch.postgres.lsn import SEGMENT_SIZE

log = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE = 300.0  # seconds that a store may be away before the recovery is stopped


@dataclass(frozen=True, slots=True)
class Fetched:
    """`missing` is said only after the store itself said so."""

    word: Literal["ok", "missing", "no"]
    text: str


class Fetcher:
    """`open_vault` is called at the first request, in a thread; `own_system` at each, and raises when the files of the
    vault are not for the data that is here any more. At most `prefetch` bytes lie in the spool."""

    def __init__(
        self,
        open_vault: Callable[[], Vault],
        own_system: Callable[[], object],
        spool: Path,
        *,
        prefetch: int,
        parallel: int = 4,
        patience: float = PATIENCE,
    ) -> None:
        self._open_vault, self._own_system, self._spool = open_vault, own_system, spool
        self._ahead = max(0, prefetch // SEGMENT_SIZE)
        self._patience = patience
        self._vault: Vault | None = None
        self._under_way: dict[str, asyncio.Task[bool]] = {}
        self._slots = asyncio.Semaphore(parallel)
        self._threads = ThreadPoolExecutor(parallel + 1, thread_name_prefix="fetch")
        self._ready = False

    async def fetch(self, text: str) -> Fetched:
        name = parse(text)
        if name is None:
            return Fetched("no", f"{text} is no name of a file that is archived")
        end, pause = time.monotonic() + self._patience, 0.5
        while True:
            try:
                found = await self._get(name)
            except Unavailable as error:
                log.warning("%s: %s", name, error)
                if time.monotonic() + pause > end:
                    return Fetched("no", str(error))
                await asyncio.sleep(pause)
                pause = min(2 * pause, 10.0)
                continue
            except MatriarchError as error:
                log.error("%s: %s", name, error)
                return Fetched("no", str(error))
            if not found:
                return Fetched("missing", f"{name} is not in the archive")
            if name.kind == "segment":
                await self._look_ahead(name)
            return Fetched("ok", str(self._spool / name.text))

    async def _get(self, name: WalName) -> bool:
        await self._prepare()
        await self._in_thread(self._own_system)
        if (self._spool / name.text).exists() and name.text not in self._under_way:
            return True
        return await asyncio.shield(self._begin(name))

    def _begin(self, name: WalName) -> asyncio.Task[bool]:
        task = self._under_way.get(name.text)
        if task is None:
            task = asyncio.create_task(self._download(name))
            self._under_way[name.text] = task
            task.add_done_callback(lambda done: self._ended(name, done))
        return task

    def _ended(self, name: WalName, done: asyncio.Task[bool]) -> None:
        self._under_way.pop(name.text, None)
        if not done.cancelled() and (error := done.exception()) is not None:
            log.info("%s: %s", name, error)  # whoever waits for it gets it too; read ahead it is tried again when asked

    async def _download(self, name: WalName) -> bool:
        async with self._slots:
            return await self._in_thread(lambda: self._place(name))

    def _place(self, name: WalName) -> bool:
        assert self._vault is not None
        data = self._vault.get(name)
        if data is None:
            return False
        part = self._spool / f".{name.text}.{secrets.token_hex(4)}"
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.chmod(0o600)
            part.replace(self._spool / name.text)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise Unavailable(f"{name} cannot be written to {self._spool}: {error.strerror}") from None
        return True

    async def _look_ahead(self, name: WalName) -> None:
        """Begin with the segments after `name`; what lies in the spool besides is of a path that was left."""
        wanted = following(name, self._ahead)
        keep = {n.text for n in (name, *wanted)}
        for file in await self._in_thread(lambda: sorted(self._spool.iterdir())):
            if file.name not in keep and not file.name.startswith("."):
                with contextlib.suppress(OSError):
                    file.unlink()
        for following_one in wanted:
            if following_one.text not in self._under_way and not (self._spool / following_one.text).exists():
                self._begin(following_one)

    async def _prepare(self) -> None:
        if not self._ready:
            await self._in_thread(lambda: _empty(self._spool))
            self._ready = True
        if self._vault is None:
            self._vault = await self._in_thread(self._open_vault)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def _empty(folder: Path) -> None:
    """What an earlier process left was proven then, but nobody knows what happened to it since."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in folder.iterdir():
            file.unlink()
    except OSError as error:
        raise Unavailable(f"the folder {folder} cannot be used: {error.strerror}") from None
