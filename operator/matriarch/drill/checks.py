"""What is asked of a restored instance: that it holds something, that its files are sound, and the user's questions."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from matriarch.backup import amcheck as pg_amcheck
from matriarch.backup.drillspec import Amcheck, DrillQuery
from matriarch.backup.fingerprint import find_tables, quote
from matriarch.backup.jobspec import Reason
from matriarch.backup.server import Session
from matriarch.backup.stop import Stop
from matriarch.drill.server import Throwaway
from matriarch.errors import Corrupt, Refused

OURS = "matriarch"  # schema of records that restores leave in the database postgres
_JOBS = 2
_SHOWN = 100  # characters of a value in a message
_AHEAD = 100  # rows of a query that are held at once
_LET_GO = 10.0  # seconds beyond a query's own limit


@dataclass(frozen=True, slots=True)
class Holds:
    databases: int
    tables: int


async def holds(place: Throwaway) -> Holds:
    """Count the user's tables. Raises Corrupt (EmptyBackup) when there is none: an empty server answers every question
    about its files."""
    session = await place.server.connect("postgres", name="matriarch drill")
    try:
        names = [
            r[0]
            for r in await session.fetch(
                "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn AND NOT datistemplate ORDER BY datname"
            )
        ]
    finally:
        await session.close(timeout=5)
    tables = 0
    for name in names:
        session = await place.server.connect(name, name="matriarch drill")
        try:
            tables += sum(1 for table in await find_tables(session) if table.schema != OURS)
        finally:
            await session.close(timeout=5)
    if tables == 0:
        raise Corrupt(
            "The restored server holds no table of yours: an empty server was backed up, or what was in it was lost "
            "before. Look at the cluster, and at the backups before this one.",
            reason=Reason.EMPTY_BACKUP,
        )
    return Holds(len(names), tables)


async def amcheck(place: Throwaway, how: Amcheck, stop: Stop) -> None:
    """Every table and B-tree index of every database. Raises Corrupt (VerificationFailed)."""
    options = ["--all", "--install-missing=pg_catalog", *(["--heapallindexed"] if how == "heapallindexed" else [])]
    await pg_amcheck.amcheck(options, place.server.environment(name="matriarch drill"), "what was restored", stop)


async def ask(place: Throwaway, queries: Sequence[DrillQuery]) -> None:
    """The user's questions, each in a read-only transaction of a role that may read everything and do nothing else.

    Raises Refused (QueryFailed) that names the query.
    """
    if not queries:
        return
    role = f"matriarch_drill_{secrets.token_hex(4)}"
    session = await place.server.connect("postgres", name="matriarch drill")
    try:
        await session.execute(f"CREATE ROLE {role} LOGIN BYPASSRLS IN ROLE pg_read_all_data, pg_monitor")
        there = {r[0] for r in await session.fetch("SELECT datname FROM pg_catalog.pg_database WHERE datallowconn")}
        for name in {q.database for q in queries} & there:
            await session.execute(f"GRANT CONNECT ON DATABASE {quote(name)} TO {role}")
            await session.execute(f"ALTER DATABASE {quote(name)} CONNECTION LIMIT -1")
    finally:
        await session.close(timeout=5)
    for query in queries:
        if query.database not in there:
            raise _failed(query, f"the backup has no database {query.database}")
        await _one(place, role, query)


async def _one(place: Throwaway, role: str, query: DrillQuery) -> None:
    limit = str(round(query.timeout * 1000))
    given = {"default_transaction_read_only": "on", "statement_timeout": limit, "application_name": "matriarch drill"}
    session: Session | None = None
    try:
        async with asyncio.timeout(query.timeout + _LET_GO):
            session = made = await asyncpg.connect(
                host=str(place.sockets),
                user=role,
                database=query.database,
                statement_cache_size=0,
                connection_class=Session,
                server_settings=given,
            )
            async with made.transaction(readonly=True):
                # Over what a database or a role was given with ALTER … SET.
                await made.execute(f"SET LOCAL statement_timeout = {limit}")
                why = await (_compare(made, query) if query.expect is not None else _true(made, query))
    except TimeoutError:
        raise _failed(query, f"it did not end within {query.timeout:g} s") from None
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        raise _failed(query, " ".join(str(error).split())[:300]) from error
    finally:
        if session is not None:
            with contextlib.suppress(Exception):
                await session.close(timeout=5)
    if why is not None:
        raise _failed(query, why)


async def _compare(session: Session, query: DrillQuery) -> str | None:
    text = query.sql.strip().rstrip(";")
    found = await session.fetchval(f"SELECT (\n{text}\n)::text")
    if found == query.expect:
        return None
    shown = "nothing" if found is None else f"{found[:_SHOWN]!r}"
    return f"it gave {shown} in place of {(query.expect or '')[:_SHOWN]!r}"


async def _true(session: Session, query: DrillQuery) -> str | None:
    statement = await session.prepare(query.sql.strip().rstrip(";"))
    columns = statement.get_attributes()
    boolean = len(columns) == 1 and columns[0].type.name == "bool"
    rows = 0
    if not columns:  # nothing that a cursor could read
        await statement.fetch()
        return None
    async for row in statement.cursor(prefetch=_AHEAD):
        rows += 1
        if boolean and row[0] is not True:
            return f"it gave {'nothing' if row[0] is None else 'false'} in place of true"
    return "it gave no row in place of true" if boolean and rows == 0 else None


def _failed(query: DrillQuery, why: str) -> Refused:
    return Refused(f"Query {query.name} failed on what was restored: {why}.", reason=Reason.QUERY_FAILED)
