"""A filled PostgreSQL, and the programs that are measured on it: Matriarch's command line, pgBackRest, pg_dump.

All store in the same S3 server over TLS, encrypted, with as many threads or processes. The server is PostgreSQL 15 of
Debian 12, since its pgBackRest (2.45) knows no later one.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.timed import Run, timed
from dev.s3 import REGION, S3Server

BIN = Path("/usr/lib/postgresql/15/bin")
KEY = "00" * 32
DATABASE = "bench"  # a logical backup leaves the database postgres out

_ROW = 235  # bytes of a row in its page
_ORDERS = """CREATE TABLE orders (id bigint, customer int, email text, note text, at timestamptz,
    total numeric(12, 2), h text)"""
_FILL = """INSERT INTO orders SELECT i, i % 10000, 'customer-' || i % 50000 || '@example.org',
    'Order number ' || i || ' of the ' || (ARRAY['red', 'green', 'blue', 'yellow'])[i % 4 + 1]
    || ' widgets, to be delivered to street ' || i % 997,
    timestamptz '2024-01-01' + i * interval '1 second', (i::bigint * 7919 % 1000000) / 100.0, md5(i::text)
    FROM generate_series(1, {rows}) i"""
_PGBENCH = 15_500_000  # bytes of a scale of 1


@contextmanager
def server(place: Path, size: int) -> Iterator[Path]:
    """Data directory of a running server with checksums and about `size` bytes, half of them pgbench's tables, half
    rows as applications have them. Its socket is in `place`."""
    data = place / "data"
    user = pwd.getpwnam("postgres")
    os.chown(place, user.pw_uid, user.pw_gid)

    def run(*words: str) -> None:
        words = ("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", *words)
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=place, check=False)
        if done.returncode:
            sys.exit(f"{words[4]} failed: {done.stdout.decode(errors='replace')[-1000:]}")

    run(str(BIN / "initdb"), "-k", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-D", str(data))
    with (data / "postgresql.conf").open("a") as conf:
        conf.write(
            f"listen_addresses = ''\nunix_socket_directories = '{place}'\nmax_wal_size = 4GB\narchive_mode = on\n"
            "archive_command = 'true'\nshared_buffers = 256MB\n"
        )
    # Not run(): the server inherits pg_ctl's output and would keep the pipe open.
    subprocess.run(
        ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", str(BIN / "pg_ctl"), "-D", str(data),
         "-w", "-l", str(place / "log"), "start"], check=True, stdout=subprocess.DEVNULL, cwd=place,
    )  # fmt: skip
    try:
        run(str(BIN / "createdb"), "-h", str(place), DATABASE)
        scale = str(max(1, size // 2 // _PGBENCH))
        run(str(BIN / "pgbench"), "-h", str(place), "-i", "-q", "-s", scale, DATABASE)
        fill = _FILL.format(rows=max(1000, size // 2 // _ROW))
        for statement in (_ORDERS, fill, "VACUUM ANALYZE orders", "CHECKPOINT"):
            run(str(BIN / "psql"), "-h", str(place), "-q", "-v", "ON_ERROR_STOP=1", "-c", statement, DATABASE)
        yield data
    finally:
        run(str(BIN / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop")


@dataclass(frozen=True, slots=True)
class Bed:
    place: Path
    data: Path
    store: S3Server
    jobs: int
    level: int  # of zstd, for both

    def bucket(self, name: str) -> Path:
        """A new bucket; the folder that the S3 server keeps it in."""
        self.store.make_bucket(name)
        return Path(self.store.folder) / "data" / name

    def emptied(self, name: str) -> None:
        shutil.rmtree(Path(self.store.folder) / "data" / name)

    def ours(self, name: str, bucket: str, *words: str) -> Run:
        environment = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "BACKUP_ENCRYPTION_KEY": KEY,
            "AWS_ACCESS_KEY_ID": self.store.access_key,
            "AWS_SECRET_ACCESS_KEY": self.store.secret_key,
            "AWS_REGION": REGION,
            "AWS_CA_BUNDLE": str(self.store.ca_file),
        }
        where = ["--store", f"s3://{bucket}/c", "--endpoint", self.store.endpoint]
        return timed(name, [sys.executable, "-m", "matriarch.cli.main", *words, *where], environment)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self.place}"

    def our_physical(self) -> tuple[Run, Run]:
        """The backup and its restore."""
        folder = self.bucket("ours")
        jobs = ["--jobs", str(self.jobs)]
        how = ["--method", "physical", "--pgdata", str(self.data), "--level", str(self.level)]
        backup = self.ours("Matriarch, physical", "ours", "backup", *how, *jobs, "--url", self.url)
        restored = self.place / "restored"
        backup = replace(backup, stored=bytes_in(folder))
        restore = self.ours("Matriarch, restore", "ours", "restore", "--to-directory", str(restored), *jobs)
        check(restored)
        shutil.rmtree(restored)
        self.emptied("ours")
        return backup, restore

    def our_logical(self) -> Run:
        folder = self.bucket("logical")
        run = self.ours("Matriarch, logical", "logical", "backup", "--url", self.url)
        run = replace(run, stored=bytes_in(folder))
        self.emptied("logical")
        return run

    def pgbackrest_options(self, bucket: str) -> tuple[list[str], list[str], dict[str, str]]:
        """For every command of it, for those beside the server, and the environment."""
        # By name, since pgBackRest does not look for addresses in a certificate.
        common = [
            "--stanza=b", "--repo1-type=s3", "--repo1-path=/c", f"--repo1-s3-bucket={bucket}",
            f"--repo1-s3-region={REGION}", "--repo1-s3-endpoint=localhost", "--repo1-s3-uri-style=path",
            "--repo1-storage-host=localhost", f"--repo1-storage-port={self.store.port}",
            f"--repo1-storage-ca-file={self.store.ca_file}", "--repo1-cipher-type=aes-256-cbc",
            f"--lock-path={self.place}/lock", "--log-level-console=warn", "--log-level-file=off",
        ]  # fmt: skip
        here = [f"--pg1-path={self.data}", f"--pg1-socket-path={self.place}", "--pg1-user=postgres"]
        environment = {
            "PGBACKREST_REPO1_CIPHER_PASS": KEY,
            "PGBACKREST_REPO1_S3_KEY": self.store.access_key,
            "PGBACKREST_REPO1_S3_KEY_SECRET": self.store.secret_key,
        }
        return common, here, environment

    def pgbackrest_stanza(self, bucket: str) -> None:
        common, here, environment = self.pgbackrest_options(bucket)
        subprocess.run(
            ["pgbackrest", *common, *here, "--no-online", "stanza-create"],
            check=True, env={**os.environ, **environment}, stdout=sys.stderr,
        )  # fmt: skip

    def pgbackrest(self, codec: str, level: int | None) -> tuple[Run, Run]:
        """The backup and its restore. Level None: the codec's default."""
        folder = self.bucket("theirs")
        common, here, environment = self.pgbackrest_options("theirs")
        self.pgbackrest_stanza("theirs")
        jobs = f"--process-max={self.jobs}"
        speed = [f"--compress-type={codec}", *([] if level is None else [f"--compress-level={level}"]), jobs]
        name = f"pgBackRest {codec} {'default' if level is None else level}"
        # Our backup holds its WAL; pgBackRest would wait for an archive, so it is not asked to check one.
        backup = timed(
            f"{name}, physical",
            [
                "pgbackrest",
                *common,
                *here,
                *speed,
                "--type=full",
                "--repo1-retention-full=1",
                "--start-fast",
                "--no-archive-check",
                "backup",
            ],
            environment,
        )
        backup = replace(backup, stored=bytes_in(folder))
        restored = self.place / "restored"
        restored.mkdir(mode=0o700)
        restore = timed(
            f"{name}, restore", ["pgbackrest", *common, f"--pg1-path={restored}", jobs, "restore"], environment
        )
        check(restored)
        shutil.rmtree(restored)
        self.emptied("theirs")
        return backup, restore

    def pg_dump(self) -> Run:
        return timed("pg_dump to /dev/null", ["sh", "-c", f"{self._dump} >/dev/null"])

    def pipeline(self) -> Run:
        """What one writes by hand; into a file on the same disk, which is less work than a store."""
        out = self.place / "dump.gz.enc"
        seal = f"openssl enc -aes-256-ctr -K {KEY} -iv {'00' * 16}"
        # sync: our backup is on the store's disk too when it says that it is done.
        text = f"set -e -o pipefail; {self._dump} | gzip -6 | {seal} >{out}; sync -d {out}"
        run = timed("pg_dump, gzip -6, openssl", ["bash", "-c", text])
        run = replace(run, stored=out.stat().st_size)
        out.unlink()
        return run

    @property
    def _dump(self) -> str:
        return f"{BIN}/pg_dump -h {self.place} -U postgres {DATABASE}"


def check(restored: Path) -> None:
    """That there is a whole server in it. Raises SystemExit."""
    if not (restored / "global" / "pg_control").exists() or not (restored / "base").is_dir():
        sys.exit(f"{restored} holds no restored server")


def bytes_in(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
