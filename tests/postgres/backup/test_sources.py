"""Where a backup is read from: a standby if there is one, and never a state that was not there."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from matriarch.backup import dump as dump_module
from matriarch.backup import restore
from matriarch.backup.progress import Tracker
from matriarch.backup.stop import Stop
from matriarch.errors import Refused, Unavailable
from tests.postgres.backup.bed import KEY, Postgres, do_restore, in_loop, local, make_backup


@pytest.fixture
def pair(tools: Path, short_folder: Path, tmp_path: Path) -> Iterator[tuple[Postgres, Postgres]]:
    """A primary with one table, and a standby that has it too."""
    primary = Postgres(short_folder / f"p{tmp_path.name[-12:]}")
    standby = Postgres(short_folder / f"s{tmp_path.name[-12:]}")
    try:
        primary.create()
        primary.sql("CREATE DATABASE app")
        primary.sql("CREATE TABLE t AS SELECT i, md5(i::text) w FROM generate_series(1, 5000) i", database="app")
        primary.sql("CREATE UNLOGGED TABLE u AS SELECT 1 AS i", database="app")
        standby = primary.clone(standby.folder)
        yield primary, standby
    finally:
        standby.stop()
        primary.stop()


def caught_up(primary: Postgres, standby: Postgres) -> None:
    (lsn,) = primary.sql("SELECT pg_current_wal_flush_lsn()::text")[0]
    for _ in range(300):
        if standby.sql(f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'") == [(True,)]:
            return
        threading.Event().wait(0.1)
    raise AssertionError("the standby stays behind")


def test_a_standby_is_preferred(pair: tuple[Postgres, Postgres], tmp_path: Path, target: Postgres) -> None:
    primary, standby = pair
    caught_up(primary, standby)
    store = local(tmp_path / "store")
    opened = make_backup(store, primary, servers=[primary.server(), standby.server()], prefer="standby")
    (database,) = opened.details.databases
    assert (opened.body.origin.source, database.source) == ("standby", "standby")
    assert database.unlogged_skipped == ("public.u",)
    assert any("unlogged" in w for w in opened.body.warnings)
    assert do_restore(store, target).rows == 5000

    standby.stop()
    opened = make_backup(store, primary, servers=[standby.server(), primary.server()], prefer="standby")
    assert opened.body.origin.source == "primary"
    assert any("No standby" in w for w in opened.body.warnings)
    assert {t.name for t in opened.details.databases[0].tables} == {"t", "u"}

    primary.stop()
    with pytest.raises(Unavailable) as error:
        make_backup(store, primary, servers=[standby.server(), primary.server()], prefer="standby")
    assert error.value.reason == "SourceUnavailable"
    primary.start()
    standby.start()


def test_what_replay_needs_ends_the_dump_on_the_standby_not_the_backup(
    pair: tuple[Postgres, Postgres], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Postgres
) -> None:
    """VACUUM of dead rows on the primary conflicts with the snapshot; the primary is read then."""
    primary, standby = pair
    caught_up(primary, standby)
    original = dump_module._same_server
    roles: list[str] = []

    async def slow(session: Any, *of_dump: Any) -> Any:
        standby_here = await session.fetchval("SELECT pg_is_in_recovery()")
        roles.append("standby" if standby_here else "primary")
        if standby_here:
            await asyncio.to_thread(
                primary.sql, "DELETE FROM t WHERE i > 4000", "VACUUM t", "SELECT pg_switch_wal()", database="app"
            )
            await asyncio.sleep(1)
        return await original(session, *of_dump)

    monkeypatch.setattr(dump_module, "_same_server", slow)
    store = local(tmp_path / "store")
    opened = make_backup(store, primary, servers=[standby.server(), primary.server()], prefer="standby")
    assert roles[0] == "standby"
    assert opened.body.origin.source == "primary"
    assert do_restore(store, target).rows == 4001


def test_promoted_in_the_middle(
    pair: tuple[Postgres, Postgres], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never passed over in silence: it fails, and is taken again from what is primary now."""
    primary, standby = pair
    caught_up(primary, standby)
    original = dump_module._same_server
    promoted: list[bool] = []

    async def promote(session: Any, *of_dump: Any) -> Any:
        if not promoted:
            promoted.append(True)
            await asyncio.to_thread(standby.sql, "SELECT pg_promote()")
        return await original(session, *of_dump)

    monkeypatch.setattr(dump_module, "_same_server", promote)
    store = local(tmp_path / "store")
    with pytest.raises(Unavailable) as error:
        make_backup(store, primary, servers=[standby.server()], prefer="any")
    assert error.value.reason == "SourceChanged"
    assert "from standby on timeline 1 to primary on 2" in str(error.value)
    opened = make_backup(store, primary, servers=[standby.server()], prefer="standby")
    assert opened.body.origin.timeline == 2


def test_a_backup_under_load_is_one_moment(source: Postgres, target: Postgres, tmp_path: Path) -> None:
    """Clients move money, truncate, add tables and take from sequences; the copy is a state that was there."""
    source.sql("CREATE DATABASE busy")
    source.sql(
        "CREATE TABLE account AS SELECT i AS id, 100 AS money FROM generate_series(1, 1000) i",
        "ALTER TABLE account ADD PRIMARY KEY (id)",
        "CREATE TABLE scratch (i int)",
        "CREATE SEQUENCE s",
        "CREATE TABLE filler AS SELECT i, repeat('x', 500) AS w FROM generate_series(1, 60000) i",
        database="busy",
    )
    end = threading.Event()

    async def client(seed: int) -> None:
        session = await asyncpg.connect(host=str(source.folder), user="postgres", database="busy")
        step = seed
        while not end.is_set():
            step += 1
            a, b = step * 7 % 1000 + 1, step * 13 % 1000 + 1
            async with session.transaction():
                await session.execute("UPDATE account SET money = money - 1 WHERE id = $1", min(a, b))
                await session.execute("UPDATE account SET money = money + 1 WHERE id = $1", max(a, b))
            await session.fetchval("SELECT nextval('s')")
            if step % 5 == 0:
                await session.execute("INSERT INTO scratch VALUES (1)")
            if step % 40 == 0 and seed == 0:
                await session.execute("SET lock_timeout = '50ms'")
                with contextlib.suppress(asyncpg.LockNotAvailableError):
                    await session.execute("TRUNCATE scratch")
                await session.execute("SET lock_timeout = 0")
        await session.close()

    clients = [threading.Thread(target=lambda n=n: asyncio.run(client(n * 100_000))) for n in range(3)]  # type: ignore[misc]  # a bound default
    for thread in clients:
        thread.start()
    try:
        store = local(tmp_path / "store")
        for number in range(3):
            make_backup(store, source, task={"databases": ("busy",)})
            do_restore(store, target, restore_id=str(number), mode="in-place", amcheck=False)
            assert target.sql("SELECT sum(money), count(*) FROM account", database="busy") == [(100_000, 1000)]
    finally:
        end.set()
        for thread in clients:
            thread.join()
        source.sql("DROP DATABASE busy WITH (FORCE)")


def test_a_role_that_may_not_read_all_is_told_what_it_lacks(source: Postgres, tmp_path: Path) -> None:
    store = local(tmp_path / "store")
    source.sql("CREATE DATABASE closed", "ALTER ROLE matriarch_backup NOBYPASSRLS")
    source.sql(
        "CREATE TABLE r (i int)",
        "ALTER TABLE r ENABLE ROW LEVEL SECURITY",
        "INSERT INTO r VALUES (1)",
        database="closed",
    )
    try:
        with pytest.raises(Refused) as error:
            make_backup(store, source, task={"databases": ("closed",)})
        assert error.value.reason == "PermissionDenied"
        assert "BYPASSRLS" in str(error.value)
    finally:
        source.sql("ALTER ROLE matriarch_backup BYPASSRLS", "DROP DATABASE closed")
    with pytest.raises(Refused) as error:
        make_backup(store, source, task={"databases": ("no-such",)})
    assert error.value.reason == "BadSpec"


def test_a_table_that_somebody_holds_is_not_waited_for_for_ever(
    source: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matriarch.backup import server as server_module

    monkeypatch.setitem(server_module._SESSION, "lock_timeout", "500")
    source.sql("CREATE DATABASE held")
    source.sql("CREATE TABLE t (i int)", database="held")

    async def hold_and_back_up() -> None:
        holder = await asyncpg.connect(host=str(source.folder), user="postgres", database="held")
        await holder.execute("BEGIN; LOCK TABLE t")
        try:
            with pytest.raises(Unavailable) as error:
                await asyncio.to_thread(make_backup, local(tmp_path / "store"), source, task={"databases": ("held",)})
            assert error.value.reason == "SourceChanged"
            assert "lock timeout" in str(error.value)
        finally:
            await holder.close()

    try:
        in_loop(hold_and_back_up())
    finally:
        source.sql("DROP DATABASE held")


def test_every_object_of_a_real_server_verifies(source: Postgres, tmp_path: Path) -> None:
    store = local(tmp_path / "store")
    opened = make_backup(store, source)
    tracker = Tracker()
    restore.check_object(store, restore.find_trusted(store, opened.body.id, (KEY,), False), tracker, Stop())
    assert tracker.bytes_done == opened.body.object.text_size
    assert tracker.read().percent == 100
