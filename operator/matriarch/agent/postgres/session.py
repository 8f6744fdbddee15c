"""SQL sessions of the agent: over the local socket, as the superuser, never waiting for voters.

A session that timed out is thrown away, for nobody knows what it still does. The one that is kept serves the small
questions of every round; whatever may wait gets a session of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg

from matriarch.errors import Unavailable

AGENT_APPLICATION = "matriarch"

# Given with the connection, these win over ALTER ROLE and ALTER DATABASE settings.
_SETTINGS = {
    "application_name": AGENT_APPLICATION,
    "synchronous_commit": "local",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    "search_path": "pg_catalog",
    "row_security": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "10s",
    "client_min_messages": "warning",
    # password verifiers pass here, and nobody wants to read of heartbeats
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "pg_stat_statements.track": "none",
}

_PREPARED = 20
"""The kept session asks the same few questions several times a second: planning them anew each time is most of what
they cost both sides. They read system views alone, whose columns stay as they are."""

_ERRORS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class Sessions:
    """Sessions with the server whose socket is `<socket_dir>/.s.PGSQL.<port>`."""

    def __init__(self, socket_dir: Path, port: int = 5432) -> None:
        self.port = port
        self._socket_dir = socket_dir
        self._kept: asyncpg.Connection[asyncpg.Record] | None = None
        self._turn = asyncio.Lock()

    async def open(self, *, database: str = "postgres", **settings: str) -> asyncpg.Connection[asyncpg.Record]:
        """A new session; the caller sets the time limit, translates errors and closes it."""
        return await self._connect(database, settings, prepared=0)

    async def _connect(
        self, database: str, settings: Mapping[str, str], *, prepared: int
    ) -> asyncpg.Connection[asyncpg.Record]:
        return await asyncpg.connect(
            host=str(self._socket_dir),
            port=self.port,
            user="postgres",
            database=database,
            statement_cache_size=prepared,
            server_settings={**_SETTINGS, **settings},
        )

    @asynccontextmanager
    async def new(
        self, what: str, timeout: float, *, database: str = "postgres", **settings: str
    ) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """A new session for the length of the block, which `timeout` s bound. Any failure is Unavailable."""
        connection = None
        try:
            async with asyncio.timeout(timeout):
                connection = await self.open(database=database, **settings)
                yield connection
                await connection.close()
        except _ERRORS as error:
            raise _unavailable(what, error, timeout) from error
        finally:
            if connection is not None and not connection.is_closed():
                connection.terminate()

    async def fetch(self, what: str, query: str, *args: Any, timeout: float) -> list[asyncpg.Record]:
        """One query in the kept session, which is opened at need. Any failure is Unavailable and ends it."""
        try:
            async with asyncio.timeout(timeout), self._turn:
                connection = self._kept
                if connection is None or connection.is_closed():
                    connection = self._kept = await self._connect("postgres", {}, prepared=_PREPARED)
                try:
                    return await connection.fetch(query, *args)
                except BaseException:
                    # close() does not wait for its turn: by now another session may be the kept one
                    connection.terminate()
                    if self._kept is connection:
                        self._kept = None
                    raise
        except _ERRORS as error:
            raise _unavailable(what, error, timeout) from error

    async def fetchrow(self, what: str, query: str, *args: Any, timeout: float) -> asyncpg.Record:
        """The only row of a query that gives exactly one."""
        return (await self.fetch(what, query, *args, timeout=timeout))[0]

    async def close(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None and not kept.is_closed():
            with suppress(*_ERRORS):
                async with asyncio.timeout(0.2):
                    await kept.close()
            if not kept.is_closed():
                kept.terminate()


def _unavailable(what: str, error: BaseException, timeout: float) -> Unavailable:
    why = f"no answer within {timeout:g} s" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    return Unavailable(f"PostgreSQL could not be asked ({what}): {why}")
