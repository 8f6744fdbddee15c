"""What the tests of physical backups share: a server with data checksums under load, and its backup and restore."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg

from matriarch.backup.keys import Kek
from matriarch.backup.manifest import Opened
from matriarch.backup.physical import backup, restore
from matriarch.backup.store import Store
from matriarch.decide.pitr import Target
from tests.postgres.backup.bed import CLUSTER, KEY, Postgres, in_loop


def physical_backup(store: Store, source: Postgres, *, key: Kek | None = KEY, **how: Any) -> Opened:
    """A physical backup in this process, as the superuser."""
    return in_loop(backup.backup(physical_request(store, source, key=key, **how)))


def physical_request(store: Store, source: Postgres, *, key: Kek | None = KEY, **how: Any) -> backup.Request:
    how.setdefault("pgdata", source.folder / "data")
    how.setdefault("cluster", CLUSTER)
    return backup.Request(store=store, server=source.server(), key=key, encryption=key is not None, **how)


def physical_restore(
    store: Store, directory: Path, *, keys: tuple[Kek, ...] = (KEY,), backup: str = "latest", **how: Any
) -> Opened:
    how["target"] = Target(how.pop("target", "latest"))
    return restore.restore(restore.Request(store=store, keys=keys, backup=backup, directory=directory, **how))


def started(folder: Path) -> Postgres:
    """A server over `folder`/data, which a restore has filled, at the end of its recovery."""
    with (folder / "data" / "postgresql.conf").open("a") as file:
        file.write(f"unix_socket_directories = '{folder}'\n")
    server = Postgres(folder).start()
    for _ in range(300):
        if server.sql("SELECT pg_is_in_recovery()") == [(False,)]:
            return server
        time.sleep(0.1)
    raise AssertionError((folder / "log").read_text()[-3000:])


def amcheck(server: Postgres) -> None:
    """Every table and index of every database, heap against index."""
    server.sql("CREATE EXTENSION IF NOT EXISTS amcheck")
    found = subprocess.run(
        ["pg_amcheck", "--all", "--install-missing", "--heapallindexed", "-h", str(server.folder), "-U", "postgres"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr


@contextmanager
def load(server: Postgres, table: str = "ledger") -> Iterator[list[int]]:
    """Rows inserted and updated all the while; the list holds every id that was acknowledged."""
    server.sql(
        f"DROP TABLE IF EXISTS {table}", f"CREATE TABLE {table} (id bigint PRIMARY KEY, n int NOT NULL, filler text)"
    )
    done: list[int] = []
    stop = threading.Event()

    async def run() -> None:
        session = await asyncpg.connect(host=str(server.folder), user="postgres", database="postgres")
        with contextlib.suppress(OSError, asyncpg.PostgresError):
            number = 0
            while not stop.is_set():
                number += 1
                await session.execute(f"INSERT INTO {table} SELECT $1::bigint, 0, repeat(md5($1::text), 20)", number)
                await session.execute(f"UPDATE {table} SET n = n + 1 WHERE id = $1", max(1, number // 2))
                done.append(number)
        await session.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()
