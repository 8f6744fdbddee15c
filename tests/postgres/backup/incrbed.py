"""A server with WAL summaries, what happens to it between backups, and everything that it holds as one comparison."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

from matriarch.backup.manifest import Lineage, Opened
from matriarch.backup.store import Store
from tests.postgres.backup.bed import Postgres
from tests.postgres.backup.physbed import physical_backup

MAX = 6


def summarizing(server: Postgres, on: bool = True) -> None:
    server.sql(f"ALTER SYSTEM SET summarize_wal = {'on' if on else 'off'}", "SELECT pg_reload_conf()")


def incremental(store: Store, source: Postgres, **how: object) -> tuple[Opened, Lineage]:
    """An incremental backup, or a full one in its place, and what its manifest says of it."""
    how.setdefault("max_increments", MAX)
    opened = physical_backup(store, source, **how)  # type: ignore[arg-type]  # handed on
    assert opened.body.physical is not None
    own = opened.body.physical.lineage
    assert own is not None
    return opened, own


def content(server: Postgres) -> dict[str, object]:
    """Every database as pg_dump sees it but for rows of unlogged tables, and each logged table counted by an index-only
    scan alone: a visibility map that says too much shows there."""
    found: dict[str, object] = {}
    for (name,) in server.sql("SELECT datname FROM pg_database WHERE datallowconn"):
        done = subprocess.run(
            ["pg_dump", "--no-unlogged-table-data", "-d", f"host={server.folder} user=postgres dbname={name}"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        found[name] = re.sub(r"^\\(un)?restrict .*$", "", done.stdout, flags=re.MULTILINE)
    logged = "SELECT relname FROM pg_class WHERE relpersistence = 'p' AND relname ~ '^t[0-9]+$'"
    for (table,) in server.sql(logged):
        found[f"{table} by index"] = server.sql(
            "SET enable_seqscan = off", "SET enable_bitmapscan = off",
            f"SELECT count(id), sum(id) FROM {table} WHERE id > 0",
        )  # fmt: skip
    return found


def checksums_are_right(data: Path) -> None:
    """By PostgreSQL's own program, on a server that was stopped."""
    done = subprocess.run(["pg_checksums", "--check", "-D", str(data)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class Workload:
    """A random history of tables, indexes and databases, the same for the same seed."""

    def __init__(self, server: Postgres, seed: int) -> None:
        self.server, self.dice = server, random.Random(seed)
        self.tables: list[str] = []
        self.databases: list[str] = []
        self._next = 1000 * seed  # one server may see several histories

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.dice.choice(
                [self.create, self.insert, self.insert, self.update, self.update, self.delete, self.vacuum, self.vacuum,
                 self.truncate, self.shrink, self.index, self.rewrite, self.drop, self.database, self.freeze,
                 self.logged, self.roll_back, self.restart_sequence]
            )()  # fmt: skip

    def create(self) -> None:
        self._next += 1
        name = f"t{self._next}"
        kind = self.dice.choice(["", "", "", "UNLOGGED"])
        rows = self.dice.choice([0, 50, 3000, 20000])
        self.server.sql(
            f"CREATE {kind} TABLE {name} (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, filler text)",
            f"CREATE SEQUENCE {name}_seq",
            f"INSERT INTO {name} SELECT g, g % 7, repeat(md5(g::text), 4) FROM generate_series(1, {rows}) g",
        )
        self.tables.append(name)

    def _table(self) -> str:
        if not self.tables:
            self.create()
        return self.dice.choice(self.tables)

    def insert(self) -> None:
        table = self._table()
        rows = self.dice.choice([1, 400, 9000])
        self.server.sql(
            f"INSERT INTO {table} SELECT coalesce((SELECT max(id) FROM {table}), 0) + g, g % 5, "
            f"repeat(md5(g::text), 6) FROM generate_series(1, {rows}) g"
        )

    def update(self) -> None:
        every = self.dice.choice([1, 13, 501])
        self.server.sql(f"UPDATE {self._table()} SET n = n + 1 WHERE id % {every} = 0")

    def delete(self) -> None:
        every = self.dice.choice([2, 9])
        self.server.sql(f"DELETE FROM {self._table()} WHERE id % {every} = 1")

    def vacuum(self) -> None:
        self.server.sql(f"VACUUM {self._table()}")

    def freeze(self) -> None:
        self.server.sql(f"VACUUM (FREEZE, ANALYZE) {self._table()}")

    def truncate(self) -> None:
        self.server.sql(f"TRUNCATE {self._table()}")

    def shrink(self) -> None:
        """The end of the table goes, by VACUUM, and often grows again: the same pages, another content."""
        table, share = self._table(), self.dice.choice([0.1, 0.6])
        self.server.sql(
            f"DELETE FROM {table} WHERE id > (SELECT coalesce(max(id), 0) FROM {table}) * {share}",
            f"VACUUM (TRUNCATE) {table}",
        )
        if self.dice.random() < 0.6:
            self.server.sql(
                f"INSERT INTO {table} SELECT coalesce((SELECT max(id) FROM {table}), 0) + g, 0, repeat('x', 200) "
                "FROM generate_series(1, 2500) g"
            )

    def index(self) -> None:
        table = self._table()
        self._next += 1
        how = self.dice.choice(["btree (n)", "hash (n)", "brin (id)", "gin (to_tsvector('simple', filler))"])
        self.server.sql(f"CREATE INDEX i{self._next} ON {table} USING {how}")

    def rewrite(self) -> None:
        self.server.sql(f"{self.dice.choice(['VACUUM FULL', 'REINDEX TABLE'])} {self._table()}")

    def drop(self) -> None:
        table = self._table()
        self.tables.remove(table)
        self.server.sql(f"DROP TABLE {table}", f"DROP SEQUENCE {table}_seq")

    def logged(self) -> None:
        self.server.sql(f"ALTER TABLE {self._table()} SET LOGGED")

    def restart_sequence(self) -> None:
        self.server.sql(f"SELECT nextval('{self._table()}_seq') FROM generate_series(1, 40)")

    def roll_back(self) -> None:
        """Relations that were never there, and pages of others that hold nothing."""
        table = self._table()
        self.server.sql(
            f"DO $$ BEGIN CREATE TABLE ghost AS SELECT * FROM {table}; "
            f"INSERT INTO {table} SELECT -g, 0, repeat('y', 300) FROM generate_series(1, 900) g; RAISE 'no'; "
            "EXCEPTION WHEN raise_exception THEN NULL; END $$"
        )

    def database(self) -> None:
        """Made by files or by WAL, from one that has a table of its own; dropped, and made again."""
        if self.databases and self.dice.random() < 0.4:
            name = self.databases.pop()
            self.server.sql(f"DROP DATABASE {name}")
            return
        self._next += 1
        name = f"d{self._next}"
        how = self.dice.choice(["file_copy", "wal_log"])
        template = self.dice.choice(["template0", *self.databases])
        self.server.sql(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY {how}")
        self.databases.append(name)
        self.server.sql(
            f"CREATE TABLE own_{name} AS SELECT g AS id, md5(g::text) FROM generate_series(1, 2000) g", database=name
        )
