"""A store that is looked after: expired under kills, known when it was robbed, and read as it was before."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from dev.s3 import S3Server
from matriarch.archive import tend as tending
from matriarch.archive.listing import read_listing
from matriarch.archive.restorable import restorable
from matriarch.backup import catalog
from matriarch.backup.jobresult import TendResult
from matriarch.backup.jobspec import ExpectedStore, ObjectLock, Seen, StoreSpec, TendTask
from matriarch.backup.store import Store, open_store
from matriarch.decide import wal_retention
from tests.postgres.archive.archivebed import KEY, Archiver, archiving, ready, wait
from tests.postgres.archive.test_expiring import Killed, Mortal
from tests.postgres.backup.bed import Postgres, s3_spec
from tests.postgres.backup.physbed import physical_backup, physical_restore


def tend(store: Store, expected: ExpectedStore, *, delete: bool = True) -> TendResult:
    return tending.tend(store, (KEY,), TendTask(expected=expected, wal=True, delete=delete))


def remember(found: TendResult) -> ExpectedStore:
    """As the controller does."""
    return ExpectedStore(head=found.head, wal=found.wal.newest if found.wal is not None else None)


def segments(store: Store) -> list[str]:
    return sorted(read_listing(store).segment_names)


def filled(place: Path, store: StoreSpec) -> tuple[Postgres, Archiver, list[Seen]]:
    """Two physical backups with WAL before, between and after them; both stopped."""
    server = Postgres(place / "p").create()
    server.stop()
    archiver = Archiver.create(place / "a", store, server.folder / "data")
    archiving(server, archiver)
    server.start()
    archiver.start()
    made = []
    try:
        server.sql("CREATE TABLE marks (n int)")
        for n in range(6):
            server.sql(f"INSERT INTO marks VALUES ({n})", "SELECT pg_switch_wal()")
            if n in (1, 3):
                opened = physical_backup(archiver.store, server, key=KEY)
                made.append(Seen(id=opened.body.id, sha256=opened.manifest.sha256, sequence=opened.body.sequence))
        wait(lambda: not ready(server), "all is stored")
    finally:
        archiver.stop()
        server.stop()
    return server, archiver, made


def test_what_is_marked_goes_under_kills_at_every_change_and_nothing_while_anything_is_lost(
    place: Path, store: StoreSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, archiver, made = filled(place, store)
    where = archiver.store
    seen = tend(where, ExpectedStore(backups=tuple(made)))
    assert seen.lost == ()
    assert seen.wal is not None
    assert (seen.wal.step, seen.wal.frozen, seen.backups) == ("Mark", None, 2)
    assert seen.wal.again is not None
    assert seen.head == made[1]
    reaches = restorable(where, [KEY]).recovery.reaches
    all_names = segments(where)
    assert seen.wal.newest == all_names[-1]

    # Retention takes the first backup: its tombstone says so, and nothing counts as lost.
    first = next(m for m in catalog.read_catalog(where).manifests if m.body.id == made[0].id)
    catalog.delete_backup(where, first)
    monkeypatch.setattr(wal_retention, "WAIT", timedelta(minutes=-1))  # S3 tells whole seconds
    expected = replace(remember(seen), backups=tuple(made))

    # While anything is missing nothing goes and the mark is taken back.
    hidden = where.get(f"manifests/{made[1].sequence:010d}-{made[1].id}.json")
    assert hidden is not None
    where.delete(f"manifests/{made[1].sequence:010d}-{made[1].id}.json")
    robbed = tend(where, expected)
    assert any(made[1].id in text for text in robbed.lost)
    assert robbed.wal is not None
    assert (robbed.wal.step, robbed.wal.deleted) == ("Unmark", 0)
    assert made[1].id in (robbed.wal.frozen or "")
    assert segments(where) == all_names
    where.put(f"manifests/{made[1].sequence:010d}-{made[1].id}.json", hidden)

    deleted = kills = 0
    for _ in range(100):
        try:
            found = tending.tend(
                Mortal(where, 1),  # type: ignore[arg-type]  # a store, by delegation
                (KEY,),
                TendTask(expected=expected, wal=True, delete=True),
            )
        except Killed:
            kills += 1
            continue
        assert found.lost == ()
        assert found.wal is not None
        deleted += found.wal.deleted
        if found.wal.step in ("Nothing", "Unmark"):
            break
    left = segments(where)
    begin = restorable(where, [KEY]).recovery.reaches
    assert begin == tuple(r for r in reaches if r.backup == made[1].id)
    assert kills > 1
    assert 2 <= len(left) < len(all_names)
    assert left == all_names[-len(left) :]
    assert all(made[1].id == r.backup for r in begin)
    # A dry run of the same changes nothing.
    dry = tend(where, expected, delete=False)
    assert dry.wal is not None
    assert (dry.wal.step, dry.wal.going) == ("Nothing", 0)


def test_a_bucket_that_was_emptied_is_known_for_it_and_brought_back_from_its_versions(
    place: Path, s3server: S3Server, tmp_path: Path
) -> None:
    s3server.make_bucket("vault", object_lock=True)
    spec = s3_spec(s3server, "vault", tmp_path / "credentials", prefix=tmp_path.name)
    spec = replace(spec, lock=ObjectLock(mode="COMPLIANCE", days=1))
    _, archiver, made = filled(place, StoreSpec(s3=spec))
    where = archiver.store
    expected = replace(remember(tend(where, ExpectedStore())), backups=tuple(made))
    assert tend(where, expected).lost == ()
    time.sleep(2.1)  # the server's Date tells whole seconds, and is set anew only once in one
    moment = where.now()
    time.sleep(1.1)
    client = s3server.client()
    for entry in list(where.list("")):
        client.delete_object(Bucket="vault", Key=f"{spec.prefix}/{entry.key}")
    assert list(where.list("")) == []
    robbed = tend(where, expected)
    assert len(robbed.lost) == 1
    assert "had backups" in robbed.lost[0]
    assert robbed.wal is None

    before = StoreSpec(s3=replace(spec, lock=None, as_of=moment.isoformat()))
    was = open_store(before)
    assert tend(was, expected, delete=False).lost == ()
    fetcher = replace(archiver, config=replace(archiver.config, store=before)).fetch_mode(
        place / "f", place / "r" / "data"
    )
    fetch = fetcher.command("fetch", "--timeout", "30")
    physical_restore(was, place / "r" / "data", keys=(KEY,), restore_command=fetch)
    with (place / "r" / "data" / "postgresql.conf").open("a") as file:
        file.write(f"unix_socket_directories = '{place / 'r'}'\narchive_mode = off\n")
    fetcher.start()
    restored = Postgres(place / "r")
    try:
        restored.start()
        wait(lambda: restored.sql("SELECT NOT pg_is_in_recovery()") == [(True,)], "the recovery ends")
        assert restored.sql("SELECT n FROM marks ORDER BY n") == [(n,) for n in range(6)]
    finally:
        restored.stop()
        fetcher.stop()
