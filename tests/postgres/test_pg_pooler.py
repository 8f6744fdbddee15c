"""PgBouncer of the image before real servers: what clients see while the primary changes."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import asyncpg
import pytest

from dev.rootfs import Rootfs
from matriarch.agent import poolers
from matriarch.agent.pooler.console import Console
from matriarch.agent.pooler.gate import Gate
from matriarch.agent.pooler.primary import meet
from matriarch.agent.tls import Tls
from matriarch.errors import Refused
from matriarch.postgres.pgbouncer import POOLER_ROLE, Pool, render
from tests.postgres.pgbox import Box, Member, eventually, streaming

pytestmark = pytest.mark.timeout(240)

INSERT = "INSERT INTO t SELECT coalesce(max(i), 0) + 1 FROM t"


class Service:
    """A Service of Kubernetes: an address that leads to one member, or refuses."""

    def __init__(self) -> None:
        self.target: Member | None = None
        self.port = 0
        self._server: asyncio.Server | None = None
        self._work: set[asyncio.Task[None]] = set()

    async def start(self, address: str = "127.0.0.1", port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, address, port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._work.add(task)
        ends, pumps = [writer], []
        try:
            if self.target is None:
                return
            there, back = await asyncio.open_connection(self.target.address, self.target.box.port)
            ends.append(back)
            pumps = [asyncio.create_task(_pump(reader, back)), asyncio.create_task(_pump(there, writer))]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            return
        finally:
            self._work.discard(task)
            for pump in pumps:
                pump.cancel()
            for end in ends:
                end.close()
            await asyncio.gather(*pumps, *(end.wait_closed() for end in ends), return_exceptions=True)


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()


@dataclass
class Pooler:
    """PgBouncer with its gate, as in its Pod."""

    folder: Path
    port: int
    program: subprocess.Popen[bytes]
    gate: Gate
    console: Console
    keeper: asyncio.Task[None] | None = None
    clients: list[asyncpg.Connection[asyncpg.Record]] = field(default_factory=list)

    async def connect(
        self, user: str = "app", password: str = "secret", **more: object
    ) -> asyncpg.Connection[asyncpg.Record]:
        client: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
            host="127.0.0.1", port=self.port, user=user, password=password, database="app", ssl="require", **more
        )
        self.clients.append(client)
        return client

    async def servers(self) -> list[dict[str, str]]:
        return await self.console.query("SHOW SERVERS")


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    made = Service()
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def pair(box: Box) -> tuple[Member, Member]:
    one = await box.primary()
    two = await box.standby(2, one, standby_names="")
    await one.sql("CREATE TABLE t (i int PRIMARY KEY)")
    await one.sql("ALTER TABLE t OWNER TO app")
    await streaming(one, two)
    return one, two


@pytest.fixture
async def pooler(box: Box, pair: tuple[Member, Member], service: Service) -> AsyncIterator[Pooler]:
    service.target = pair[0]
    folder = box.root / "pooler"
    folder.mkdir()
    box.ca.issue(POOLER_ROLE, folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pool = Pool(
        host="127.0.0.1", mode="transaction", minimum=2, maximum=10, clients=100,
        acquire=30_000, connect=30_000, idle=30_000, lifetime=3_600_000,
    )  # fmt: skip
    text = render(pool, socket_dir=str(folder), tls_folder=str(folder))
    text = text.replace("port=5432", f"port={service.port}").replace("listen_port = 5432", f"listen_port = {port}")
    settings = folder / "pgbouncer.ini"
    settings.write_text(text.replace("listen_addr = *", "listen_addr = 127.0.0.1"))
    with (folder / "log").open("wb") as log:
        program = subprocess.Popen([box.bin / "pgbouncer", settings], stdout=log, stderr=log)  # noqa: ASYNC220 - ended below
    path = folder / f".s.PGSQL.{port}"
    gate = Gate(path, lambda seconds: meet("127.0.0.1", folder, seconds, port=service.port))
    made = Pooler(folder, port, program, gate, Console(path))
    await eventually(path.exists, "PgBouncer listens")
    made.keeper = asyncio.create_task(gate.run())
    await eventually(lambda: gate.sees is not None, "the primary is known")
    yield made
    made.keeper.cancel()
    await asyncio.gather(made.keeper, return_exceptions=True)
    for client in made.clients:
        client.terminate()
    await gate.close()
    made.console.close()
    program.kill()
    program.wait()
    print((folder / "log").read_text()[-4000:])


@dataclass
class Writers:
    """Clients that write all the time; every error is kept."""

    done: int = 0
    errors: list[str] = field(default_factory=list)
    slowest: float = 0.0
    stop: bool = False

    async def run(self, pooler: Pooler, number: int, *, reconnect: bool = False) -> None:
        client = await pooler.connect()
        serial = number * 1_000_000
        loop = asyncio.get_running_loop()
        while not self.stop:
            serial += 1
            began = loop.time()
            try:
                if client.is_closed():
                    client = await pooler.connect(timeout=5)
                await client.execute("INSERT INTO t VALUES ($1)", serial)
                self.done += 1
                self.slowest = max(self.slowest, loop.time() - began)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as e:
                self.errors.append(f"{type(e).__name__}: {e}")
                if not reconnect:
                    raise
            await asyncio.sleep(0.01)


async def test_clients_log_in_with_their_own_password(pooler: Pooler) -> None:
    client = await pooler.connect()
    assert await client.fetchval("SELECT current_user") == "app"
    assert await client.fetchval("SELECT $1::int + 1", 41) == 42  # the extended protocol, in transaction mode
    with pytest.raises(asyncpg.PostgresError):
        await pooler.connect(password="wrong")
    for user in ("postgres", POOLER_ROLE, "nobody"):
        with pytest.raises(asyncpg.PostgresError):
            await pooler.connect(user=user)
    with pytest.raises((OSError, asyncpg.PostgresError)):  # not without TLS
        await asyncpg.connect(
            host="127.0.0.1", port=pooler.port, user="app", password="secret", database="app", ssl=False
        )


async def test_the_lookup_shows_one_verifier_and_no_more(pair: tuple[Member, Member], pooler: Pooler) -> None:
    one, _ = pair
    assert len(await one.sql("SELECT * FROM matriarch_pooler.lookup('app')", database="postgres")) == 1
    for name in ("postgres", "matriarch_stream", "matriarch_pooler", "nobody"):
        assert await one.sql("SELECT * FROM matriarch_pooler.lookup($1)", name, database="postgres") == []
    rights = "SELECT has_function_privilege($1, 'matriarch_pooler.lookup(text)', 'EXECUTE')"
    assert await one.value(rights, POOLER_ROLE, database="postgres") is True
    assert await one.value(rights, "app", database="postgres") is False
    assert await one.value("SELECT has_table_privilege($1, 'pg_authid', 'SELECT')", POOLER_ROLE) is False


async def test_a_switchover_shows_no_error(pair: tuple[Member, Member], service: Service, pooler: Pooler) -> None:
    one, two = pair
    writers = Writers()
    work = [asyncio.create_task(writers.run(pooler, n)) for n in range(4)]
    await eventually(lambda: writers.done > 40, "writes flow")
    assert await pooler.gate.pause(3.0)
    assert await pooler.servers() == []
    assert await one.server.stop("fast")
    service.target = None
    before = writers.done
    await two.server.promote(2)
    await asyncio.sleep(0.2)
    assert writers.done == before
    service.target = two
    await eventually(lambda: writers.done > before + 40, "writes flow again")
    newcomer = await pooler.connect()
    assert await newcomer.fetchval("SELECT current_setting('cluster_name')") == "orders-2"
    writers.stop = True
    await asyncio.gather(*work)
    assert writers.errors == []
    assert not pooler.gate.held


async def test_a_pause_that_leads_to_nothing_ends_when_it_is_called_off(pooler: Pooler) -> None:
    client = await pooler.connect()
    assert await pooler.gate.pause(1.0)
    waiting = asyncio.create_task(client.fetchval("SELECT 1"))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    pooler.gate.resume()
    assert await asyncio.wait_for(waiting, 2.0) == 1


async def test_a_pause_waits_for_transactions_no_longer_than_its_limit(pooler: Pooler) -> None:
    client = await pooler.connect()
    await client.execute("BEGIN")
    await client.execute("INSERT INTO t VALUES (1)")
    assert not await pooler.gate.pause(0.3)
    await client.execute("COMMIT")
    assert await pooler.gate.pause(1.0)
    pooler.gate.resume()
    assert await client.fetchval("SELECT count(*) FROM t") == 1


async def test_a_hold_without_a_successor_has_an_end(
    pooler: Pooler, monkeypatch: pytest.MonkeyPatch, pair: tuple[Member, Member]
) -> None:
    monkeypatch.setattr("matriarch.agent.pooler.gate.HOLD", 0.5)
    client = await pooler.connect()
    assert await pooler.gate.pause(0.2)
    assert await asyncio.wait_for(client.fetchval("SELECT 1"), 3.0) == 1


async def test_a_failover_cuts_off_who_waits_and_holds_the_rest(
    pair: tuple[Member, Member], service: Service, pooler: Pooler
) -> None:
    """The old primary is frozen: nothing closes its connections but the pooler."""
    one, two = pair
    busy, idle = await pooler.connect(), await pooler.connect()
    assert await idle.fetchval("SELECT 1") == 1
    sleeping = asyncio.create_task(busy.execute("SELECT pg_sleep(60)"))
    await eventually(lambda: _active(one), "it sleeps")
    service.target = None
    await two.server.promote(2)
    service.target = two
    await pooler.gate.moved({two.address})
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await asyncio.wait_for(sleeping, 2.0)
    assert await asyncio.wait_for(idle.fetchval("SELECT current_setting('cluster_name')"), 5.0) == "orders-2"


async def _active(member: Member) -> bool:
    return bool(
        await member.sql("SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND usename = 'app'")
    )


async def test_a_crash_is_ridden_out(pair: tuple[Member, Member], service: Service, pooler: Pooler) -> None:
    one, two = pair
    writers = Writers()
    work = [asyncio.create_task(writers.run(pooler, n, reconnect=True)) for n in range(4)]
    idle = await pooler.connect()
    await eventually(lambda: writers.done > 40, "writes flow")
    one.kill()
    service.target = None
    before = writers.done
    await two.server.promote(2)
    service.target = two
    await pooler.gate.moved({two.address})
    await eventually(lambda: writers.done > before + 40, "writes flow again")
    writers.stop = True
    await asyncio.gather(*work)
    print(writers)
    assert len(writers.errors) <= 8  # those whose answer was under way, and perhaps once more
    assert await idle.fetchval("SELECT 1") == 1  # who did not ask for anything was not disconnected


async def test_the_console_says_no(pooler: Pooler) -> None:
    with pytest.raises(Refused):
        await pooler.console.query("NONSENSE")
    assert (await pooler.console.query("SHOW STATE"))[0]["key"]


@pytest.fixture
async def pod(
    box: Box, pair: tuple[Member, Member], pg_rootfs: Rootfs, tmp_path: Path
) -> AsyncIterator[tuple[Service, subprocess.Popen[bytes]]]:
    """The container as it is in its Pod: PID 1, uid 999, nothing writable but its folders, the API server away."""
    service = Service()
    await service.start("127.0.0.50", 5432)
    service.target = pair[0]
    folders = {name: box.root / name for name in ("tls", "settings", "run", "account")}
    box.ca.issue(POOLER_ROLE, folders["tls"], "orders-pooler-rw.test.svc")
    (folders["tls"] / "tls.key").chmod(0o644)
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    pool = Pool(
        host="orders-rw.test.svc", mode="transaction", minimum=2, maximum=10, clients=100,
        acquire=30_000, connect=30_000, idle=30_000, lifetime=3_600_000,
    )  # fmt: skip
    text = render(pool, socket_dir="/run/matriarch", tls_folder="/etc/matriarch/tls")
    (folders["settings"] / "pgbouncer-rw.ini").write_text(text.replace("listen_addr = *", "listen_addr = 127.0.0.60"))
    hosts = box.root / "hosts"
    hosts.write_text("127.0.0.1 localhost\n127.0.0.50 orders-rw.test.svc\n")
    for name, content in (("token", "t"), ("namespace", "test"), ("ca.crt", (folders["tls"] / "ca.crt").read_text())):
        (folders["account"] / name).write_text(content)
    with (box.root / "pooler.log").open("wb") as log:
        program = pg_rootfs.popen(
            ["python", "-m", "matriarch.agent.pooler.main"],
            stdout=log,
            stderr=log,
            run_folder=folders["run"],
            read_only={
                "/etc/hosts": hosts,
                "/etc/matriarch/tls": folders["tls"],
                "/etc/matriarch/pooler": folders["settings"],
                "/run/secrets/kubernetes.io/serviceaccount": folders["account"],
            },
            env={
                "MATRIARCH_CLUSTER": "orders",
                "MATRIARCH_NAMESPACE": "test",
                "MATRIARCH_POOLER": "rw",
                "KUBERNETES_SERVICE_HOST": "127.0.0.1",
                "KUBERNETES_SERVICE_PORT": "9",
            },
        )
    try:
        yield service, program
    finally:
        program.kill()
        program.wait()
        await service.close()
        print((box.root / "pooler.log").read_text()[-6000:])


async def _ready() -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", 7080)
        writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")
        said = await reader.readline()
        writer.close()
    except OSError:
        return False
    return b" 200 " in said


async def test_the_pod_pauses_at_an_agents_word_and_ends_in_order(
    box: Box, pair: tuple[Member, Member], pod: tuple[Service, subprocess.Popen[bytes]]
) -> None:
    one, two = pair
    service, program = pod
    await eventually(_ready, "the pooler is ready")
    client = await asyncpg.connect(
        host="127.0.0.60", port=5432, user="app", password="secret", database="app", ssl="require"
    )
    assert await client.fetchval("SELECT current_setting('cluster_name')") == "orders-1"
    agent = SimpleNamespace(
        config=SimpleNamespace(pooler_pause=2.0),
        poolers={"orders-pooler-rw-x": ("127.0.0.1", "192.0.2.1")},  # the second one never answers
        peers=SimpleNamespace(tls=Tls(one.paths.secret)),
        env=SimpleNamespace(cluster="orders", namespace="test"),
    )
    began = asyncio.get_running_loop().time()
    await poolers.pause(agent)  # type: ignore[arg-type]  # all that it looks at
    assert asyncio.get_running_loop().time() - began < 1.5
    waiting = asyncio.create_task(client.fetchval("SELECT current_setting('cluster_name')"))
    assert await one.server.stop("fast")
    service.target = two
    await two.server.promote(2)
    assert await asyncio.wait_for(waiting, 5.0) == "orders-2"

    stranger = box.root / "stranger"
    box.ca.issue("somebody", stranger)
    agent.peers.tls = Tls(stranger)
    await poolers.pause(agent)  # type: ignore[arg-type]  # it is refused, and says so in the log alone
    assert await asyncio.wait_for(client.fetchval("SELECT 1"), 1.0) == 1

    program.terminate()
    await asyncio.sleep(0.2)
    assert not await _ready()
    assert await client.fetchval("SELECT 1") == 1  # who is there may finish
    await client.close()
    assert await asyncio.to_thread(program.wait, 10) == 0
