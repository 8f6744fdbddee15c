"""A physical backup from its first look to the manifest that makes it one.

Connecting  key, store and server are looked at; the server keeps its WAL and starts backup mode
Reading     every file into packs, in threads
Completing  pg_control, backup mode ends, the WAL in between, the map, the manifest last

Killed between any two of these there is no manifest; the server forgets with the session, the sweeper finds the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import zstandard

from matriarch.backup import catalog, lineage, names
from matriarch.backup.backup import is_whole
from matriarch.backup.completing import Marker, complete
from matriarch.backup.format import CHUNK_LOG2, SUITE
from matriarch.backup.jobspec import ClusterIdentity, Reason
from matriarch.backup.keys import Dek, Kek
from matriarch.backup.manifest import FORMAT, Body, DataObject, Details, Encryption, Lineage, Manifest, Opened, Physical
from matriarch.backup.names import BackupName
from matriarch.backup.origin import origin_of, require_system
from matriarch.backup.physical import wal
from matriarch.backup.physical.base import Base, find_base
from matriarch.backup.physical.contents import INCREMENTAL, VERSION, Contents, Directory, File, Pack, Piece
from matriarch.backup.physical.crew import work
from matriarch.backup.physical.delta import Delta, Known, cut, of_relation, unchanged
from matriarch.backup.physical.exclude import CONTROL, is_logged
from matriarch.backup.physical.objects import FRAME, ObjectWriter, Sealing, folder
from matriarch.backup.physical.pages import PAGE
from matriarch.backup.physical.plan import Found, Stretch, packs
from matriarch.backup.physical.reading import PackReader, PageFindings, PageRule, Part, order
from matriarch.backup.physical.session import Begun, begin, connected, end, read_control
from matriarch.backup.physical.walk import Tree, walk
from matriarch.backup.progress import Tracker
from matriarch.backup.server import Facts, Server, Session, not_the_primary
from matriarch.backup.stop import Stop, in_thread
from matriarch.backup.store import Exists, Store
from matriarch.errors import MatriarchError, Refused, Unavailable
from matriarch.postgres.lsn import format_lsn

LEVEL = 1  # of zstd
WORKERS = 2
_SHOWN = 10  # bad pages that are named in the manifest's warnings; all are in the map


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`key` None: in the clear, which the caller has asked for. `pgdata` is the server's data directory.

    `max_increments` None: a full backup; else an incremental one where a chain with fewer can go on.
    `primary_only`: a server that is a standby by now is refused (Unavailable, SourceChanged).
    `chosen` was chosen before: an attempt at it that is complete already is only reported. None: a new one.
    """

    store: Store
    server: Server
    pgdata: Path
    key: Kek | None
    chosen: BackupName | None = None
    encryption: bool = True
    workers: int = WORKERS
    level: int = LEVEL
    max_increments: int | None = None
    primary_only: bool = False  # a standby may not have replayed all that was acknowledged
    cluster: ClusterIdentity | None = None
    resource: str | None = None
    schedule: str | None = None
    scheduled_for: str | None = None
    tracker: Tracker = field(default_factory=Tracker)
    stop: Stop = field(default_factory=Stop)


@dataclass(frozen=True, slots=True)
class _Read:
    """What one or more rounds of workers put into the store."""

    packs: tuple[Pack, ...]
    parts: tuple[Part, ...]
    findings: tuple[PageFindings, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is read: `whole` files, and pages of `deltas`; `same` is inherited as it is."""

    whole: tuple[Found, ...]
    deltas: tuple[Delta, ...] = ()
    same: Mapping[str, tuple[Found, Known]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(f.size for f in self.whole) + sum(len(d.pages) * PAGE for d in self.deltas)


async def backup(request: Request) -> Opened:
    """Make the backup; returns its manifest, whose warnings say what is not as it should be. Raises MatriarchError."""
    if (done := await asyncio.to_thread(_finished, request)) is not None:
        return done
    chosen = request.chosen
    name = names.attempt_of(chosen) if chosen else BackupName(datetime.now(UTC), names.new_id())
    try:
        try:
            return await _backup(request, name)
        except OSError as error:
            raise Unavailable(
                f"The server's files could not be read: {error.strerror} ({error.filename or request.pgdata}).",
                reason=Reason.SOURCE_UNAVAILABLE,
            ) from error
    except BaseException:
        # What a killed process leaves is the sweeper's; what we can take away ourselves goes at once.
        with contextlib.suppress(MatriarchError):
            await asyncio.shield(in_thread(lambda: _discard(request.store, name)))
        raise


def _finished(request: Request) -> Opened | None:
    """What an earlier attempt completed, whole."""
    chosen, store = request.chosen, request.store
    if chosen is None:
        return None
    store.check()
    for manifest in catalog.read_catalog(store).manifests:
        if manifest.body.kind == "physical" and names.is_attempt_of(manifest.name, chosen):
            opened = catalog.open_own(store, manifest, request.key)
            if _is_all_there(store, opened.body):
                return opened
    return None


def _discard(store: Store, name: BackupName) -> None:
    # What ended us may have come after the manifest: then it is a backup, and whoever tries again finds it.
    if any(entry.key.endswith(f"-{name.id}.json") for entry in store.list("manifests")):
        return
    for entry in list(store.list(folder(name.id))):
        store.delete(entry.key)


async def _backup(request: Request, name: BackupName) -> Opened:
    if request.encryption and request.key is None:
        raise Refused(
            "The backup is to be encrypted and no key was given; set BACKUP_ENCRYPTION_KEY or give a key file.",
            reason=Reason.KEY_MISSING,
        )
    request.tracker.step("Connecting")
    await asyncio.to_thread(request.store.check)
    started = names.timestamp(name.started)
    async with connected(request.server) as session:
        waits = partial(request.tracker.step, "Waiting for a checkpoint of the new timeline")
        begun = await begin(session, request.pgdata, str(name), waits)
        if request.primary_only and begun.facts.role == "standby":
            raise not_the_primary(request.server.address)
        require_system(request.cluster, begun.facts)
        await asyncio.to_thread(catalog.claim, request.store, request.cluster, begun.facts.system_identifier, started)
        sealing = _sealing(request, name, begun.facts)
        base, of_it = await _base(request, session, begun)
        async with Marker(request.store, name.id, base.parent.body.id if base else None) as marker:
            if base is not None and not await asyncio.to_thread(lineage.is_there, request.store, base.parent):
                of_it, base = Lineage(type="full", because=f"{base.parent.body.id} is being deleted."), None
            tree = await in_thread(lambda: walk(request.pgdata, request.stop.check))
            plan = await in_thread(lambda: _plan(request, tree, base, begun.segment_blocks))
            request.tracker.step("Reading", bytes_total=plan.size)
            crew = _Crew(request, sealing, begun, session.is_closed)
            data = await in_thread(lambda: crew.read(packs(plan.whole)))
            pages = await in_thread(lambda: crew.read(cut(plan.deltas)))
            request.tracker.step("Completing")
            # A standby's pg_control says how far replay has to go: after all pages, before the end.
            control = await asyncio.to_thread(read_control, request.pgdata)
            ended = await end(session, begun)
            needed = wal.segments(begun.facts.timeline, begun.start_lsn, ended.stop_lsn, begun.segment_size)
            system = begun.facts.system_identifier
            history = await in_thread(lambda: wal.history(request.pgdata, begun.facts.timeline))
            segments = await in_thread(lambda: wal.find(request.pgdata, needed, system, begun.segment_size))
            logs = await in_thread(lambda: crew.read(packs([*history, *segments])))
            last = await in_thread(lambda: crew.write({CONTROL: control, "backup_label": ended.label.encode()}))
            if sum(p.piece.size for p in logs.parts) != sum(f.size for f in (*history, *segments)):
                raise Unavailable("WAL of the backup went away while it was read.", reason=Reason.SOURCE_CHANGED)
            contents = _contents(name, tree, plan, (data, pages, logs, last), ended.stop_lsn)
            if of_it is not None:
                of_it = replace(of_it, whole_size=contents.whole_size)
            stored_map = await in_thread(lambda: crew.write_map(contents))
            files = (*(f.path.rpartition("/")[2] for f in history), *needed)
            read = (data, pages)
            body = _body(
                request, name, started, begun, sealing, contents, stored_map, read, ended.stop_lsn, files, of_it
            )
            body = _warned(body, tree, contents)
            details = Details(sections=(), databases=(), role_passwords=True)
            return await in_thread(
                lambda: complete(
                    request.store,
                    body,
                    details,
                    sealing.dek,
                    marker,
                    [request.key] if request.key else [],
                    lambda b: _is_all_there(request.store, b) and _has_parent(request.store, base),
                )
            )


async def _base(request: Request, session: Session, begun: Begun) -> tuple[Base | None, Lineage | None]:
    """What to build on, and what the manifest says of it."""
    if request.max_increments is None:
        return None, None
    request.tracker.step("Connecting")
    request.tracker.note = "waits for WAL summaries"
    found = await find_base(
        session,
        begun,
        store=request.store,
        key=request.key if request.encryption else None,
        pgdata=request.pgdata,
        max_increments=request.max_increments,
        stop=request.stop,
    )
    if isinstance(found, Base):
        return found, found.lineage
    return None, Lineage(type="full", because=found.because)


def _has_parent(store: Store, base: Base | None) -> bool:
    return base is None or lineage.is_there(store, base.parent)


def _plan(request: Request, tree: Tree, base: Base | None, segment_blocks: int) -> _Plan:
    files = sorted(tree.files, key=order)
    if base is None:
        return _Plan(tuple(files))
    deltas = {d.file.path: d for f in files if (d := of_relation(f, base.files, base.changes, segment_blocks))}
    others = {f.path: f for f in files if f.path not in deltas}
    compared = [f for f in others.values() if not is_logged(f.path)]
    same = unchanged(request.pgdata, compared, base.files, request.stop.check)
    return _Plan(
        tuple(f for f in others.values() if f.path not in same),
        tuple(deltas.values()),
        {path: (others[path], known) for path, known in same.items()},
    )


class _Crew:
    """The workers' side: numbers of packs go on from round to round."""

    def __init__(self, request: Request, sealing: Sealing, begun: Begun, gone: Callable[[], bool]) -> None:
        self._request, self._sealing, self._gone = request, sealing, gone
        self._rule = PageRule(begun.start_lsn, begun.segment_blocks) if begun.checksums else None
        self._next = 0
        self._lock = threading.Lock()

    def read(self, objects: Iterable[tuple[Stretch, ...]]) -> _Read:
        readers: list[PackReader] = []

        def make() -> _Worker:
            reader = PackReader(self._request.pgdata, self._rule, self._progress)
            readers.append(reader)
            return _Worker(self, reader, self._compressor(), first)

        first = self._next
        done = work(objects, self._request.workers, make, self._request.stop)
        self._next += len(done)
        return _Read(
            tuple(p for p, _ in done), tuple(p for _, some in done for p in some), tuple(r.findings for r in readers)
        )

    def write(self, files: dict[str, bytes]) -> _Read:
        """Files whose content is already here, as one pack."""
        number, at, parts = self._next, 0, []
        with self.writer(number, self._compressor()) as writer:
            for path, data in files.items():
                writer.write(data)
                piece = Piece(pack=number, at=at, offset=0, size=len(data), sha256=hashlib.sha256(data).hexdigest())
                parts.append(Part(Found(path, len(data), int(datetime.now(UTC).timestamp()), 0o600), piece))
                at += len(data)
            pack = finished(writer)
        self._next += 1
        return _Read((pack,), tuple(parts), ())

    def write_map(self, contents: Contents) -> DataObject:
        text = contents.to_json()
        path = self._sealing.map
        context = self._sealing.context(path, "map")
        with ObjectWriter(
            self._request.store, path, context, self._sealing, self._compressor(), estimate=len(text)
        ) as writer:
            for at in range(0, len(text), FRAME):
                writer.write(text[at : at + FRAME])
            pack = finished(writer)
        return DataObject(
            path=path,
            object_id=pack.object_id,
            stored_size=pack.stored_size,
            stored_sha256=pack.stored_sha256,
            text_size=len(text),
            text_sha256=hashlib.sha256(text).hexdigest(),
            codec="zstd",
            chunk_log2=CHUNK_LOG2 if self._sealing.dek is not None else None,
        )

    def writer(self, number: int, compressor: zstandard.ZstdCompressor) -> ObjectWriter:
        path = self._sealing.pack(number)
        context = self._sealing.context(path, "pack")
        return ObjectWriter(self._request.store, path, context, self._sealing, compressor, estimate=FRAME)

    def _compressor(self) -> zstandard.ZstdCompressor:
        return zstandard.ZstdCompressor(level=self._request.level)

    def _progress(self, count: int) -> None:
        self._request.stop.check()
        if self._gone():  # backup mode and the slot went with it, and its volume may be wanted on another node
            raise Unavailable("The server ended the session while its files were read.", reason=Reason.SOURCE_CHANGED)
        with self._lock:
            self._request.tracker.bytes_done += count


@dataclass(frozen=True, slots=True)
class _Worker:
    crew: _Crew
    reader: PackReader
    compressor: zstandard.ZstdCompressor
    first: int

    def __call__(self, index: int, stretches: tuple[Stretch, ...]) -> tuple[Pack, list[Part]]:
        number = self.first + index
        with self.crew.writer(number, self.compressor) as writer:
            parts = self.reader.read(number, stretches, writer)
            return finished(writer), parts


def finished(writer: ObjectWriter) -> Pack:
    try:
        return writer.finish()
    except Exists as error:
        raise Unavailable(
            f"{error} is in the store already: another backup took its name; try again.",
            reason=Reason.STORE_UNAVAILABLE,
        ) from None


def _sealing(request: Request, name: BackupName, facts: Facts) -> Sealing:
    dek = Dek.generate() if request.encryption else None
    encryption = None
    if dek is not None:
        assert request.key is not None
        encryption = Encryption(suite=SUITE, dek=dek.id, slots=(request.key.wrap(dek),))
    origin = origin_of(request.cluster, facts)
    return Sealing(backup_id=name.id, origin=origin, dek=dek, encryption=encryption)


def _contents(name: BackupName, tree: Tree, plan: _Plan, rounds: Iterable[_Read], stop_lsn: int) -> Contents:
    rounds = tuple(rounds)
    pieces: dict[str, list[Piece]] = {}
    found: dict[str, Found] = {}
    for part in (p for r in rounds for p in r.parts):
        found[part.file.path] = part.file
        some = pieces.setdefault(part.file.path, [])
        if part.piece.size:
            some.append(part.piece)
    deltas = {d.file.path: d for d in plan.deltas}
    # Of those without a page to read nothing was opened; one that was dropped meanwhile is dropped again by replay.
    found |= {path: d.file for path, d in deltas.items() if not len(d.pages)}
    found |= {path: file for path, (file, _) in plan.same.items()}
    files = []
    for path in sorted(found):
        file, of_it = found[path], tuple(sorted(pieces.get(path, ()), key=lambda p: p.offset))
        made = File(path=path, size=of_it[-1].end if of_it else 0, mtime=file.mtime, mode=file.mode, pieces=of_it)
        if (delta := deltas.get(path)) is not None:
            # As long as it was found: what was cut off since, replay cuts off again.
            made = replace(made, size=file.size, inherits=delta.inherits)
        elif path in plan.same:
            made = replace(made, size=file.size, inherits=file.size, sha256=plan.same[path][1].sha256)
        files.append(made)
    findings = [f for r in rounds for f in r.findings]
    bad = [page for f in findings for page in f.bad]
    # Only a page that was written during the backup is exempt: one from the future is not that.
    bad += [
        f"near {f.newest_in}: a page claims {format_lsn(f.newest)}, after the backup's end"
        for f in findings
        if f.newest > stop_lsn
    ]
    return Contents(
        version=INCREMENTAL if deltas or plan.same else VERSION,
        backup=name.id,
        directories=tuple(Directory(path=f.path, mode=f.mode) for f in tree.folders),
        files=tuple(files),
        packs=tuple(p for r in rounds for p in r.packs),
        bad_pages=tuple(sorted(bad)),
    )


def _body(
    request: Request,
    name: BackupName,
    started: str,
    begun: Begun,
    sealing: Sealing,
    contents: Contents,
    stored_map: DataObject,
    data: tuple[_Read, ...],
    stop_lsn: int,
    needed: tuple[str, ...],
    of_it: Lineage | None,
) -> Body:
    checked = sum(f.pages for r in data for f in r.findings)
    physical = Physical(
        start_lsn=format_lsn(begun.start_lsn),
        stop_lsn=format_lsn(stop_lsn),
        timeline=begun.facts.timeline,
        wal=needed,
        wal_segment_size=begun.segment_size,
        files=len(contents.files),
        size=contents.size,
        packs=len(contents.packs),
        stored_size=sum(p.stored_size for p in contents.packs),
        pages="suspect" if contents.bad_pages else "passed" if begun.checksums else "off",
        pages_checked=checked,
        bad_pages=len(contents.bad_pages),
        zstd_level=request.level,
        lineage=of_it,
    )
    return Body(
        format=FORMAT,
        kind="physical",
        sequence=0,
        previous=None,
        id=name.id,
        name=str(name),
        file=str(name),
        started=started,
        finished="",
        resource=request.resource,
        schedule=request.schedule,
        scheduled_for=request.scheduled_for,
        origin=sealing.origin,
        snapshot_lsn=physical.stop_lsn,
        encryption=sealing.encryption,
        object=stored_map,
        tables=0,
        rows=0,
        warnings=(),
        details="",
        physical=physical,
    )


def _warned(body: Body, tree: Tree, contents: Contents) -> Body:
    warnings = list(tree.skipped[:_SHOWN])
    if body.encryption is None:
        warnings.append("This backup is not encrypted: whoever reads the store reads the data.")
    if body.physical is not None and body.physical.pages == "off":
        warnings.append("The server has no data checksums: nothing tells whether its pages are sound.")
    if contents.bad_pages:
        some = "; ".join(contents.bad_pages[:_SHOWN])
        warnings.append(
            f"Suspect: {len(contents.bad_pages)} pages fail their checksum ({some}). The backup is kept and does not "
            "count as good; look at the server's disk."
        )
    return replace(body, warnings=tuple(warnings))


def _is_all_there(store: Store, body: Body) -> bool:
    return catalog.is_complete(store, Manifest(body, b"")) and is_whole(store, body.object)
