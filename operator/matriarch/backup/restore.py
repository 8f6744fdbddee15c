"""A restore: everything is checked before anything is touched, and compared before anything takes its place.

Checking   manifest and key; the target; the whole object is read once, decrypted and digested
Roles      missing ones are made
Loading    each database into one of a temporary name, by psql
Comparing  counts, hashes and sequences against the manifest, then pg_amcheck
Switching  renamed into place in one transaction; replaced databases are dropped or kept
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import asyncpg

from matriarch.backup import catalog, databases, fingerprint, target
from matriarch.backup.amcheck import amcheck
from matriarch.backup.children import Child, find_tool, tool_version
from matriarch.backup.fingerprint import Difference, quote
from matriarch.backup.jobresult import RestoreResult
from matriarch.backup.jobspec import Reason, RestoreTask
from matriarch.backup.keys import Kek
from matriarch.backup.manifest import Database, Opened, Section, object_context
from matriarch.backup.pipeline import unpack
from matriarch.backup.progress import Tracker
from matriarch.backup.server import Facts, Server, Session, choose, look
from matriarch.backup.stop import Stop
from matriarch.backup.store import Store
from matriarch.backup.target import Place
from matriarch.errors import Corrupt, MatriarchError, Refused, Unavailable

# The first minor releases whose psql knows \restrict.
_RESTRICT = {13: 22, 14: 19, 15: 14, 16: 10, 17: 6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    store: Store
    servers: list[Server]
    keys: tuple[Kek, ...]
    task: RestoreTask
    tracker: Tracker = field(default_factory=Tracker)
    stop: Stop = field(default_factory=Stop)


async def restore(request: Request) -> RestoreResult:
    """Restore, or tell the result of the attempt that already did; safe to repeat with the same restore_id.

    Raises errors.MatriarchError with the target as it was.
    """
    task = request.task
    request.tracker.step("Checking")
    opened = await asyncio.to_thread(find_trusted, request.store, task.backup, request.keys, task.allow_unencrypted)
    if task.manifest_sha256 is not None and opened.manifest.sha256 != task.manifest_sha256:
        raise Corrupt(
            f"The manifest of {opened.body.name} is not the one that was written when the backup was made; the store "
            "was altered or rolled back.",
            reason=Reason.MANIFEST_CORRUPT,
        )
    wanted = _wanted(opened, task)
    await asyncio.to_thread(_check_tools, wanted, task)
    server = await _target_server(request.servers)
    session = await server.connect("postgres", name="matriarch restore")
    try:
        await _check_target(await look(session), opened)
        await target.lock(session)
        if (done := await target.finished(session, task.restore_id)) is not None:
            places = await _places(session, task, wanted)
            kept = await target.settle(session, places, task.restore_id, keep=_keeps(task))
            return replace(done, already_done=True, kept=kept)
        await target.reopen_interrupted(session, [d.name for d in wanted])
        places = await _places(session, task, wanted)
        if task.mode == "new":
            await _refuse_filled(server, places)
        await asyncio.to_thread(check_object, request.store, opened, request.tracker, request.stop)
        return await _fill_and_switch(request, server, session, opened, wanted, places)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        raise _explain(error) from error
    finally:
        with contextlib.suppress(Exception):
            await session.close(timeout=5)


# SQLSTATE classes that say nothing about the request: connection, resources, intervention, system, plus locks.
_PASSING = ("08", "53", "57", "58", "55")


def _explain(error: Exception) -> MatriarchError:
    text = " ".join(str(error).split())[:300] or type(error).__name__
    state = getattr(error, "sqlstate", None)
    if state is None or state[:2] in _PASSING:
        return Unavailable(f"The target failed during the restore: {text}", reason=Reason.TARGET_UNAVAILABLE)
    return Corrupt(f"The target refused a step of the restore: {text}", reason=Reason.RESTORE_FAILED)


def find_trusted(
    store: Store, wanted: str, keys: tuple[Kek, ...], allow_unencrypted: bool, kind: catalog.Kind | None = "logical"
) -> Opened:
    """The backup, its manifest authenticated.

    Whoever can write to the store could put a backup in the clear in the place of an encrypted one: with a key at
    hand such a one is only read when that is said. Raises Refused (Unencrypted, …), Corrupt.
    """
    store.check()
    manifest = catalog.find(store, wanted, kind)
    opened = catalog.open_manifest(store, manifest, keys)
    if opened.dek is None and keys and not allow_unencrypted:
        raise Refused(
            f"A key was given, but {opened.body.name} is not encrypted, so nothing proves who wrote it; allow "
            "unencrypted backups if it was made so.",
            reason=Reason.UNENCRYPTED,
        )
    return opened


def check_object(store: Store, opened: Opened, tracker: Tracker, stop: Stop) -> None:
    """Read, decrypt, decompress and digest the whole object. Raises Corrupt that names it."""
    tracker.step("Checking", bytes_total=opened.body.object.text_size)
    for piece in read_text(store, opened):
        stop.check()
        tracker.bytes_done += len(piece)


def read_text(store: Store, opened: Opened) -> Iterator[bytes]:
    body = opened.body
    context = object_context(origin=body.origin, backup_id=body.id, path=body.object.path, codec=body.object.codec)
    return unpack(store, body.object, opened.dek, context)


def _wanted(opened: Opened, task: RestoreTask) -> list[Database]:
    found = {d.name: d for d in opened.details.databases}
    if missing := [name for name in task.databases if name not in found]:
        raise Refused(
            f"{opened.body.name} holds no database {missing[0]}; it holds {', '.join(found) or 'none'}.",
            reason=Reason.BAD_SPEC,
        )
    return [found[name] for name in task.databases] if task.databases else list(found.values())


def _check_tools(wanted: list[Database], task: RestoreTask) -> None:
    if task.amcheck:
        find_tool("pg_amcheck")
    major, minor = tool_version("psql")
    if any(d.restricted for d in wanted) and minor < _RESTRICT.get(major, 99 if major < 13 else 0):
        raise Refused(
            f"psql {major}.{minor} is too old for this dump; install {major}.{_RESTRICT.get(major, 0)} or later.",
            reason=Reason.VERSION_UNSUPPORTED,
        )
    if not task.trust_source and (loose := [d.name for d in wanted if not d.restricted]):
        raise Refused(
            f"The dump of {loose[0]} was made by a pg_dump that does not restrict psql's commands: a superuser of its "
            "source could run programs here. Say that the source is trusted, if it is.",
            reason=Reason.VERSION_UNSUPPORTED,
        )


async def _target_server(servers: list[Server]) -> Server:
    try:
        return await choose(servers, "primary")
    except Unavailable as error:
        raise Unavailable(str(error), reason=Reason.TARGET_UNAVAILABLE) from error


async def _check_target(facts: Facts, opened: Opened) -> None:
    if facts.role != "primary":
        raise Refused("The target is a replica; restore into the primary.", reason=Reason.TARGET_IS_REPLICA)
    if not facts.superuser:
        raise Refused("A restore needs a superuser of the target.", reason=Reason.PERMISSION_DENIED)
    source = int(opened.body.origin.server_version.split(".")[0])
    if facts.version_number // 10000 < source:
        raise Refused(
            f"The target is PostgreSQL {facts.version} and the backup is of {opened.body.origin.server_version}; "
            "restore into the same or a later version.",
            reason=Reason.VERSION_UNSUPPORTED,
        )


async def _places(session: Session, task: RestoreTask, wanted: list[Database]) -> list[Place]:
    existing = {r[0] for r in await session.fetch("SELECT datname FROM pg_catalog.pg_database")}
    places = []
    for index, database in enumerate(wanted):
        temporary, old = target.names_for(task.restore_id, database.name, index)
        limit = database.properties.connection_limit
        places.append(Place(database.name, temporary, old, database.name in existing, limit))
    return places


async def _refuse_filled(server: Server, places: list[Place]) -> None:
    for place in places:
        if place.replaces:
            session = await server.connect(place.name, name="matriarch restore")
            try:
                thing = await target.holds_something(session)
            finally:
                await session.close(timeout=5)
            if thing is not None:
                raise target.refuse_filled(place.name, thing)


async def _fill_and_switch(
    request: Request, server: Server, session: Session, opened: Opened, wanted: list[Database], places: list[Place]
) -> RestoreResult:
    task, tracker = request.task, request.tracker
    temporary = [p.temporary for p in places]
    before = await target.roles(session)
    await target.drop(session, temporary)  # of an attempt before
    try:
        await _load(request, server, session, opened, dict(zip([d.name for d in wanted], places, strict=True)), wanted)
        tracker.step("Comparing", tables_total=sum(len(d.tables) for d in wanted))
        for database, place in zip(wanted, places, strict=True):
            await _compare(server, database, place, tracker)
        if task.amcheck:
            tracker.step("Amcheck")
            for database, place in zip(wanted, places, strict=True):
                await _amcheck(server, database, place, request.stop)
        request.stop.check()
        tracker.step("Switching")
        result = RestoreResult(
            backup_id=opened.body.id,
            backup_name=opened.body.name,
            databases=tuple(d.name for d in wanted),
            tables=sum(len(d.tables) for d in wanted),
            rows=sum(t.rows for d in wanted for t in d.tables),
            sequences=sum(len(d.sequences) for d in wanted),
            amcheck=task.amcheck,
        )
        await target.switch(session, places, task.restore_id, result)
    except BaseException:
        await asyncio.shield(_undo(session, temporary, before))
        raise
    tracker.step("Finishing")
    kept = await target.settle(session, places, task.restore_id, keep=_keeps(task))
    return replace(result, kept=kept)


def _keeps(task: RestoreTask) -> bool:
    """What `new` replaces is empty."""
    return task.keep_old and task.mode == "in-place"


async def _undo(session: Session, temporary: list[str], before: set[str]) -> None:
    """As far as the target can be reached; the next attempt finds the temporary databases by their names."""
    with contextlib.suppress(
        asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError
    ):
        async with asyncio.timeout(30):
            await target.drop(session, temporary)
            await target.drop_roles(session, await target.roles(session) - before)


async def _load(
    request: Request, server: Server, session: Session, opened: Opened, places: dict[str, Place], wanted: list[Database]
) -> None:
    """Second reading of the object: each section to the psql it is for. Its digests are checked again."""
    tracker, stop = request.tracker, request.stop
    tracker.step("Loading", bytes_total=opened.body.object.text_size)
    by_name = {d.name: d for d in wanted}
    text = read_text(request.store, opened)
    splitter = _Splitter(text, tracker)
    for section in opened.details.sections:
        database = section.database
        if section.kind == "roles":
            tracker.note = "roles"
            await _feed(server, "postgres", splitter, section, stop)
        elif section.kind == "database" and database in by_name:
            place = places[database]
            tracker.note = f"database {database}"
            properties = by_name[database].properties
            await session.execute(databases.create_sql(properties, place.temporary))
            # Nobody but superusers before it is in its place.
            await session.execute(f"ALTER DATABASE {quote(place.temporary)} CONNECTION LIMIT 0")
            await _feed(server, place.temporary, splitter, section, stop)
            for statement in databases.properties_sql(properties, place.temporary):
                await session.execute(statement)
        else:
            await asyncio.to_thread(splitter.skip, section)
    await asyncio.to_thread(splitter.finish)


async def _feed(server: Server, database: str, splitter: _Splitter, section: Section, stop: Stop) -> None:
    """One section through one psql. Raises Corrupt (RestoreFailed) with psql's words."""
    conninfo, environment = server.libpq(database, name="matriarch restore")
    # Not in one transaction: a failed restore's database is dropped whole, and thousands of tables need as many locks.
    arguments = ["psql", "-X", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse", "-v", "SHOW_CONTEXT=never",
                 "--dbname", conninfo, "-f", "-"]  # fmt: skip
    child = Child(arguments, environment, stdin=True)

    def work() -> int:
        for piece in splitter.pieces(section):
            if not child.feed(piece, stop):
                break
        child.end_input()
        return child.wait(stop)

    try:
        code = await asyncio.to_thread(work)
    except (asyncio.CancelledError, MatriarchError):
        # Before its input is closed: psql would take a cut stream for a finished one.
        await asyncio.to_thread(child.kill)
        raise
    finally:
        await asyncio.to_thread(child.kill)
    if code != 0:
        raise _explain_psql(child.complaint, database)


def _explain_psql(text: str, database: str) -> MatriarchError:
    if any(
        words in text for words in ("server closed", "terminating connection", "could not connect", "shutting down")
    ):
        return Unavailable(f"The target ended the connection: {text}", reason=Reason.TARGET_UNAVAILABLE)
    return Corrupt(f"psql could not load into {database}: {text}", reason=Reason.RESTORE_FAILED)


class _Splitter:
    """The text's sections in order, cut at the manifest's offsets."""

    def __init__(self, text: Iterator[bytes], tracker: Tracker) -> None:
        self._text, self._tracker = text, tracker
        self._held = memoryview(b"")
        self._offset = 0

    def pieces(self, section: Section) -> Iterator[memoryview]:
        if section.offset != self._offset:
            raise Corrupt("The manifest's sections do not follow each other.", reason=Reason.MANIFEST_CORRUPT)
        left = section.size
        self._offset += section.size
        while left:
            if not self._held:
                piece = next(self._text, None)
                if piece is None:
                    raise Corrupt("The text is shorter than its sections.", reason=Reason.OBJECT_CORRUPT)
                self._held = memoryview(piece)
            part, self._held = self._held[:left], self._held[left:]
            left -= len(part)
            self._tracker.bytes_done += len(part)
            yield part

    def skip(self, section: Section) -> None:
        for _ in self.pieces(section):
            pass

    def finish(self) -> None:
        """Read to the end, where the digests are compared."""
        if self._held or any(True for _ in self._text):
            raise Corrupt("The text is longer than its sections.", reason=Reason.OBJECT_CORRUPT)


async def _compare(server: Server, database: Database, place: Place, tracker: Tracker) -> None:
    session = await server.connect(place.temporary, name="matriarch restore")
    try:
        await session.execute("ANALYZE")
        differences = await compare_database(session, database, tracker)
    finally:
        await session.close(timeout=5)
    if differences:
        raise different(database.name, differences)


async def compare_database(session: Session, database: Database, tracker: Tracker) -> list[Difference]:
    """The database behind `session` against what the manifest says of `database`."""
    done = tracker.tables_done

    def progress(tables: int) -> None:
        tracker.tables_done = done + tables

    unlogged = set(database.unlogged_skipped)
    found = await fingerprint.compare(
        session,
        tables=database.tables,
        sequences=database.sequences,
        large_objects=database.large_objects,
        progress=progress,
    )
    # Tables whose rows were not dumped are restored empty.
    return [d for d in found if not (d.detail == "is not in the backup" and d.what.removeprefix("table ") in unlogged)]


def different(name: str, differences: list[Difference]) -> Corrupt:
    some = "; ".join(map(str, differences[:5]))
    more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
    return Corrupt(f"Database {name} differs from the backup: {some}{more}.", reason=Reason.VERIFICATION_FAILED)


async def _amcheck(server: Server, database: Database, place: Place, stop: Stop) -> None:
    """pg_amcheck over the new database; its extension is only there for as long as that takes."""
    session = await server.connect(place.temporary, name="matriarch restore")
    try:
        had = await session.fetchval("SELECT true FROM pg_catalog.pg_extension WHERE extname = 'amcheck'")
        await session.execute("CREATE EXTENSION IF NOT EXISTS amcheck WITH SCHEMA pg_catalog")
        options = ["--database", place.temporary]
        await amcheck(options, server.environment(name="matriarch restore"), database.name, stop)
        if not had:
            await session.execute("DROP EXTENSION amcheck")
    finally:
        await session.close(timeout=5)
