"""One database into the SQL text: pg_dump and the fingerprint, both in one exported snapshot.

The session that exports the snapshot stays open for the whole dump and holds ACCESS SHARE on every table from before
pg_dump starts. What pg_dump writes and what the manifest says is therefore one state, or the dump fails; also on a
standby, and also when that standby is promoted in between. Rows are counted and hashed as they go by (copytext); where
that is in doubt the session counts the table, or reads it again and hashes it in the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import asyncpg

from matriarch.backup import databases, fingerprint
from matriarch.backup.children import Child
from matriarch.backup.copytext import Aside, Rows
from matriarch.backup.fingerprint import Found
from matriarch.backup.jobspec import Reason
from matriarch.backup.manifest import Database, Table
from matriarch.backup.pipeline import Packer
from matriarch.backup.progress import Tracker
from matriarch.backup.server import Facts, Server, Session, look
from matriarch.backup.stop import Stop, in_thread
from matriarch.errors import Corrupt, MatriarchError, Refused, Unavailable

T = TypeVar("T")

# What pg_dump leaves to the server's settings, as our own sessions have it (server._SESSION): a restored table is read
# by those. Every server reads either form. libpq sends PGTZ by itself, which would win over an option.
_TEXT_FORMS = "-c bytea_output=hex"
_ZONE = {"PGTZ": "UTC"}

_LOCK_WAIT = "60000"  # milliseconds
_REACHED_WITHIN = 15.0  # seconds for pg_dump to show up on our server


@dataclass(slots=True)
class _Seen:
    restricted: bool = False
    head: bytes = b""


async def dump_database(server: Server, name: str, packer: Packer, tracker: Tracker, stop: Stop) -> Database:
    """Write the sections `create` and `database` of one database.

    Raises Unavailable (SourceUnavailable, SourceChanged, DumpFailed, Cancelled), Refused (PermissionDenied, …).
    """
    label = f"matriarch backup {secrets.token_hex(6)}"
    session = await server.connect(name, name=label)
    try:
        with explained():
            before = await look(session)
            async with session.transaction(isolation="repeatable_read", readonly=True):
                database = await _dump(server.at(before.address), session, before, name, label, packer, tracker, stop)
            after = await look(session)
        if (after.role, after.timeline) != (before.role, before.timeline):
            raise Unavailable(
                f"{server.address} went from {before.role} on timeline {before.timeline} to {after.role} on "
                f"{after.timeline} during the dump; it is taken again.",
                reason=Reason.SOURCE_CHANGED,
            )
        return database
    finally:
        with contextlib.suppress(Exception):
            await session.close(timeout=5)


async def _dump(
    server: Server, session: Session, facts: Facts, name: str, label: str, packer: Packer, tracker: Tracker, stop: Stop
) -> Database:
    if facts.version_number >= 170000:
        await session.execute("SET LOCAL transaction_timeout = 0")
    snapshot = await session.fetchval("SELECT pg_catalog.pg_export_snapshot()")
    lsn = await session.fetchval(
        "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() "
        "ELSE pg_catalog.pg_current_wal_insert_lsn() END::text"
    )
    properties = await databases.read_properties(session, name, version=facts.version_number)
    size = await session.fetchval("SELECT pg_catalog.pg_database_size(pg_catalog.current_database())")
    extensions = [r[0] for r in await session.fetch("SELECT extname FROM pg_catalog.pg_extension ORDER BY 1")]
    found = await fingerprint.find_tables(session)
    on_standby = facts.role == "standby"
    skipped = [t for t in found if t.unlogged and on_standby]  # a standby has none of their rows, pg_dump neither
    wanted = [t for t in found if not (t.unlogged and on_standby)]
    tracker.tables_total = (tracker.tables_total or 0) + len(wanted)
    await fingerprint.lock_tables(session, wanted)
    first = await fingerprint.read_sequences(session)

    await in_thread(lambda: packer.write(databases.create_section(properties, name).encode()))
    packer.end_section("create", name)

    seen, done_before = _Seen(), tracker.tables_done
    conninfo, environment = server.libpq(name, name=label, options=_TEXT_FORMS)
    arguments = ["pg_dump", "--format=plain", "--no-tablespaces", f"--snapshot={snapshot}",
                 f"--lock-wait-timeout={_LOCK_WAIT}", f"--encoding={properties.encoding}", "--no-password",
                 "--dbname", conninfo]  # fmt: skip
    child = Child(arguments, environment | _ZONE, stdout=True)
    # Tables by rows of the stream. In other encodings it is not known what a comparison after a restore would read.
    aside = Aside() if properties.encoding == "UTF8" else None

    def take(text: memoryview) -> None:
        if len(seen.head) < 4096:
            seen.head += bytes(text[:4096])
        if aside is not None:
            aside.update(text)
            tracker.tables_done = min(done_before + aside.tables, tracker.tables_total or 0)
        packer.write(text)
        tracker.bytes_done += len(text)

    async def text() -> None:
        await asyncio.to_thread(child.copy_out, take, stop)
        if await asyncio.to_thread(child.wait, stop) != 0:
            raise _explain_dump(child.complaint)

    try:
        await _together(text(), _same_server(session, label, child), end=child.kill)
        streamed = {} if aside is None else (await asyncio.to_thread(aside.finish)).tables
    finally:
        await asyncio.to_thread(child.kill)
        if aside is not None:
            await asyncio.to_thread(aside.end)
    packer.end_section("database", name)
    tables = []
    for table in wanted:
        stop.check()
        rows = streamed.get((table.schema, table.name))
        if rows is not None and rows.doubtful and await fingerprint.count_rows(session, table) != rows.rows:
            rows = None
        tables.append(in_stream(table, rows) or await fingerprint.hash_table(session, table))
    tracker.tables_done = done_before + len(wanted)
    last = await fingerprint.read_sequences(session)
    large_objects = await fingerprint.read_large_objects(session)
    return Database(
        name=name,
        size=size,
        properties=properties,
        snapshot_lsn=lsn,
        source=facts.role,
        tables=tuple(tables),
        sequences=fingerprint.between(first, last),
        large_objects=large_objects,
        unlogged_skipped=tuple(f"{t.schema}.{t.name}" for t in skipped),
        extensions=tuple(extensions),
        restricted=re.search(rb"^\\restrict \S+$", seen.head, re.MULTILINE) is not None,
    )


def in_stream(table: Found, rows: Rows | None) -> Table | None:
    """The table as it went by in the dump. None when the server has to hash it, since the stream may not be understood:
    a table that came twice (a function's body that looks like COPY) or not at all, or text that a server with other
    settings writes otherwise.
    """
    if rows is None or table.money or set(rows.columns) != set(table.columns):
        return None
    return Table(schema=table.schema, name=table.name, rows=rows.rows, hash=rows.digest, columns=rows.columns)


async def _together(text: Awaitable[None], other: Awaitable[T], *, end: Callable[[], None]) -> T:
    """Both halves; when one fails the other is ended before the failure goes on. `end()` ends what `text` waits for."""
    one, two = asyncio.ensure_future(text), asyncio.ensure_future(other)
    try:
        done, _ = await asyncio.wait((one, two), return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
        return two.result()
    finally:
        if not one.done():
            await asyncio.to_thread(end)
        two.cancel()
        await asyncio.gather(one, two, return_exceptions=True)


async def _same_server(session: Session, label: str, child: Child) -> None:
    """See pg_dump's connection beside ours. Behind a balancer it might have reached another server."""
    waited = 0.0
    while waited < _REACHED_WITHIN and child.running:
        await session.execute("SELECT pg_catalog.pg_stat_clear_snapshot()")
        if await session.fetchval(
            "SELECT true FROM pg_catalog.pg_stat_activity WHERE application_name = $1 AND pid <> pg_backend_pid()",
            label,
        ):
            return
        await asyncio.sleep(0.02)
        waited += 0.02
    if child.running:
        raise Unavailable(
            "pg_dump reached another server than the snapshot is on; name one server in place of a balancer.",
            reason=Reason.SOURCE_CHANGED,
        )


def _explain_dump(text: str) -> MatriarchError:
    if "permission denied for large object" in text:
        return Refused(
            f"The role may not read large objects: {text}. A superuser can allow it by "
            "ALTER ROLE … SET lo_compat_privileges = on.",
            reason=Reason.PERMISSION_DENIED,
        )
    if re.search(r"permission denied|row-level security|must be (owner|superuser)", text):
        return Refused(
            f"The role may not read all of the database: {text}. It needs pg_read_all_data and BYPASSRLS.",
            reason=Reason.PERMISSION_DENIED,
        )
    if "server version" in text and "mismatch" in text:
        return Refused(f"pg_dump is older than the server: {text}", reason=Reason.VERSION_UNSUPPORTED)
    if re.search(
        r"conflict with recovery|terminating connection|server closed|could not (connect|receive|send)|connection to "
        r"server|snapshot|lock timeout|does not exist|SSL|shutting down|starting up|recovery mode", text
    ):  # fmt: skip
        return Unavailable(f"The dump was interrupted by the server: {text}", reason=Reason.SOURCE_CHANGED)
    return Unavailable(f"pg_dump failed: {text}", reason=Reason.DUMP_FAILED)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Errors of our own session, by what the caller can do."""
    try:
        yield
    except asyncpg.InsufficientPrivilegeError as error:
        raise Refused(
            f"The role may not read all of the database: {error}. It needs pg_read_all_data and BYPASSRLS.",
            reason=Reason.PERMISSION_DENIED,
        ) from error
    except asyncpg.DataCorruptedError as error:
        raise Corrupt(f"PostgreSQL found damaged data: {error}", reason=Reason.OBJECT_CORRUPT) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise Unavailable(f"The dump was interrupted by the server: {text}", reason=Reason.SOURCE_CHANGED) from error
