"""A session with the primary, by the very way that pooled connections take: its loss is the first sign of a failover.

It comes as the pooler's role, which the primary lets in exactly while it lets clients in.
"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import NamedTuple

import asyncpg

from matriarch.errors import Unavailable
from matriarch.postgres.pgbouncer import LOOKUP_DATABASE, POOLER_ROLE

CONNECT = 1.0
"""Seconds for one attempt: it must not outlast a failover by much."""

_WHO = """
SELECT current_setting('cluster_name') AS instance, pg_postmaster_start_time()::text AS started,
       pg_is_in_recovery() AS standby, host(inet_server_addr()) AS address
"""
_ERRORS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class Identity(NamedTuple):
    """Which server, and which life of it: after a restart it is another one."""

    instance: str
    started: str


class Sentinel:
    """An idle session. `lost` is set when it ended, however it did."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], identity: Identity, address: str) -> None:
        self.identity = identity
        self.address = address
        self.lost = asyncio.Event()
        self._connection = connection
        connection.add_termination_listener(lambda _: self.lost.set())
        if connection.is_closed():
            self.lost.set()

    def close(self) -> None:
        """End it; whoever waits for its loss is told."""
        self.lost.set()
        self._connection.terminate()


async def meet(host: str, tls: Path, *, port: int = 5432) -> Sentinel:
    """A new session with a server that takes writes. Raises Unavailable."""
    connection = None
    try:
        async with asyncio.timeout(CONNECT):
            connection = await asyncpg.connect(
                host=host,
                port=port,
                user=POOLER_ROLE,
                database=LOOKUP_DATABASE,
                ssl=_context(tls),
                statement_cache_size=0,
                server_settings={"application_name": "matriarch_pooler", "idle_session_timeout": "0"},
            )
            row = await connection.fetchrow(_WHO)
        assert row is not None
        if row["standby"]:
            raise Unavailable(f"{row['instance']} is a standby")
    except _ERRORS as e:
        if connection is not None:
            connection.terminate()
        raise Unavailable(f"{host}: {type(e).__name__} {e}") from e
    except BaseException:
        if connection is not None:
            connection.terminate()
        raise
    return Sentinel(connection, Identity(row["instance"], row["started"]), row["address"])


def _context(tls: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(tls / "ca.crt")
    context.load_cert_chain(tls / "tls.crt", tls / "tls.key")
    return context
