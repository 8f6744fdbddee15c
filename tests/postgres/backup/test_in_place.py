"""A restore over a server in use: nothing changes before the switch, which is one step, and happens once."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from matriarch.backup import restore
from matriarch.backup import target as places
from matriarch.backup.jobresult import Result
from matriarch.backup.jobspec import JobSpec, LocalStore, RestoreTask, ServerSpec, StoreSpec
from matriarch.backup.local import Local
from matriarch.backup.manifest import Sequence
from matriarch.backup.progress import Tracker
from matriarch.errors import Corrupt, MatriarchError, Refused, Unavailable
from tests.postgres.backup.bed import (
    CLUSTER,
    KEY,
    Postgres,
    do_restore,
    in_loop,
    job_environment,
    local,
    make_backup,
)


@pytest.fixture
def store(tmp_path: Path) -> Local:
    return local(tmp_path / "store")


@pytest.fixture
def shop(target: Postgres, store: Local) -> Postgres:
    """A server whose database `shop` was backed up with 1000 rows, and went on."""
    target.sql("CREATE ROLE keeper LOGIN PASSWORD 'old'", "CREATE DATABASE shop OWNER keeper")
    target.sql("CREATE TABLE t AS SELECT i, md5(i::text) AS w FROM generate_series(1, 1000) i", database="shop")
    target.sql("CREATE SEQUENCE s", "SELECT nextval('s')", database="shop")
    make_backup(store, target, servers=[target.server()])
    target.sql("DELETE FROM t WHERE i > 500", "CREATE TABLE later (i int)", database="shop")
    target.sql("ALTER ROLE keeper PASSWORD 'new'")
    return target


def rows(server: Postgres) -> int:
    return int(server.sql("SELECT count(*) FROM t", database="shop")[0][0])


def test_a_database_that_holds_something_is_not_replaced_unasked(store: Local, shop: Postgres) -> None:
    before = shop.state()
    with pytest.raises(Refused) as error:
        do_restore(store, shop)
    assert error.value.reason == "TargetNotEmpty"
    assert "shop" in str(error.value)
    assert shop.state() == before
    assert rows(shop) == 500


def test_an_empty_database_of_that_name_gives_way(store: Local, shop: Postgres) -> None:
    """As in a new cluster, whose bootstrap makes one."""
    shop.sql("DROP DATABASE shop", "CREATE DATABASE shop")
    shop.sql("CREATE EXTENSION pg_stat_statements", database="shop")
    do_restore(store, shop, keep_old=True)
    assert rows(shop) == 1000
    assert shop.databases() == ["postgres", "shop"]


def test_replaced_in_one_step_while_clients_are_connected(store: Local, shop: Postgres) -> None:
    async def client(end: asyncio.Event) -> set[int]:
        """Sees the old state or the new one, never one in between."""
        seen = set()
        while not end.is_set():
            try:
                session = await asyncpg.connect(host=str(shop.folder), user="keeper", database="shop", timeout=10)
                try:
                    seen.add(await session.fetchval("SELECT count(*) FROM t"))
                finally:
                    session.terminate()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError):
                pass
            await asyncio.sleep(0)
        return seen

    async def both() -> set[int]:
        end = asyncio.Event()
        clients = [asyncio.ensure_future(client(end)) for _ in range(3)]
        request = restore.Request(
            store=store,
            servers=[shop.server()],
            keys=(KEY,),
            task=RestoreTask(backup="latest", mode="in-place", restore_id="r", amcheck=False),
        )
        try:
            await restore.restore(request)
        finally:
            await asyncio.sleep(0.2)
            end.set()
        return set().union(*await asyncio.gather(*clients))

    shop.sql("GRANT SELECT ON t TO keeper", database="shop")
    # The grant is younger than the backup: after the switch the client is refused, before it sees 500 rows.
    assert in_loop(both()) <= {500, 1000}
    assert rows(shop) == 1000
    assert shop.databases() == ["postgres", "shop"]
    assert shop.sql("SELECT datallowconn, datconnlimit FROM pg_database WHERE datname = 'shop'") == [(True, -1)]


def test_what_was_replaced_can_be_kept(store: Local, shop: Postgres) -> None:
    result = do_restore(store, shop, mode="in-place", keep_old=True)
    (kept,) = result.kept
    assert shop.sql("SELECT count(*) FROM t", database=kept) == [(500,)]
    # It does not get into the next backup, and nobody but a superuser gets into it.
    opened = make_backup(store, shop, servers=[shop.server()])
    assert [d.name for d in opened.details.databases] == ["shop"]
    with pytest.raises(asyncpg.TooManyConnectionsError):
        shop.sql("SELECT 1", database=kept, user="keeper")


def test_roles_that_exist_keep_their_passwords(store: Local, shop: Postgres) -> None:
    before = shop.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'keeper'")
    do_restore(store, shop, mode="in-place", amcheck=False)
    assert shop.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'keeper'") == before


def test_the_second_run_of_a_finished_restore_only_tells(store: Local, shop: Postgres) -> None:
    first = do_restore(store, shop, mode="in-place", restore_id="one", amcheck=False)
    shop.sql("INSERT INTO t VALUES (2000, 'written after the switch')", database="shop")
    again = do_restore(store, shop, mode="in-place", restore_id="one", amcheck=False)
    assert again == replace(first, already_done=True)
    assert rows(shop) == 1001
    assert not do_restore(store, shop, mode="in-place", restore_id="two", amcheck=False).already_done
    assert rows(shop) == 1000


def test_one_changed_row_is_seen(store: Local, shop: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between loading and comparing somebody changes, moves, adds or removes something."""
    compare = restore._compare
    for number, (statement, what) in enumerate(
        (
            ("UPDATE t SET w = w || ' ' WHERE i = 700", "table public.t: has other content"),
            ("UPDATE t SET w = NULL WHERE i = 1", "table public.t: has other content"),
            ("DELETE FROM t WHERE i = 3", "has 999 rows, the backup 1000"),
            ("INSERT INTO t SELECT * FROM t LIMIT 1", "has 1001 rows"),
            ("UPDATE t a SET w = b.w FROM t b WHERE a.i + b.i = 11 AND a.i IN (1, 10)", "has other content"),
            ("DROP TABLE t", "table public.t: is missing"),
            ("CREATE TABLE extra ()", "table public.extra: is not in the backup"),
            ("SELECT nextval('s'), nextval('s')", "sequence public.s: stands at"),
            ("SELECT lo_create(1)", "large objects: are 1, in the backup 0"),
        )
    ):

        async def meddled(server, database, place, tracker, statement=statement):  # type: ignore[no-untyped-def]  # as compare
            session = await server.connect(place.temporary)
            await session.execute(f"SET search_path = public; {statement}")
            await session.close()
            await compare(server, database, place, tracker)

        monkeypatch.setattr(restore, "_compare", meddled)
        before = shop.state()
        with pytest.raises(Corrupt) as error:
            do_restore(store, shop, mode="in-place", restore_id=str(number), amcheck=False)
        assert error.value.reason == "VerificationFailed"
        assert what in str(error.value)
        assert shop.state() == before
    assert rows(shop) == 500


def test_a_row_that_only_moved_is_no_difference(store: Local, shop: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    compare = restore._compare

    async def shuffled(server, database, place, tracker):  # type: ignore[no-untyped-def]  # as compare
        session = await server.connect(place.temporary)
        await session.execute("SET search_path = public; UPDATE t SET w = w WHERE i % 3 = 0")
        await session.execute("CREATE INDEX ON t (w); CLUSTER t USING t_w_idx")
        await session.close()
        await compare(server, database, place, tracker)

    monkeypatch.setattr(restore, "_compare", shuffled)
    do_restore(store, shop, mode="in-place", amcheck=False)


def test_damage_that_only_amcheck_sees(store: Local, shop: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that has lost its order holds the same rows and answers wrong."""
    shop.sql("DROP TABLE later", "CREATE INDEX big ON t (w)", database="shop")
    make_backup(store, shop, servers=[shop.server()])
    amcheck = restore._amcheck

    async def spoilt(server, database, place, stop):  # type: ignore[no-untyped-def]  # as _amcheck
        session = await server.connect(place.temporary)
        # The comparison turns round under the index, as a new version of a collation does.
        await session.execute("SET search_path = public; CREATE TABLE x AS SELECT generate_series(1, 1000) AS v")
        await session.execute("""
            CREATE FUNCTION cmp(int, int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT sign($1 - $2)::int';
            CREATE OPERATOR CLASS turned FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =,
                OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 cmp(int, int);
            CREATE INDEX turn ON x (v turned);
            CREATE OR REPLACE FUNCTION cmp(int, int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT sign($2 - $1)::int';
        """)
        await session.close()
        await amcheck(server, database, place, stop)

    monkeypatch.setattr(restore, "_amcheck", spoilt)
    before = shop.state()
    with pytest.raises(Corrupt) as error:
        do_restore(store, shop, mode="in-place")
    assert error.value.reason == "VerificationFailed"
    assert "turn" in str(error.value)
    assert shop.state() == before


def test_a_dump_that_psql_refuses(store: Local, shop: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here: its temporary database is spoilt before the load, as by an extension that the target lacks."""
    create = restore.databases.create_sql

    def with_a_trap(properties, name):  # type: ignore[no-untyped-def]  # as create_sql
        return create(properties, name).replace("template0", "template1")

    shop.sql("CREATE TABLE t (other int)", database="template1")
    monkeypatch.setattr(restore.databases, "create_sql", with_a_trap)
    before = shop.state()
    try:
        with pytest.raises(Corrupt) as error:
            do_restore(store, shop, mode="in-place")
    finally:
        shop.sql("DROP TABLE t", database="template1")
    assert error.value.reason == "RestoreFailed"
    assert 'relation "t" already exists' in str(error.value)
    assert shop.state() == before


def restore_job(folder: Path, store: Path, server: Postgres) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    spec = JobSpec(
        task="restore",
        cluster=CLUSTER,
        store=StoreSpec(local=LocalStore(path=str(store))),
        keys=("k",),
        server=ServerSpec(hosts=(str(server.folder),), user="postgres", tls=None),
        restore=RestoreTask(backup="latest", mode="in-place", restore_id="job", keep_old=True),
    )
    with (folder / "stderr").open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "matriarch.backup.job"],
            env=dict(job_environment(spec, folder)),
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


@pytest.mark.parametrize(("number", "times"), [(signal.SIGKILL, 6), (signal.SIGTERM, 3)])
def test_killed_at_any_moment_and_run_again(
    tmp_path: Path, store: Local, shop: Postgres, number: signal.Signals, times: int
) -> None:
    """Whenever it dies: the old data or the new, whole and open for clients; and the next run ends with the new."""
    began = time.monotonic()
    assert restore_job(tmp_path / "job", tmp_path / "store", shop).wait(60) == 0
    took = time.monotonic() - began
    for step in range(times):
        shop.sql("DROP DATABASE shop WITH (FORCE)", "DROP TABLE matriarch.restores")
        for name in shop.databases():
            if name != "postgres":
                shop.sql(f'DROP DATABASE "{name}" WITH (FORCE)')
        shop.sql("CREATE DATABASE shop OWNER keeper")
        shop.sql("CREATE TABLE t AS SELECT generate_series(1, 500) i", database="shop")
        process = restore_job(tmp_path / "job", tmp_path / "store", shop)
        time.sleep(took * (0.3 + 0.7 * step / times))
        process.send_signal(number)
        process.wait(60)
        if shop.sql("SELECT datallowconn FROM pg_database WHERE datname = 'shop'") == [(True,)]:
            assert rows(shop) in (500, 1000)  # closed only if it died inside the switch: the next run opens it
        assert restore_job(tmp_path / "job", tmp_path / "store", shop).wait(200) == 0
        result = Result.from_json((tmp_path / "job" / "termination-log").read_text())
        assert result.ok
        assert rows(shop) == 1000
        left = shop.databases()
        assert [n for n in left if n.startswith("matriarch_restore_")] == []
        assert len(left) == 3  # postgres, shop and what it replaced


def test_the_switch_fails_and_everything_is_open_again(
    store: Local, shop: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prepared transaction holds the database."""
    monkeypatch.setattr(places, "_SWITCH_WAIT", 5.0)
    before = shop.state()

    async def held(*args: object) -> None:
        raise asyncpg.ObjectInUseError("held")

    monkeypatch.setattr(places, "_rename", held)
    with pytest.raises(MatriarchError):
        do_restore(store, shop, mode="in-place", amcheck=False)
    assert shop.state() == before
    assert rows(shop) == 500


def test_two_restores_of_one_server_do_not_meet(store: Local, shop: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_LOCK_WAIT", 1.0)

    async def held() -> None:
        session = await shop.server().connect("postgres")
        await places.lock(session)
        request = restore.Request(
            store=store,
            servers=[shop.server()],
            keys=(KEY,),
            task=RestoreTask(backup="latest", mode="in-place", restore_id="r"),
        )
        try:
            with pytest.raises(Unavailable, match="Another restore"):
                await restore.restore(request)
        finally:
            await session.close()

    in_loop(held())


def test_the_wrong_kind_of_target(store: Local, shop: Postgres) -> None:
    with pytest.raises(Refused) as error:
        do_restore(store, replace(shop), backup="latest", databases=("nope",))
    assert error.value.reason == "BadSpec"
    request = restore.Request(
        store=store,
        servers=[shop.server("keeper")],
        keys=(KEY,),
        task=RestoreTask(backup="latest", mode="in-place", restore_id="r"),
    )
    with pytest.raises(Refused) as error:
        in_loop(restore.restore(request))
    assert error.value.reason == "PermissionDenied"


def test_a_live_server_is_compared_with_a_backup(store: Local, shop: Postgres) -> None:
    opened = restore.find_trusted(store, "latest", (KEY,), False)

    async def differences() -> list[str]:
        session = await shop.server().connect("shop")
        try:
            return [str(d) for d in await restore.compare_database(session, opened.details.databases[0], Tracker())]
        finally:
            await session.close()

    assert len(in_loop(differences())) == 2
    do_restore(store, shop, mode="in-place", amcheck=False)
    assert in_loop(differences()) == []


def test_sequences_between_two_readings() -> None:
    from matriarch.backup.fingerprint import _compare_sequences

    def sequence(increment: int, first: tuple[int, bool], last: tuple[int, bool]) -> Sequence:
        return Sequence(schema="a", name="s", increment=increment, first=first[0], first_called=first[1],
                        last=last[0], last_called=last[1])  # fmt: skip

    def differs(wanted: Sequence, value: int, called: bool) -> bool:
        return bool(_compare_sequences((wanted,), {("a", "s"): (wanted.increment, value, called)}))

    still = sequence(1, (5, True), (5, True))
    assert not differs(still, 5, True)
    assert differs(still, 5, False)  # would hand out 5 again
    assert differs(still, 4, True)
    assert differs(still, 6, True)
    moving = sequence(1, (5, False), (9, True))
    assert not any(differs(moving, v, True) for v in (5, 7, 9))
    assert differs(moving, 10, True)
    down = sequence(-2, (100, True), (90, True))
    assert not differs(down, 96, True)
    assert differs(down, 102, True)
    assert not differs(sequence(1, (9, True), (2, True)), 1, True)  # set back meanwhile
