"""An archiver as a process of its own beside a real PostgreSQL, and what tests want to know of both."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matriarch.archive.config import ENVIRONMENT, ArchiveConfig
from matriarch.archive.keyring import Keyring
from matriarch.archive.vault import Vault
from matriarch.archive.walfolder import WalFolder
from matriarch.backup.jobspec import ClusterIdentity, StoreSpec
from matriarch.backup.keys import Kek
from matriarch.backup.store import Store, open_store
from tests.postgres.backup.bed import Postgres

KEY = Kek.of(bytes(range(32)))
CLUSTER = ClusterIdentity(namespace="prod", name="orders", uid="0000-1111")
CLIENT = "/usr/local/bin/matriarch-wal"


@dataclass
class Archiver:
    """Started with what PostgreSQL's commands need to reach it."""

    config: ArchiveConfig
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def create(cls, folder: Path, store: StoreSpec, pgdata: Path, *, encrypted: bool = True, **how: Any) -> Archiver:
        folder.mkdir(parents=True)
        (folder / "keys").mkdir()
        (folder / "keys" / "k").write_bytes(KEY.secret)
        config = ArchiveConfig(
            cluster=CLUSTER,
            store=store,
            pgdata=str(pgdata),
            keys=("k",) if encrypted else (),
            key_folder=str(folder / "keys"),
            socket=str(folder / "s"),
            spool=str(folder / "spool"),
            leads=how.pop("leads", True),
            **how,
        )
        return cls(config, folder)

    def start(self) -> Archiver:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "matriarch.archive.main"],
                env={**os.environ, ENVIRONMENT: self.config.to_json(), "PYTHONPATH": "operator"},
                stdout=log,
                stderr=log,
            )
        wait(self.answers, "the archiver listens")
        return self

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        try:
            self.ask("status" if self.config.mode == "archive" else "hello")
        except OSError:
            return False
        return True

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()[-4000:]

    def ask(self, line: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(self.config.socket)
            connection.sendall(line.encode() + b"\n")
            return connection.makefile().readline().strip()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ask("status"))
        return found

    def command(self, verb: str, *options: str) -> str:
        parts = "push %p %f" if verb == "push" else "fetch %f %p"
        return " ".join((CLIENT, "--socket", self.config.socket, *options, parts))

    @property
    def store(self) -> Store:
        return open_store(self.config.store)

    def vault(self, *, keys: tuple[Kek, ...] = (KEY,)) -> Vault:
        system = WalFolder(Path(self.config.pgdata)).system_identifier()
        return Vault(self.store, Keyring(keys, time.time), system=system, cluster=CLUSTER)

    def fetch_mode(self, folder: Path, pgdata: Path, **how: Any) -> Archiver:
        """A recovery's archiver for the same store."""
        folder.mkdir(parents=True)
        config = replace(
            self.config, pgdata=str(pgdata), socket=str(folder / "s"), spool=str(folder / "spool"), mode="fetch", **how
        )
        return Archiver(config, folder)


def archiving(server: Postgres, archiver: Archiver, *more: str, mode: str = "on") -> None:
    """Settings of a server that archives through `archiver`; started with the next start."""
    with (server.folder / "data" / "postgresql.conf").open("a") as file:
        file.write(f"archive_mode = {mode}\narchive_command = '{archiver.command('push', '--timeout', '20')}'\n")
        file.write("wal_level = replica\nwal_keep_size = 0\n")
        file.write("autovacuum = off\n")  # on a slow machine it finishes segments that no test counts on
        file.write("\n".join(more) + "\n")


def wait(condition: Callable[[], object], what: str, *, within: float = 60.0) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.05)


def load(server: Postgres, megabytes: int) -> None:
    """About that much WAL."""
    server.sql(
        f"INSERT INTO load SELECT g, md5(g::text) || repeat(md5((g * 7)::text), 30) FROM "
        f"generate_series(1, {megabytes * 1024}) g"
    )


def base_backup(server: Postgres, folder: Path) -> None:
    """Without any WAL: all of it has to come from the archive."""
    folder.mkdir()
    subprocess.run(
        [
            "pg_basebackup",
            "-D",
            str(folder / "data"),
            "-d",
            f"host={server.folder} user=postgres",
            "-X",
            "none",
            "-c",
            "fast",
        ],
        check=True,
        capture_output=True,
    )
    with (folder / "data" / "postgresql.conf").open("a") as file:
        file.write(f"unix_socket_directories = '{folder}'\narchive_mode = off\n")


def recover(folder: Path, archiver: Archiver, *more: str) -> Postgres:
    data = folder / "data"
    (data / "recovery.signal").touch()
    with (data / "postgresql.conf").open("a") as file:
        file.write(f"restore_command = '{archiver.command('fetch', '--timeout', '30')}'\n" + "\n".join(more) + "\n")
    return Postgres(folder)


def done(server: Postgres) -> set[str]:
    """What PostgreSQL counts as archived, as far as it still has it."""
    folder = server.folder / "data" / "pg_wal" / "archive_status"
    return {f.name.removesuffix(".done") for f in folder.glob("*.done")}


def ready(server: Postgres) -> set[str]:
    folder = server.folder / "data" / "pg_wal" / "archive_status"
    return {f.name.removesuffix(".ready") for f in folder.glob("*.ready")}
