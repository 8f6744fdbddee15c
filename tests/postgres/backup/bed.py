"""A server to back up and one to restore into, both the PostgreSQL that ships, and what fills the first one.

Simpler than pgbox's members: no agent, no TLS, a socket in a folder. The engine's tools (pg_dump, psql, pg_amcheck) are
the image's too, by wrappers on PATH.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from matriarch.backup import backup, jobspec, restore
from matriarch.backup.jobresult import RestoreResult
from matriarch.backup.jobspec import BackupTask, ClusterIdentity, LocalStore, RestoreTask, S3Store
from matriarch.backup.keys import Kek
from matriarch.backup.local import Local
from matriarch.backup.manifest import Opened
from matriarch.backup.s3 import S3
from matriarch.backup.server import Server
from matriarch.backup.store import Store
from tests.postgres.pgbox import _ENTER

T = TypeVar("T")

TOOLS = (
    "initdb", "postgres", "pg_dump", "psql", "pg_amcheck", "pg_basebackup", "pg_checksums", "pg_ctl", "pg_controldata",
    "pg_resetwal",
)  # fmt: skip
KEY = Kek.of(bytes(range(32)))
CLUSTER = ClusterIdentity(namespace="prod", name="orders", uid="0000-1111")


def install_tools(rootfs: Path, folder: Path) -> None:
    """Wrappers that run the image's programs in its root file system, as in a pod."""
    for tool in TOOLS:
        file = folder / tool
        program = f"/usr/lib/postgresql/17/bin/{tool}"
        file.write_text(_ENTER.format(python=sys.executable, root=str(rootfs), program=program))
        file.chmod(file.stat().st_mode | stat.S_IXUSR)


@dataclass
class Postgres:
    """One server. Everybody who reaches its socket is who he says."""

    folder: Path  # short: a socket's path has at most 107 bytes
    port: int = 5432
    process: subprocess.Popen[bytes] | None = None

    def create(self) -> Postgres:
        self.folder.mkdir(parents=True)
        data = str(self.folder / "data")
        subprocess.run(
            ["initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-k"],
            check=True,
            capture_output=True,
        )
        with (self.folder / "data" / "postgresql.conf").open("a") as file:
            file.write(
                f"unix_socket_directories = '{self.folder}'\nlisten_addresses = ''\nshared_buffers = 32MB\n"
                "max_wal_size = 256MB\nhot_standby_feedback = off\nmax_standby_streaming_delay = 0\n"
                "log_min_messages = warning\n"
            )
        return self.start()

    def clone(self, folder: Path) -> Postgres:
        """A streaming standby of this server."""
        other = Postgres(folder)
        folder.mkdir(parents=True)
        where = f"host={self.folder} user=postgres"
        subprocess.run(
            ["pg_basebackup", "-D", str(folder / "data"), "-d", where, "-R", "-X", "stream", "-c", "fast"],
            check=True,
            capture_output=True,
        )
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.write(f"unix_socket_directories = '{folder}'\n")
        return other.start()

    def start(self) -> Postgres:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["postgres", "-D", str(self.folder / "data")], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        for _ in range(300):
            try:
                self.sql("SELECT 1")
            except (OSError, asyncpg.PostgresError):
                assert self.process.poll() is None, (self.folder / "log").read_text()[-3000:]
                time.sleep(0.1)
            else:
                return self
        raise AssertionError("PostgreSQL did not start")

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(60)
            self.process = None

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def server(self, user: str = "postgres") -> Server:
        return Server.from_url(self.url(user=user))

    def sql(self, *statements: str, database: str = "postgres", user: str = "postgres") -> list[tuple[Any, ...]]:
        """Run statements, each by itself; the last one's rows."""

        async def run() -> list[tuple[Any, ...]]:
            session = await asyncpg.connect(host=str(self.folder), user=user, database=database, port=self.port)
            rows: list[Any] = []
            try:
                for statement in statements:
                    rows = await session.fetch(statement)
            finally:
                await session.close()
            return [tuple(r.values()) for r in rows]

        return in_loop(run())

    def dump(self, database: str) -> str:
        """What pg_dump says of a database, without what changes from run to run."""
        text = subprocess.run(
            ["pg_dump", "--no-password", "-d", f"host={self.folder} user=postgres dbname='{quote(database)}'"],
            check=True,
            capture_output=True,
            encoding="latin-1",  # any bytes: the databases have different encodings
        ).stdout
        return re.sub(r"^\\(un)?restrict .*$", "", text, flags=re.MULTILINE)

    def databases(self) -> list[str]:
        return sorted(r[0] for r in self.sql("SELECT datname FROM pg_database WHERE NOT datistemplate"))

    def state(self) -> tuple[list[str], list[str], list[str]]:
        """What a refused restore must leave as it was."""
        roles = sorted(r[0] for r in self.sql("SELECT rolname FROM pg_roles"))
        doors = sorted(str(r) for r in self.sql("SELECT datname, datallowconn, datconnlimit FROM pg_database"))
        return self.databases(), roles, doors


def quote(name: str) -> str:
    return name.replace("\\", "\\\\").replace("'", "\\'")


def in_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run to its end, from tests that are no coroutines."""
    return asyncio.run(work)


ODD = "od\"d 'na\\me"  # a database whose name needs every kind of quoting

ROLES = (
    "CREATE ROLE matriarch_backup LOGIN BYPASSRLS IN ROLE pg_read_all_data",
    "ALTER ROLE matriarch_backup SET lo_compat_privileges = on",
    "ALTER ROLE matriarch_backup SET default_transaction_read_only = on",
    "GRANT SELECT ON pg_authid TO matriarch_backup",
    "CREATE ROLE app LOGIN PASSWORD 'se''cr\\et'",
    "CREATE ROLE readers NOLOGIN CONNECTION LIMIT 7",
    "CREATE ROLE \"An alyst\" LOGIN VALID UNTIL '2031-01-01 00:00:00+00' IN ROLE readers",
    "GRANT readers TO app WITH ADMIN OPTION",
    'ALTER ROLE app SET search_path = "$user", public, "a, b"',
    "ALTER ROLE app SET work_mem = '8MB'",
    "COMMENT ON ROLE readers IS 'they $matriarch$ read; ''quoted'' \\ and more'",
)

CONTENT = (
    "CREATE SCHEMA shop AUTHORIZATION app",
    "CREATE TYPE shop.mood AS ENUM ('sad', 'ok', 'happy')",
    "CREATE DOMAIN shop.positive AS int CHECK (VALUE > 0)",
    "CREATE TYPE shop.pair AS (a int, b text)",
    """CREATE TABLE shop.everything (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, b boolean, i2 smallint, f4 real, f8 double precision,
        n numeric(20, 5), m money, c char(5), v varchar(20), t text, by bytea, ts timestamp, tz timestamptz, d date,
        ti time, ttz timetz, iv interval, u uuid, j json, jb jsonb, ip inet, ci cidr, mac macaddr,
        bi bit(5), vb bit varying, p point, bx box, ci2 circle, ts_v tsvector, ts_q tsquery, x xml, ar int[], ta text[],
        mood shop.mood, pos shop.positive, pr shop.pair, r int4range, mr int4multirange, rc regclass, ro regrole,
        o oid, lsn pg_lsn,
        double int GENERATED ALWAYS AS (i2 * 2) STORED)""",
    """INSERT INTO shop.everything (b, i2, f4, f8, n, m, c, v, t, by, ts, tz, d, ti, ttz, iv, u, j, jb, ip, ci, mac, bi,
        vb, p, bx, ci2, ts_v, ts_q, x, ar, ta, mood, pos, pr, r, mr, rc, ro, o, lsn)
       SELECT g % 2 = 0, g, g / 3.0, CASE g % 4 WHEN 0 THEN 'NaN' WHEN 1 THEN '-Infinity' ELSE sqrt(g) END, g * 1.5,
        g * 1.25, 'x' || g, 'v' || g, repeat('text ', g % 50) || E'\\n\\\\tab\\t"quote"', decode(md5(g::text), 'hex'),
        '2024-02-29 12:34:56.789'::timestamp + g * interval '1 hour', now() - g * interval '1 day', current_date - g,
        '12:34:56.7', '12:34:56+02', g * interval '1 month 2 days 03:04:05.6', md5(g::text)::uuid, '{"b": 1,   "a": 2}',
        '{"b": 1, "a": [1, 2]}', '10.0.0.1', '10.0.0.0/8', '08:00:2b:01:02:03', B'10101', B'101', '(1.5,2)',
        '((0,0),(1,1))', '<(0,0),2>', 'a fat cat', 'fat & rat', '<a>x</a>', ARRAY[g, NULL, 3],
        ARRAY['a"b', NULL, 'c,d'], 'happy', g, format('(%s,pair)', g)::shop.pair,
        int4range(g, g + 5), '{[1,3),[5,8)}', 'shop.everything', 'app', g, '0/3000148'
       FROM generate_series(1, 500) g""",
    'CREATE TABLE shop."Odd, Na""me" ("Col umn" text, "select" int)',
    'INSERT INTO shop."Odd, Na""me" VALUES (NULL, 1), (\'\', 2), (NULL, 1)',  # with a duplicate
    "CREATE TABLE shop.no_columns ()",
    "INSERT INTO shop.no_columns DEFAULT VALUES",
    "CREATE TABLE shop.events (at date, n int) PARTITION BY RANGE (at)",
    "CREATE TABLE shop.events_24 PARTITION OF shop.events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')",
    "CREATE TABLE shop.events_rest PARTITION OF shop.events DEFAULT",
    "INSERT INTO shop.events SELECT '2023-12-01'::date + g, g FROM generate_series(1, 500) g",
    "CREATE TABLE shop.secret (owner name, what text)",
    "INSERT INTO shop.secret VALUES ('app', 'mine'), ('other', 'theirs')",
    "ALTER TABLE shop.secret ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE shop.secret FORCE ROW LEVEL SECURITY",
    "CREATE POLICY own ON shop.secret USING (owner = current_user)",
    "CREATE UNLOGGED TABLE shop.cache (i int)",
    "INSERT INTO shop.cache SELECT generate_series(1, 10)",
    "CREATE SEQUENCE shop.counter INCREMENT BY -2 START 100 MINVALUE -1000 MAXVALUE 100",
    "SELECT nextval('shop.counter'), nextval('shop.counter')",
    "CREATE SEQUENCE shop.untouched",
    "CREATE VIEW shop.numbers AS SELECT id, n FROM shop.everything",
    "CREATE MATERIALIZED VIEW shop.totals AS SELECT mood, sum(n) FROM shop.everything GROUP BY mood",
    "CREATE FUNCTION shop.twice(i int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT i * 2'",
    "CREATE INDEX ON shop.everything (shop.twice(pos))",
    "CREATE INDEX ON shop.everything USING gin (jb)",
    "CREATE EXTENSION pg_stat_statements",
    "GRANT SELECT ON ALL TABLES IN SCHEMA shop TO readers",
    "ALTER TABLE shop.everything OWNER TO app",
    "SELECT lo_from_bytea(4711, 'a large object'), lo_from_bytea(4712, decode(repeat('00ff', 5000), 'hex'))",
    "GRANT SELECT ON LARGE OBJECT 4711 TO readers",
    "COMMENT ON TABLE shop.everything IS 'all types; ''quoted'' \\ backslash'",
)

DATABASES = (
    "CREATE DATABASE app OWNER app",
    f"""CREATE DATABASE "{ODD.replace('"', '""')}"
        TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C' CONNECTION LIMIT 5""",
    "ALTER DATABASE app SET work_mem = '16MB'",
    'ALTER DATABASE app SET search_path = shop, "a, b", public',
    "ALTER ROLE readers IN DATABASE app SET statement_timeout = '5s'",
    "GRANT CONNECT, TEMPORARY ON DATABASE app TO readers WITH GRANT OPTION",
    "REVOKE CONNECT ON DATABASE app FROM PUBLIC",
    "GRANT CONNECT ON DATABASE app TO matriarch_backup",
    "COMMENT ON DATABASE app IS 'the application''s'",
)


def fill(server: Postgres) -> None:
    """Roles, two databases, every type that matters, and what is known to trip dumps."""
    server.sql(*ROLES, *DATABASES)
    server.sql(*CONTENT, database="app")
    server.sql('CREATE TABLE "straße" (w text)', """INSERT INTO "straße" VALUES ('käse')""", database=ODD)


def make_backup(store: Store, source: Postgres, *, key: Kek | None = KEY, **how: Any) -> Opened:
    """A backup in this process, as the restricted role."""
    task = BackupTask(**{"encryption": key is not None, **how.pop("task", {})})
    request = backup.Request(
        store=store,
        servers=how.pop("servers", [source.server("matriarch_backup")]),
        prefer=how.pop("prefer", "any"),
        key=key,
        task=task,
        cluster=how.pop("cluster", CLUSTER),
        **how,
    )
    opened, _ = in_loop(backup.backup(request))
    return opened


def do_restore(
    store: Store, target: Postgres, *, keys: tuple[Kek, ...] = (KEY,), restore_id: str = "r", **task: Any
) -> RestoreResult:
    wanted = RestoreTask(**{"backup": "latest", "mode": "new", "restore_id": restore_id, **task})
    return in_loop(restore.restore(restore.Request(store=store, servers=[target.server()], keys=keys, task=wanted)))


def local(folder: Path) -> Local:
    folder.mkdir(parents=True, exist_ok=True)
    return Local(LocalStore(path=str(folder)))


def s3_spec(server: Any, bucket: str, credentials: Path, prefix: str = "backups") -> S3Store:
    """As the controller would give it: keys in files."""
    credentials.mkdir(exist_ok=True)
    (credentials / "access-key").write_text(server.access_key)
    (credentials / "secret-key").write_text(server.secret_key + "\n")
    return S3Store(bucket=bucket, prefix=prefix, endpoint=server.endpoint, credentials=str(credentials))


def s3(server: Any, bucket: str, credentials: Path, prefix: str = "backups") -> S3:
    return S3(s3_spec(server, bucket, credentials, prefix))


class OpenS3(S3):
    """A prefix whose files can be reached behind the server's back: what goes wrong there is not told to S3."""

    def __init__(self, server: Any, spec: S3Store) -> None:
        super().__init__(spec)
        self.root = Path(server.folder) / "data" / spec.bucket / spec.prefix


def root(store: Store) -> Path:
    """Where the objects of a test's store lie as files."""
    if isinstance(store, OpenS3):
        return store.root
    assert isinstance(store, Local)
    return Path(store.address)


def copy_of(made: Path, kind: str, server: Any, tmp_path: Path) -> Store:
    """A local store's objects in another one, which a test may damage; `kind` is local or s3."""
    if kind == "local":
        shutil.copytree(made, tmp_path / "store")
        return local(tmp_path / "store")
    store = OpenS3(server, s3_spec(server, "backups", tmp_path / "credentials", prefix=tmp_path.name))
    for entry in (source := local(made)).list(""):
        with source.read(entry.key) as pieces:
            store.put(entry.key, b"".join(pieces))
    return store


def keys_in(store: Store, *folders: str) -> list[str]:
    return [
        e.key for f in (folders or ("logical", "manifests", "running", "tombstones", "keys")) for e in store.list(f)
    ]


def job_environment(spec: jobspec.JobSpec, folder: Path, key: Kek | None = KEY) -> Mapping[str, str]:
    """For `python -m matriarch.backup.job` as a process of its own."""
    (folder / "keys").mkdir(exist_ok=True)
    if key is not None:
        (folder / "keys" / "k").write_bytes(key.secret)
    return {
        **os.environ,
        "MATRIARCH_JOB": spec.to_json(),
        "MATRIARCH_KEY_FOLDER": str(folder / "keys"),
        "MATRIARCH_TERMINATION_LOG": str(folder / "termination-log"),
        "PYTHONPATH": "operator",
    }
