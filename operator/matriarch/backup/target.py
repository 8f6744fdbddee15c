"""The server a restore writes to: what it must be like, and the one step in which restored databases take their places.

Databases are filled under temporary names. The switch renames all of them, and records that this restore is done, in a
single transaction of the database `postgres`: after a crash it has happened for all databases or for none.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from matriarch.backup.databases import REPLACED, TEMPORARY
from matriarch.backup.fingerprint import literal, quote
from matriarch.backup.jobresult import RestoreResult
from matriarch.backup.jobspec import Reason
from matriarch.backup.jsonclass import decode, encode
from matriarch.backup.server import Session
from matriarch.errors import Refused, Unavailable

_LOCK = 0x6D61_7472_6961_7263  # "matriarc": one restore at a time on a server
_LOCK_WAIT = 100.0  # seconds; a vanished Job's session is gone by then (tcp keepalives)
_SWITCH_WAIT = 60.0  # seconds to end the application's sessions


@dataclass(frozen=True, slots=True)
class Place:
    """One database of the backup and its names in the target."""

    name: str
    temporary: str
    old: str  # the name a replaced database gets
    replaces: bool
    connection_limit: int


def names_for(restore_id: str, name: str, index: int) -> tuple[str, str]:
    """Temporary name and the replaced database's name, the same for every attempt of one restore."""
    short = hashlib.sha256(restore_id.encode()).hexdigest()[:10]
    kept = name.encode()[: 63 - len("_before_") - 10].decode(errors="ignore")
    return f"{TEMPORARY}{short}_{index}", f"{kept}_before_{short}"


async def lock(session: Session) -> None:
    """Hold the server for one restore, as long as the session lives. Raises Unavailable (TargetUnavailable)."""
    waited = 0.0
    while not await session.fetchval("SELECT pg_catalog.pg_try_advisory_lock($1)", _LOCK):
        if waited >= _LOCK_WAIT:
            raise Unavailable("Another restore is at work on this server.", reason=Reason.TARGET_UNAVAILABLE)
        await asyncio.sleep(2)
        waited += 2


async def finished(session: Session, restore_id: str) -> RestoreResult | None:
    """The result of an attempt that already switched."""
    try:
        text = await session.fetchval("SELECT result::text FROM matriarch.restores WHERE id = $1", restore_id)
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        return None
    return None if text is None else decode(RestoreResult, json.loads(text))


async def holds_something(session: Session) -> str | None:
    """A thing of the user's in this database, for a message; None when it is as good as new."""
    found: str | None = await session.fetchval("""
        SELECT format('%s.%s', n.nspname, c.relname) FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass
                          AND d.objid = c.oid AND d.deptype = 'e')
        UNION ALL
        SELECT format('%s.%s()', n.nspname, p.proname) FROM pg_catalog.pg_proc p
        JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_proc'::regclass
                          AND d.objid = p.oid AND d.deptype = 'e')
        UNION ALL
        SELECT format('large object %s', oid) FROM pg_catalog.pg_largeobject_metadata
        LIMIT 1
    """)
    return found


async def drop(session: Session, names: Sequence[str]) -> None:
    for name in names:
        await session.execute(f"DROP DATABASE IF EXISTS {quote(name)} WITH (FORCE)")


async def switch(session: Session, places: Sequence[Place], restore_id: str, result: RestoreResult) -> None:
    """Put every restored database in its place, atomically.

    The application's sessions on replaced databases are ended and new ones refused from here on, until it is done or
    has failed. Raises Unavailable (TargetUnavailable) with everything as it was before.
    """
    await session.execute(
        "CREATE SCHEMA IF NOT EXISTS matriarch; CREATE TABLE IF NOT EXISTS matriarch.restores "
        "(id text PRIMARY KEY, finished timestamptz NOT NULL DEFAULT now(), result jsonb NOT NULL)"
    )
    replaced = [p for p in places if p.replaces]
    try:
        for place in replaced:
            await session.execute(f"ALTER DATABASE {quote(place.name)} ALLOW_CONNECTIONS false")
        await _rename(session, places, restore_id, result)
    except BaseException:
        # The renames are undone or never were: open the doors again, also when we are being cancelled.
        await asyncio.shield(_open_again(session, [p.name for p in replaced]))
        raise


async def _rename(session: Session, places: Sequence[Place], restore_id: str, result: RestoreResult) -> None:
    waited = 0.0
    while True:
        await session.fetch(
            "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity "
            "WHERE datname = ANY($1) AND pid <> pg_catalog.pg_backend_pid()",
            [n for p in places for n in (p.name, p.temporary)],
        )
        try:
            async with session.transaction():
                for p in places:
                    if p.replaces:
                        await session.execute(f"ALTER DATABASE {quote(p.name)} RENAME TO {quote(p.old)}")
                    await session.execute(f"ALTER DATABASE {quote(p.temporary)} RENAME TO {quote(p.name)}")
                    await session.execute(f"ALTER DATABASE {quote(p.name)} CONNECTION LIMIT {p.connection_limit}")
                await session.execute(
                    "INSERT INTO matriarch.restores (id, result) VALUES ($1, $2::jsonb)",
                    restore_id,
                    json.dumps(encode(result)),
                )
            return
        except asyncpg.ObjectInUseError as error:
            waited += 5  # PostgreSQL itself waits for 5 s before it says so
            if waited >= _SWITCH_WAIT:
                raise Unavailable(
                    f"The database stays in use, so that it can't be replaced: {error}. Its prepared transactions and "
                    "sessions have to end first.",
                    reason=Reason.TARGET_UNAVAILABLE,
                ) from error


async def _open_again(session: Session, names: Sequence[str]) -> None:
    for name in names:
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
            await session.execute(f"ALTER DATABASE {quote(name)} ALLOW_CONNECTIONS true")


async def reopen_interrupted(session: Session, names: Sequence[str]) -> None:
    """What an attempt left closed that was killed in its switch."""
    rows = await session.fetch(
        "SELECT datname FROM pg_catalog.pg_database WHERE datname = ANY($1) AND NOT datallowconn", list(names)
    )
    await _open_again(session, [r["datname"] for r in rows])


async def settle(session: Session, places: Sequence[Place], restore_id: str, *, keep: bool) -> tuple[str, ...]:
    """After the switch: drop or keep the replaced databases. Returns the names of those that are still there."""
    there: list[str] = []
    for place in places:
        if not await session.fetchval("SELECT true FROM pg_catalog.pg_database WHERE datname = $1", place.old):
            continue
        if not keep:
            try:
                await session.execute(f"DROP DATABASE {quote(place.old)} WITH (FORCE)")
                continue
            except asyncpg.PostgresError:  # a replication slot in use: the restore is none the worse for it
                pass
        await session.execute(f"COMMENT ON DATABASE {quote(place.old)} IS {literal(REPLACED + restore_id)}")
        await session.execute(f"ALTER DATABASE {quote(place.old)} CONNECTION LIMIT 0")
        await session.execute(f"ALTER DATABASE {quote(place.old)} ALLOW_CONNECTIONS true")
        there.append(place.old)
    return tuple(there)


async def roles(session: Session) -> set[str]:
    return {r[0] for r in await session.fetch("SELECT rolname FROM pg_catalog.pg_roles")}


async def drop_roles(session: Session, names: set[str]) -> None:
    """Those that a failed restore made; whatever they own by now keeps them."""
    for name in sorted(names):
        with contextlib.suppress(asyncpg.PostgresError):
            await session.execute(f"DROP ROLE {quote(name)}")


def refuse_filled(name: str, thing: str) -> Refused:
    return Refused(
        f"Database {name} of the target is not empty (it holds {thing}); restore into a new cluster, or in place.",
        reason=Reason.TARGET_NOT_EMPTY,
    )
