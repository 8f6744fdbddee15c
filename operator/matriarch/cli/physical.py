"""Physical backups by hand, where the server's files are; and a directory filled from one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

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


def backup(
    url: str, store: str, pgdata: Path, *, endpoint: str | None, key_files: list[Path], unencrypted: bool, jobs: int,
    level: int, as_json: bool,
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
                tracker=tracker,
                stop=stop,
            )
        )

    opened = terminal.run(work(), line=lambda: line(tracker), stop=stop.set)
    body = opened.body
    assert body.physical is not None
    for warning in body.warnings:
        note(f"warning: {warning}")
    if as_json:
        show_json(describe(opened.manifest))
    else:
        show(body.file)
        note(
            f"{body.physical.files} files, {size(body.size)} in {size(body.stored_size)}, "
            f"WAL {body.physical.start_lsn} "
            f"to {body.physical.stop_lsn} on timeline {body.physical.timeline}, pages: {body.physical.pages}"
        )
    if body.suspect:
        raise SystemExit(Exit.DEGRADED)


def restore(
    store: str, backup_id: str, directory: Path, *, endpoint: str | None, key_files: list[Path], target: str,
    allow_unencrypted: bool, accept_suspect: bool, jobs: int, as_json: bool,
) -> None:  # fmt: skip
    stop, tracker = Stop(), Tracker()
    directory = directory.absolute()

    async def work() -> Opened:
        request = filling.Request(
            store=open_store(parse_store(store, endpoint), stop),
            keys=read_keys(key_files),
            backup=backup_id,
            directory=directory,
            target=cast(Literal["latest", "immediate"], target),
            allow_unencrypted=allow_unencrypted,
            accept_suspect=accept_suspect,
            workers=jobs,
            tracker=tracker,
            stop=stop,
        )
        return await in_thread(lambda: filling.restore(request))

    opened = terminal.run(work(), line=lambda: line(tracker), stop=stop.set)
    if as_json:
        show_json(describe(opened.manifest))
        return
    show(f"{opened.body.name} is in {directory}: {size(opened.body.size)}, every digest as in the backup.")
    note("start PostgreSQL there: it replays the WAL of the backup and begins a new timeline")
