"""Data that a Restore in place brought, beside the data that it replaces.

    pgdata.restored-UID   complete, with its mark, and of no account until the Lease says so
    pgdata                what counts
    pgdata.before-UID     what counted before, kept until somebody confirms that nobody needs it

The Restore's Job makes the first of them and touches no other. The exchange is two renames, and between them there is
no `pgdata`: the Lease goes on asking for that very data, so the next agent takes the second step.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from matriarch.agent.postgres import files
from matriarch.agent.postgres.base import DISK
from matriarch.agent.postgres.datadir import DataDirectory
from matriarch.errors import Refused
from matriarch.postgres.restored import BEFORE, MARK, RESTORED, restored_by


class Replacing(DataDirectory):
    async def filled_by(self) -> str:
        """uid of the Restore that made this data; empty for any other."""
        return await files.in_thread(DISK, _mark, self.paths.pgdata)

    async def beside(self) -> tuple[str, ...]:
        """uids of the Restores whose data lies whole beside that of this instance."""
        return await files.in_thread(DISK, self._beside)

    def _beside(self) -> tuple[str, ...]:
        return tuple(uid for uid, path in self._named(RESTORED) if _mark(path) == uid)

    async def brought(self) -> tuple[str, ...]:
        """uids of the Restores of which anything lies beside the data, whole or not."""
        return await files.in_thread(DISK, lambda: tuple(uid for uid, _ in self._named(RESTORED)))

    async def kept(self) -> tuple[str, ...]:
        """uids of the Restores whose replaced data is still here."""
        return await files.in_thread(DISK, lambda: tuple(uid for uid, _ in self._named(BEFORE)))

    async def exchange(self, restore: str) -> None:
        """The data of that Restore takes the place of what is here, which is kept. Refused where it is not complete, or
        while a server runs. Whatever interrupts it, it can be called again."""
        await self._assert_stopped("exchange its data")
        await self._end_strays()
        await files.in_thread(DISK, self._exchange, restore)
        self._stream = None

    def _exchange(self, restore: str) -> None:
        waiting, kept = self._folder(RESTORED + restore), self._folder(BEFORE + restore)
        if _mark(waiting) != restore:
            raise Refused(f"{waiting} is not the whole of what Restore {restore} brought", reason="NoRestoredData")
        if self.paths.pgdata.exists():
            if kept.exists():
                raise Refused(f"{kept} is there already, so {self.paths.pgdata} stays", reason="DataDirectoryExists")
            files.rename_durably(self.paths.pgdata, kept)
        files.remove_durably(self._folder("rewinding"))  # it spoke of what is kept now
        files.rename_durably(waiting, self.paths.pgdata)

    async def forget(self, kept: Collection[str], waiting: Collection[str], *, timeout: float = 600.0) -> None:
        """Removes the data that the Restores in `kept` replaced, and what those in `waiting` brought in vain."""
        await files.in_thread(timeout, self._forget, kept, waiting)

    def _forget(self, kept: Collection[str], waiting: Collection[str]) -> None:
        for uid, path in self._named(BEFORE):
            if uid in kept:
                files.remove_tree(path)
        for uid, path in self._named(RESTORED):
            if uid in waiting:
                (path / MARK).unlink(missing_ok=True)  # first: what is half removed is never whole
                files.remove_tree(path)

    def _named(self, kind: str) -> list[tuple[str, Path]]:
        begin = f"{self.paths.pgdata.name}.{kind}"
        found = self.paths.volume.glob(f"{begin}*")
        return sorted((path.name.removeprefix(begin), path) for path in found)


def _mark(directory: Path) -> str:
    try:
        return restored_by((directory / MARK).read_text())
    except FileNotFoundError:
        return ""
