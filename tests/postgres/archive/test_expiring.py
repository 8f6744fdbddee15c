"""WAL that goes from real stores: killed at every step, and the backup that stays replays to the last commit."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from matriarch.archive import expire
from matriarch.archive.listing import read_listing
from matriarch.archive.restorable import restorable
from matriarch.backup import catalog
from matriarch.backup.jobspec import StoreSpec
from matriarch.backup.store import Store
from matriarch.decide import wal_retention
from matriarch.decide.wal_retention import Step
from matriarch.postgres.lsn import format_lsn, segment_name
from tests.postgres.archive.archivebed import KEY, Archiver, archiving, ready, wait
from tests.postgres.backup.bed import Postgres
from tests.postgres.backup.physbed import physical_backup, physical_restore


class Killed(Exception):  # noqa: N818 - reads as what happened
    """The process, at this call."""


class Mortal:
    """A store whose `calls`-th change is the last: it is made, and nobody hears of it."""

    def __init__(self, store: Store, calls: int) -> None:
        self._store, self._left = store, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        self._store.put(key, data, if_absent=if_absent)
        self._count()

    def delete(self, key: str) -> None:
        self._store.delete(key)
        self._count()

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise Killed


def run(store: Store, window: timedelta | None = None) -> tuple[Step, tuple[str, ...]]:
    """One run, begun anew after a kill at each of its changes."""
    while True:
        looked = expire.look(store, [KEY], window)
        try:
            turn = expire.carry_out(Mortal(store, 1), looked)  # type: ignore[arg-type]  # a store, by delegation
        except Killed:
            if looked.turn.step is Step.DELETE:
                continue
            return looked.turn.step, ()
        return turn.step, turn.gone


def test_old_wal_goes_and_the_backup_that_stays_replays_to_the_end(
    place: Path, store: StoreSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Postgres(place / "p").create()
    server.stop()
    archiver = Archiver.create(place / "a", store, server.folder / "data")
    archiving(server, archiver)
    server.start()
    archiver.start()
    where = archiver.store
    try:
        server.sql("CREATE TABLE marks (n int)")
        first = physical_backup(where, server, key=KEY)
        for n in range(3):
            server.sql(f"INSERT INTO marks VALUES ({n})", "SELECT pg_switch_wal()")
        wait(lambda: not ready(server), "all is stored")
        assert run(where) == (Step.MARK, ()), "only what lies before the first backup"
        second = physical_backup(where, server, key=KEY)
        for n in range(3, 5):
            server.sql(f"INSERT INTO marks VALUES ({n})", "SELECT pg_switch_wal()")
        wait(lambda: not ready(server), "the rest too")
    finally:
        archiver.stop()
        server.stop()
    assert first.body.physical is not None
    assert second.body.physical is not None
    before = restorable(where, [KEY])
    assert [(r.backup, r.gap) for r in before.recovery.reaches] == [(first.body.id, ""), (second.body.id, "")]
    of_second = before.recovery.reaches[1]
    names = [s.name.text for s in read_listing(where).files]

    # The mark is young; then a backup is running; then there is no doubt and time has passed.
    catalog.delete_backup(where, first.manifest)
    assert run(where)[0] is Step.WAIT
    monkeypatch.setattr(wal_retention, "WAIT", timedelta(minutes=-1))  # S3 tells whole seconds
    where.put(catalog.marker_key("abc"), b"{}")
    assert run(where)[0] is Step.UNMARK
    assert "being made" in (expire.look(where, [KEY], None).plan.frozen or "")
    where.delete(catalog.marker_key("abc"))
    assert [s.name.text for s in read_listing(where).files] == names
    assert run(where, timedelta(days=1))[0] is Step.NOTHING  # the window has all of it
    assert run(where)[0] is Step.MARK
    run(where)
    begin = segment_name(1, expire.look(where, [KEY], None).archive.backups[0].start)
    left = [s.name.text for s in read_listing(where).files]
    assert left == [n for n in names if n[:24] >= begin]
    assert 3 <= len(left) < len(names)
    assert run(where)[0] in (Step.UNMARK, Step.NOTHING)
    assert where.get(expire.MARK) is None
    assert restorable(where, [KEY]).recovery.reaches == (of_second,)

    fetcher = archiver.fetch_mode(place / "f", place / "r" / "data")
    fetch = fetcher.command("fetch", "--timeout", "30")
    physical_restore(where, place / "r" / "data", keys=(KEY,), restore_command=fetch)
    with (place / "r" / "data" / "postgresql.conf").open("a") as file:
        file.write(f"unix_socket_directories = '{place / 'r'}'\narchive_mode = off\n")
    fetcher.start()
    restored = Postgres(place / "r")
    try:
        restored.start()
        wait(lambda: restored.sql("SELECT NOT pg_is_in_recovery()") == [(True,)], "the recovery ends")
        assert restored.sql("SELECT n FROM marks ORDER BY n") == [(n,) for n in range(5)]
    finally:
        restored.stop()
        fetcher.stop()
    # A segment that is lost is named.
    lost = next(s for s in read_listing(where).files if s.name.text == segment_name(1, of_second.last - 1))
    middle = segment_name(1, of_second.last - 1 - (1 << 24))
    where.delete(lost.key.replace(lost.name.text, middle))
    (gap,) = restorable(where, [KEY]).recovery.gaps
    assert f"{middle} is missing" in gap
    assert format_lsn(of_second.last) != format_lsn(restorable(where, [KEY]).recovery.reaches[0].last)
