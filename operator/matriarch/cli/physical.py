"""Physical backups by hand, where the server's files are; and a directory filled from one."""

from __future__ import annotations

import shutil
from pathlib import Path

from matriarch.archive import main as archive
from matriarch.archive.config import ArchiveConfig
from matriarch.archive.restorable import look_for
from matriarch.backup.jobspec import ClusterIdentity
from matriarch.backup.manifest import Opened
from matriarch.backup.physical import backup as engine
from matriarch.backup.physical import restore as filling
from matriarch.backup.progress import Tracker, size
from matriarch.backup.server import Server
from matriarch.backup.stop import Stop, in_thread
from matriarch.backup.store import open_store
from matriarch.cli import terminal
from matriarch.cli.bare import describe, line, parse_store, read_keys
from matriarch.cli.terminal import Exit, note, show, show_json
from matriarch.decide.pitr import Target


def backup(
    url: str, store: str, pgdata: Path, *, endpoint: str | None, key_files: list[Path], unencrypted: bool, jobs: int,
    level: int, max_increments: int | None, as_json: bool,
) -> None:  # fmt: skip
    stop, tracker = Stop(), Tracker()

    async def work() -> Opened:
        keys = read_keys(key_files)
        return await engine.backup(
            engine.Request(
                store=open_store(parse_store(store, endpoint), stop),
                server=Server.from_url(url),
                pgdata=pgdata,
                key=None if unencrypted or not keys else keys[0],
                encryption=not unencrypted,
                workers=jobs,
                level=level,
                max_increments=max_increments,
                tracker=tracker,
                stop=stop,
            )
        )

    opened = terminal.run(work(), line=lambda: line(tracker), stop=stop.set)
    body = opened.body
    assert body.physical is not None
    for warning in body.warnings:
        note(f"warning: {warning}")
    lineage = body.physical.lineage
    if as_json:
        show_json(describe(opened.manifest))
    else:
        show(body.file)
        if lineage is not None and lineage.parent is not None:
            note(f"incremental, number {lineage.increments} after {lineage.full}, of {size(lineage.whole_size)} in all")
        elif lineage is not None:
            note(f"full: {lineage.because}")
        note(
            f"{body.physical.files} files, {size(body.size)} in {size(body.stored_size)}, "
            f"WAL {body.physical.start_lsn} "
            f"to {body.physical.stop_lsn} on timeline {body.physical.timeline}, pages: {body.physical.pages}"
        )
    if body.suspect:
        raise SystemExit(Exit.DEGRADED)


def restore(
    store: str, backup_id: str, directory: Path, *, endpoint: str | None, key_files: list[Path], target: Target,
    restore_command: str | None, allow_unencrypted: bool, accept_suspect: bool, reuse: Path | None, jobs: int,
    as_json: bool,
) -> None:  # fmt: skip
    """`restore_command` None: without the archive. `reuse`: a data directory whose files are taken where they fit."""
    stop, tracker = Stop(), Tracker()
    directory = directory.absolute()

    def fill() -> Opened:
        keys, place = read_keys(key_files), open_store(parse_store(store, endpoint), stop)
        timeline, wanted = None, backup_id
        if restore_command is not None:
            chosen = filling.find(place, backup_id, keys, allow_unencrypted)
            # By its own name from here on: meanwhile another one may have become the newest.
            timeline, wanted = look_for(place, chosen.body, keys, target)[1].timeline, chosen.body.name
        request = filling.Request(
            store=place,
            keys=keys,
            backup=wanted,
            directory=directory,
            target=target,
            restore_command=restore_command,
            timeline=timeline,
            allow_unencrypted=allow_unencrypted,
            accept_suspect=accept_suspect,
            reuse=reuse,
            workers=jobs,
            tracker=tracker,
            stop=stop,
        )
        return filling.restore(request)

    opened = terminal.run(in_thread(fill), line=lambda: line(tracker), stop=stop.set)
    if as_json:
        taken = {} if reuse is None else {"bytesTaken": tracker.reused}
        show_json(describe(opened.manifest) | taken)
        return
    show(f"{opened.body.name} is in {directory}: {size(opened.body.size)}, every digest as in the backup.")
    if reuse is not None:
        note(f"{tracker.reused:,} bytes ({size(tracker.reused)}) were taken from {reuse}; the rest was fetched")
    what = "the WAL of the backup" if restore_command is None else f"WAL by `{restore_command}`, up to its target,"
    if restore_command is not None:
        note(f"first, beside it: matriarch wal --store {store} --directory {directory}")
    note(f"start PostgreSQL there: it replays {what} and begins a new timeline")


def serve_wal(store: str, directory: Path, *, endpoint: str | None, key_files: list[Path], socket: Path | None) -> None:
    """Give the recovery of `directory` its WAL, until interrupted. Read ahead lies beside it and is removed."""
    directory = directory.absolute()
    config = ArchiveConfig(
        cluster=ClusterIdentity(namespace="", name="", uid=""),  # nothing is stored
        store=parse_store(store, endpoint),
        pgdata=str(directory),
        socket=str(socket or wal_socket(directory)),
        spool=f"{directory}.wal-ahead",
        mode="fetch",
    )
    keys = read_keys(key_files)
    note(f"start PostgreSQL in {directory} now; end this with Ctrl-C when it takes writes")
    try:
        terminal.run(archive.amain(config, keys))
    finally:
        shutil.rmtree(config.spool, ignore_errors=True)
        Path(config.socket).unlink(missing_ok=True)


def wal_socket(directory: Path) -> Path:
    """Where `serve_wal` listens unless told otherwise."""
    return directory.absolute().with_name(f"{directory.name}.wal")
