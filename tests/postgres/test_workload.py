"""The outside client and CodePal against a real PostgreSQL: what they claim to see, they see."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from bench.client import TABLE, Run
from bench.figures import figures, parse
from dev.codepal import data, schema
from dev.host import PROJECT
from dev.rootfs import Rootfs, inner_pid

HBA = "host all all 127.0.0.1/32 trust\nlocal all all trust\n"


class Server:
    """One PostgreSQL on a port of its own, killed and started at will."""

    def __init__(self, rootfs: Rootfs, folder: Path) -> None:
        self._rootfs = rootfs
        self._folders = {"data": folder / "volume", "run_folder": folder / "run"}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        data_folder = "/var/lib/matriarch/pgdata"
        rootfs.run(["initdb", "-D", data_folder, "-U", "postgres", "--no-sync"], **self._folders)
        (self._folders["data"] / "pgdata" / "pg_hba.conf").write_text(HBA)

    @property
    def uri(self) -> str:
        return f"postgresql://postgres@orders-rw.prod.svc:{self._port}/postgres"

    @property
    def local_uri(self) -> str:
        return self.uri.replace("orders-rw.prod.svc", "127.0.0.1")

    def start(self, **parameters: str) -> None:
        settings = {"listen_addresses": "127.0.0.1", "port": str(self._port), **parameters}
        argv = ["postgres", "-D", "/var/lib/matriarch/pgdata", "-k", "/run/matriarch"]
        for name, value in settings.items():
            argv += ["-c", f"{name}={value}"]
        # PostgreSQL refuses to start while this file names a live pid, and in a new PID namespace it is always pid 1.
        (self._folders["data"] / "pgdata" / "postmaster.pid").unlink(missing_ok=True)
        self._process = self._rootfs.popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self._folders)

    def kill(self) -> None:
        """SIGKILL of the postmaster; the kernel ends the rest with its PID namespace."""
        if self._process:
            os.kill(inner_pid(self._process.pid), signal.SIGKILL)
            self._process.wait(20)
            self._process = None

    async def connect(self) -> Any:
        deadline = time.monotonic() + 30
        while True:
            try:
                return await asyncpg.connect(self.local_uri, timeout=2)
            except (OSError, TimeoutError, asyncpg.PostgresError):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)

    def close(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait(20)


@pytest.fixture
def server(pg_rootfs: Rootfs, tmp_path: Path) -> Iterator[Server]:
    made = Server(pg_rootfs, tmp_path)
    yield made
    made.close()


@pytest.fixture
async def connection(server: Server) -> AsyncIterator[Any]:
    server.start(fsync="off")
    made = await server.connect()
    yield made
    await made.close(timeout=5)


class Client:
    """The outside client as its own process, as the bench and the demo run it."""

    def __init__(self, uri: str, log: Path) -> None:
        self.run = Run.now()
        self.log = log
        argv = ["-m", "bench.client", "--log", str(log), "--run", str(self.run.number)]
        self._process = subprocess.Popen(
            [sys.executable, *argv, "--resolve", "orders-rw.prod.svc=127.0.0.1"],
            cwd=PROJECT,
            env={**os.environ, "DATABASE_URL": uri, "PYTHONWARNINGS": "error"},
            stderr=subprocess.PIPE,
        )

    async def until(self, acknowledged: int) -> None:
        deadline = time.monotonic() + 30
        while not self.log.exists() or self.log.read_text().count("\tok\t") < acknowledged:
            assert time.monotonic() < deadline, self.log.read_text()[-2000:]
            await asyncio.sleep(0.05)

    def kill(self) -> None:
        """Ends it anyhow, when a test failed before `stop`."""
        self._process.kill()
        self._process.communicate(timeout=20)

    async def stop(self) -> int:
        """Ends it; returns when, in ns of CLOCK_MONOTONIC."""
        stopped = time.monotonic_ns()
        self._process.terminate()
        _, said = await asyncio.to_thread(self._process.communicate, timeout=20)
        assert self._process.returncode == 0, said.decode()
        assert said == b""
        return stopped


@pytest.fixture
def start_client(server: Server, tmp_path: Path) -> Iterator[Callable[[], Client]]:
    started: list[Client] = []

    def start() -> Client:
        started.append(Client(server.uri, tmp_path / f"log{len(started)}"))
        return started[-1]

    yield start
    for client in started:
        client.kill()


async def ids(connection: Any, run: Run) -> set[int]:
    rows = await connection.fetch("SELECT id FROM outage_writes WHERE id >= $1 AND id < $2", *run.bounds)
    return {row["id"] for row in rows}


@pytest.mark.parametrize("durable", [True, False])
async def test_the_client_sees_the_outage_and_tells_lost_writes_from_kept_ones(
    server: Server, start_client: Callable[[], Client], durable: bool
) -> None:
    # Without waiting for the disk, a killed PostgreSQL loses what it acknowledged in the last moments: if the client
    # did not see that, it would see no loss anywhere.
    parameters = {"wal_buffers": "4MB"} if durable else {"synchronous_commit": "off", "wal_writer_delay": "10s"}
    server.start(**parameters)
    setup = await server.connect()
    await setup.execute(TABLE)
    await setup.execute("CHECKPOINT")
    await setup.close(timeout=5)
    client = start_client()
    await client.until(acknowledged=200)
    killed = time.monotonic_ns()
    server.kill()
    await asyncio.sleep(0.5)
    before = client.log.read_text().count("\tok\t")
    server.start(**parameters)
    await client.until(acknowledged=before + 200)
    stopped = await client.stop()
    connection = await server.connect()
    with client.log.open() as lines:
        seen = figures(parse(lines), await ids(connection, client.run), fault=killed, until=stopped)
    await connection.close(timeout=5)
    assert bool(seen.lost) is not durable
    assert seen.gap.seconds >= 0.5
    assert not seen.gap.open_end
    assert seen.gap.seconds <= seen.slowest_client
    assert seen.failed > 0
    assert seen.acknowledged >= 400


async def test_a_cancelled_wait_for_replication_is_no_acknowledgement(
    server: Server, start_client: Callable[[], Client]
) -> None:
    server.start(synchronous_standby_names="ANY 1 (nobody)", synchronous_commit="local")
    connection = await server.connect()
    await connection.execute(TABLE)
    await connection.execute("ALTER DATABASE postgres SET synchronous_commit = on")
    client = start_client()
    cancelled = 0
    deadline = time.monotonic() + 20
    while cancelled < 4:
        assert time.monotonic() < deadline
        rows = await connection.fetch(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        )
        cancelled += len(rows)
        await asyncio.sleep(0.05)
    await client.stop()
    with client.log.open() as lines:
        attempts = parse(lines)
    present = await ids(connection, client.run)
    await connection.close(timeout=5)
    warned = [a for a in attempts if a.error.startswith("WARNING")]
    assert warned, "the server said success with a warning"
    assert {a.id for a in warned} <= present
    assert not [a for a in attempts if a.outcome == "ok"]


async def test_codepal_has_its_tables_indexes_and_rows(connection: Any) -> None:
    assert await schema.deploy(connection) == [
        "20250709035454_init_auth",
        "20250709040211_add_user_password",
        "20250709202604_add_project_models",
    ]
    assert await schema.deploy(connection) == []
    scale = data.Scale(0.01)
    loaded = await data.load(connection, scale=scale)
    assert sum(loaded.values()) == scale.total
    counts = {table: await connection.fetchval(f'SELECT count(*) FROM "{table}"') for table in data.COUNTS}
    assert counts == loaded
    named = await connection.fetch("SELECT indexname FROM pg_indexes WHERE indexname LIKE 'idx%' ORDER BY 1")
    assert [row["indexname"] for row in named] == [
        "idx_project_file_path",
        "idx_project_file_project",
        "idx_project_member_project",
        "idx_project_member_user",
        "idx_project_owner",
        "idx_project_status",
        "idx_user_email",
        "idx_user_role",
    ]


async def test_a_changed_migration_is_refused(connection: Any) -> None:
    await schema.deploy(connection)
    await connection.execute("""UPDATE "_prisma_migrations" SET checksum = 'x' WHERE migration_name LIKE '%password'""")
    with pytest.raises(ValueError, match="add_user_password was changed"):
        await schema.deploy(connection)


def test_the_same_seed_gives_the_same_rows() -> None:
    scale = data.Scale(0.002)
    first = {table: list(rows) for table, rows in data.tables(7, scale)}
    assert first == {table: list(rows) for table, rows in data.tables(7, scale)}
    assert first != {table: list(rows) for table, rows in data.tables(8, scale)}
    # Frozen: the figures of benchmarks are comparable only over the same rows.
    assert first["User"][0][0] == "c2b1412bec8eab7aff7cff031"


def test_the_demo_size_is_what_it_promises() -> None:
    assert data.Scale().total >= 200_000
