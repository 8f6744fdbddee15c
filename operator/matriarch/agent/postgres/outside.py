"""What the server that a replica cluster follows says about itself, by the replication protocol alone.

A role that may replicate needs no right on any database there, and these commands work the same on any PostgreSQL.
"""

from __future__ import annotations

from matriarch.agent.postgres import tools
from matriarch.agent.postgres.copying import Copying
from matriarch.decide.source import Source
from matriarch.errors import Unavailable
from matriarch.postgres.conninfo import Upstream
from matriarch.postgres.outside import replication_conninfo
from matriarch.postgres.timeline import parse_history


class Outside(Copying):
    async def identify(self, source: Upstream, *, timeout: float = 15.0) -> Source:
        """The system, and the line of its present timeline. Raises Unavailable, with the server's or libpq's words."""
        present = await self._source_keys()
        conninfo = replication_conninfo(source, purpose="look", folder=str(self.paths.source_keys), present=present)
        words = (await self._ask(conninfo, "IDENTIFY_SYSTEM", source, timeout)).split("|")
        try:
            identifier, timeline = str(int(words[0])), int(words[1])
            if timeline == 1:
                return Source(identifier, timeline)
            _, bar, text = (await self._ask(conninfo, f"TIMELINE_HISTORY {timeline}", source, timeout)).partition("|")
            line = parse_history(timeline, text)
        except (IndexError, ValueError) as e:
            msg = f"{source.hostname} answers like no PostgreSQL: {e}"
            raise Unavailable(msg) from e
        if not bar or not line:
            msg = f"{source.hostname} has no history of its timeline {timeline}"
            raise Unavailable(msg)
        return Source(identifier, timeline, line)

    async def _ask(self, conninfo: str, command: str, source: Upstream, timeout: float) -> str:
        argv = [self._tool("psql"), "-XAtq", "--no-password", "-c", command, conninfo]
        done = await tools.run(argv, timeout=timeout)
        if done.status != 0:
            msg = f"{source.hostname} port {source.port} does not answer: {done.complaint}"
            raise Unavailable(msg)
        return done.out
