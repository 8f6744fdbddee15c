"""A file that is gone from the archive: named when it is looked for, and no recovery is begun that would need it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from matriarch.archive.restorable import look_for, restorable
from matriarch.backup.jobspec import StoreSpec
from matriarch.decide.pitr import Target
from matriarch.errors import MatriarchError
from tests.postgres.archive.archivebed import KEY, Archiver, archiving, ready, wait
from tests.postgres.backup.bed import Postgres
from tests.postgres.backup.physbed import physical_backup

A_SECOND = 2.2  # and what makes it one by the store's clock, which is written down once a second and tells whole ones


def test_a_segment_or_a_history_that_is_gone(place: Path, store: StoreSpec) -> None:
    server = Postgres(place / "p").create()
    server.stop()
    archiver = Archiver.create(place / "a", store, server.folder / "data").start()
    archiving(server, archiver, "track_commit_timestamp = on")
    server.start()
    try:
        server.sql("CREATE TABLE marks (n int)")
        opened = physical_backup(archiver.store, server, key=KEY)
        for n in range(4):
            server.sql(f"INSERT INTO marks VALUES ({n})", "SELECT pg_switch_wal()")
        server.stop()
        (server.folder / "data" / "standby.signal").touch()  # a failover, as far as WAL knows
        server.start()
        server.sql("SELECT pg_promote()")
        wait(lambda: not ready(server), "what is left of the older timeline too")
        time.sleep(A_SECOND)
        server.sql("INSERT INTO marks VALUES (9)")
        ((last,),) = server.sql("SELECT max(pg_xact_commit_timestamp(xmin)) FROM marks")
        time.sleep(A_SECOND)
        server.sql("SELECT pg_switch_wal()", "INSERT INTO marks VALUES (10)", "SELECT pg_switch_wal()")
        wait(lambda: not ready(server), "all is archived")
    finally:
        server.stop()
        archiver.stop()
    where = archiver.store

    def refusal(target: Target) -> str:
        with pytest.raises(MatriarchError) as error:
            look_for(where, opened.body, (KEY,), target)
        return str(error.value)

    keys = sorted(e.key for e in where.list("wal"))
    assert restorable(where, [KEY]).recovery.gaps == ()
    targets = (Target("latest"), Target("time", last.isoformat()))
    for target in targets:
        look_for(where, opened.body, (KEY,), target)
    segments = [k for k in keys if k.startswith("wal/00000001/") and len(Path(k).name.partition(".")[0]) == 24]
    history = next(k for k in keys if k.endswith("00000002.history.zst.enc"))
    of_the_backup = [k for k in segments if "backup" not in k and "partial" not in k]
    # The history first: what is put back is newer by the store, and so is what the archive seems to reach.
    for victim in (history, of_the_backup[-2]):
        whole = where.get(victim)
        assert whole is not None
        where.delete(victim)
        name = Path(victim).name.removesuffix(".zst.enc")
        assert any(name in gap for gap in restorable(where, [KEY]).recovery.gaps), name
        for target in targets:
            assert name in refusal(target), (name, target)
        where.put(victim, whole)
        for target in targets:
            look_for(where, opened.body, (KEY,), target)
