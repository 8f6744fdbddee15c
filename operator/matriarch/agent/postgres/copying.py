"""A data directory from another server: cloned whole, or rewound to where the timelines parted.

Either leaves what was there before or a directory that can be started as a standby, whenever it is killed.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from matriarch.agent.postgres import files, streamkey, tools
from matriarch.agent.postgres.base import DISK
from matriarch.agent.postgres.care import Care
from matriarch.agent.postgres.facts import CloneProgress, RewindResult
from matriarch.errors import Corrupt, Refused, Unavailable
from matriarch.postgres.conninfo import CLONE_ROLE, REWIND_ROLE, Upstream, tool_conninfo
from matriarch.postgres.outside import source_tool_conninfo

_PROGRESS = re.compile(r"(\d+)/(\d+) kB")  # both tools: `12345/67890 kB (18%)`

Progress = Callable[[CloneProgress], None]


class Copying(Care):
    async def clone(
        self, source: Upstream, *, progress: Progress | None = None, keep_old: bool = True, stall: float = 120.0
    ) -> None:
        """A base backup of `source`, checked against its manifest, in place of the present directory.

        A member's slot must exist there already: it keeps the WAL that this copy will ask for. Starting over is safe
        at any moment. The present directory stays until the copy is good, or goes first with keep_old=False, where a
        volume cannot hold both. Refused while a server runs; Unavailable after `stall` seconds without progress;
        Corrupt when the copy is not what the source sent.
        """
        await self._assert_stopped("clone")
        await self._end_strays()
        await files.in_thread(DISK, streamkey.copy_tls, self.paths)
        new = self._folder("new")
        await files.in_thread(stall, files.remove_tree, new)
        if not keep_old:
            await files.in_thread(stall, files.remove_tree, self.paths.pgdata)
        conninfo = await self._conninfo(source, role=CLONE_ROLE, database=None, purpose="clone")
        copy = [
            self._tool("pg_basebackup"), f"--pgdata={new}", f"--dbname={conninfo}", "--wal-method=stream",
            "--checkpoint=fast", "--progress", "--no-password", f"--label=clone of {self.identity.instance}",
        ]  # fmt: skip
        done = await tools.run(copy, stall=stall, on_line=_reporter("copy", progress))
        if done.status != 0:
            msg = f"{source.instance} could not be cloned: {done.complaint}"
            raise Unavailable(msg)
        verify = [self._tool("pg_verifybackup"), "--progress", str(new)]
        done = await tools.run(verify, stall=stall, on_line=_reporter("verify", progress))
        if done.status != 0:
            msg = f"the clone of {source.instance} is damaged: {done.complaint}"
            raise Corrupt(msg)
        # pg_basebackup has synced it all; from this rename on the copy counts
        await files.in_thread(DISK, files.rename_durably, new, self._folder("ready"))
        self._stream = None
        self._as_primary = False
        await files.in_thread(stall, self._complete_renames)

    async def rewind(self, source: Upstream, *, timeout: float = 300.0) -> RewindResult:
        """Takes back what was written here past the point where the source's timeline began.

        pg_rewind is tried dry first; once it has begun to change files, anything but its success leaves a directory
        that no start accepts, and that must be cloned. Refused while a server runs.
        """
        await self._assert_stopped("rewind")
        await self._end_strays()
        marker = self._folder("rewinding")
        if await files.in_thread(DISK, marker.exists):
            return RewindResult(done=False, unusable=True, reason="an earlier rewind did not finish")
        async with files.ends_within(timeout, "the old primary was not rewound"):
            if not await self._make_clean(timeout):
                return RewindResult(done=False, reason="the data directory could not be shut down cleanly")
            await files.in_thread(DISK, streamkey.copy_tls, self.paths)
            conninfo = await self._conninfo(source, role=REWIND_ROLE, database="postgres", purpose="rewind")
            argv = [
                self._tool("pg_rewind"), f"--target-pgdata={self.paths.pgdata}", f"--source-server={conninfo}",
                "--no-ensure-shutdown",
            ]  # fmt: skip
            dry = await tools.run([*argv, "--dry-run"], timeout=timeout)
            if dry.status != 0:
                return RewindResult(done=False, reason=dry.complaint)
            await files.in_thread(DISK, files.write_durably, marker, f"from {source.instance}\n")
            self._stream = None
            done = await tools.run(argv, timeout=timeout)
            if done.status != 0:
                return RewindResult(done=False, unusable=True, reason=done.complaint)
            await files.in_thread(DISK, files.remove_durably, marker)
            return RewindResult(done=True)

    async def _conninfo(self, source: Upstream, *, role: str, database: str | None, purpose: str) -> str:
        if not source.outside:
            return tool_conninfo(source, role=role, database=database, purpose=purpose, tls_folder=str(self.paths.tls))
        present = await self._source_keys()
        return source_tool_conninfo(
            source, purpose=purpose, folder=str(self.paths.source_keys), present=present, database=database
        )

    async def _source_keys(self) -> tuple[str, ...]:
        """What there is to open the source with, copied anew. Raises Unavailable for what cannot be used."""
        try:
            present, _ = await files.in_thread(DISK, streamkey.copy_source_keys, self.paths)
        except ValueError as e:
            raise Unavailable(str(e)) from e
        return present

    async def _make_clean(self, timeout: float) -> bool:
        """pg_rewind needs a directory that was shut down in order: replay what is there, as a standby of nobody."""
        control = await self.control_data()
        if control is None:
            msg = f"there is no database in {self.paths.pgdata} to rewind"
            raise Refused(msg, reason="NoDataDirectory")
        if control.clean:
            return True
        await self.start_standby(None, timeout=timeout)
        if not await self.stop("fast", timeout):
            await self.stop("immediate", timeout)
            return False
        control = await self.control_data()
        return control is not None and control.clean


def _reporter(step: str, progress: Progress | None) -> Callable[[str], None] | None:
    if progress is None:
        return None

    def report(line: str) -> None:
        if (match := _PROGRESS.search(line)) is not None:
            progress(CloneProgress(step, int(match[1]) * 1024, int(match[2]) * 1024))

    return report
