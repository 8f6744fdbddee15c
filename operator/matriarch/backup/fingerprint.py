"""What a dump saw, in numbers that a restored database must show again: rows, hashes, sequences, large objects.

A table's hash is the sum over its rows, modulo 2^64 in each half, of 64-bit hashes of the row's text. It does not
depend on the order of rows or on how they lie on disk, counts duplicates, and changes with every changed, missing or
added row. Generated columns are left out, since they are derived and not dumped. There are two kinds: of the lines of
the dump's own stream (rowsum), and of what the server hashes by itself, for tables whose stream is not understood.

The session's settings (see server) fix all text forms: they are the same before a dump and after a restore.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import asyncpg

from matriarch.backup.manifest import LargeObjects, Sequence, Table
from matriarch.backup.rowsum import RowSum
from matriarch.backup.server import Session

_MOD = 1 << 64
# Seeds of the two halves; hashtextextended is the function of hash partitioning and therefore stable over versions.
_HALVES = "sum(pg_catalog.hashtextextended(t, 0)), sum(pg_catalog.hashtextextended(t, 7046029254386353131))"

_OURS = """
    n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
    AND c.relpersistence <> 't'
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass
                    AND d.objid = c.oid AND d.deptype = 'e')
"""


@dataclass(frozen=True, slots=True)
class Found:
    """A table that a dump holds rows of."""

    schema: str
    name: str
    columns: tuple[str, ...]  # by name
    unlogged: bool
    money: bool = False  # a column's text depends on lc_monetary, which a dump takes as it is

    @property
    def identifier(self) -> str:
        return f"{quote(self.schema)}.{quote(self.name)}"


def quote(name: str) -> str:
    """An SQL identifier, always quoted."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """An SQL string, safe whatever standard_conforming_strings says."""
    quoted = "'" + text.replace("'", "''") + "'"
    return " E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


async def find_tables(session: Session) -> list[Found]:
    """Every table whose rows pg_dump writes; leaves of partitioned ones each for themselves. Sorted by name."""
    rows = await session.fetch(f"""
        WITH RECURSIVE money(type) AS (
            SELECT 'pg_catalog.money'::regtype::oid
            UNION
            SELECT t.oid FROM money m JOIN pg_catalog.pg_type t
            ON t.typelem = m.type OR t.typbasetype = m.type
            OR EXISTS (SELECT FROM pg_catalog.pg_range r WHERE m.type = r.rngsubtype AND t.oid IN (r.rngtypid))
            OR EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.atttypid = m.type
                       AND t.typrelid <> 0 AND NOT a.attisdropped))
        SELECT n.nspname AS schema, c.relname AS name, c.relpersistence = 'u' AS unlogged,
               EXISTS (SELECT FROM pg_catalog.pg_attribute a JOIN money m ON m.type = a.atttypid
                       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS money,
               array(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
                     ORDER BY a.attname COLLATE "C") AS columns
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'r' AND {_OURS}
        ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"
    """)  # noqa: S608 - made of constants
    return [Found(r["schema"], r["name"], tuple(r["columns"]), r["unlogged"], r["money"]) for r in rows]


async def lock_tables(session: Session, tables: list[Found]) -> None:
    """ACCESS SHARE until the end: TRUNCATE and rewrites ignore snapshots and must not fall between two readers."""
    for start in range(0, len(tables), 100):
        names = ", ".join(f"ONLY {t.identifier}" for t in tables[start : start + 100])
        await session.execute(f"LOCK TABLE {names} IN ACCESS SHARE MODE")


async def count_rows(session: Session, table: Found) -> int:
    """As the session's snapshot has them."""
    count: int = await session.fetchval(f"SELECT count(*) FROM ONLY {table.identifier}")  # noqa: S608 - quoted
    return count


async def sum_table(session: Session, wanted: Table) -> Table:
    """Rows and sum as `wanted` has them from a dump's stream: COPY's text, with the columns in the dump's order."""
    found = RowSum()

    async def take(text: bytes) -> None:
        await asyncio.to_thread(found.update, text)

    await session.copy_from_table(
        wanted.name, schema_name=wanted.schema, columns=list(wanted.columns or ()), output=take
    )
    return replace(wanted, rows=found.rows, hash=found.digest())


async def hash_table(session: Session, table: Found) -> Table:
    columns = ", ".join(quote(c) for c in table.columns)
    text = f"SELECT ROW({columns})::text AS t FROM ONLY {table.identifier}"  # noqa: S608 - quoted identifiers
    (row,) = await session.fetch(f"SELECT count(*), {_HALVES} FROM ({text}) AS rows")  # noqa: S608 - as above
    return Table(schema=table.schema, name=table.name, rows=row[0], hash=_digest(row[1], row[2]))


async def measured(session: Session, wanted: Table, there: Found) -> Table:
    """Rows and hash of `there`, taken in the way in which those of `wanted` were."""
    return await (hash_table(session, there) if wanted.columns is None else sum_table(session, wanted))


def _digest(low: int | None, high: int | None) -> str:
    return f"{int(low or 0) % _MOD:016x}{int(high or 0) % _MOD:016x}"


async def read_sequences(session: Session) -> dict[tuple[str, str], tuple[int, int, bool]]:
    """(schema, name) → (increment, last value, called), as they stand at this moment: sequences know no snapshot."""
    rows = await session.fetch(f"""
        SELECT n.nspname AS schema, c.relname AS name, s.seqincrement AS increment
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid
        WHERE c.relkind = 'S' AND {_OURS}
    """)  # noqa: S608 - made of constants
    found: dict[tuple[str, str], tuple[int, int, bool]] = {}
    for start in range(0, len(rows), 200):
        some = rows[start : start + 200]
        values = await session.fetch(
            " UNION ALL ".join(
                f"SELECT {i} AS i, last_value, is_called FROM {quote(r['schema'])}.{quote(r['name'])}"  # noqa: S608 - quoted
                for i, r in enumerate(some)
            )
        )
        for value in values:
            r = some[value["i"]]
            found[r["schema"], r["name"]] = (r["increment"], value["last_value"], value["is_called"])
    return found


def between(
    first: dict[tuple[str, str], tuple[int, int, bool]], last: dict[tuple[str, str], tuple[int, int, bool]]
) -> tuple[Sequence, ...]:
    """Two readings of the same sequences, around a dump."""
    return tuple(
        Sequence(
            schema=schema,
            name=name,
            increment=increment,
            first=value,
            first_called=called,
            last=last.get((schema, name), (increment, value, called))[1],
            last_called=last.get((schema, name), (increment, value, called))[2],
        )
        for (schema, name), (increment, value, called) in sorted(first.items())
    )


async def read_large_objects(session: Session) -> LargeObjects:
    count = await session.fetchval("SELECT count(*) FROM pg_catalog.pg_largeobject_metadata")
    if count == 0:
        return LargeObjects(count=0, hash=_digest(0, 0))
    try:
        async with session.transaction():  # a savepoint: a refusal must not end the snapshot
            (row,) = await session.fetch(
                f"SELECT {_HALVES} FROM (SELECT ROW(oid, pg_catalog.lo_get(oid))::text AS t "  # noqa: S608 - constants
                "FROM pg_catalog.pg_largeobject_metadata) AS objects"
            )
    except (asyncpg.InsufficientPrivilegeError, asyncpg.ProgramLimitExceededError):
        return LargeObjects(count=count, hash=None)
    return LargeObjects(count=count, hash=_digest(row[0], row[1]))


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as the manifest says."""

    what: str
    detail: str

    def __str__(self) -> str:
        return f"{self.what}: {self.detail}"


async def compare(
    session: Session,
    *,
    tables: tuple[Table, ...],
    sequences: tuple[Sequence, ...],
    large_objects: LargeObjects,
    exact: bool = True,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Difference]:
    """Everything in which the database differs from what was dumped; empty when nothing does.

    `exact`: also that there is no table more. `progress` gets the number of tables done.
    """
    differences: list[Difference] = []
    found = {(t.schema, t.name): t for t in await find_tables(session)}
    for done, wanted in enumerate(tables, 1):
        table = found.pop((wanted.schema, wanted.name), None)
        label = f"table {wanted.schema}.{wanted.name}"
        if table is None:
            differences.append(Difference(label, "is missing"))
            continue
        if missing := sorted(set(wanted.columns or ()) - set(table.columns)):
            differences.append(Difference(label, f"has no column {missing[0]}"))
            continue
        actual = await measured(session, wanted, table)
        if actual.rows != wanted.rows:
            differences.append(Difference(label, f"has {actual.rows} rows, the backup {wanted.rows}"))
        elif actual.hash != wanted.hash:
            differences.append(Difference(label, f"has other content in its {wanted.rows} rows than the backup"))
        progress(done)
    if exact:
        differences += [Difference(f"table {t.schema}.{t.name}", "is not in the backup") for t in found.values()]
    differences += _compare_sequences(sequences, await read_sequences(session))
    actual_objects = await read_large_objects(session)
    if actual_objects.count != large_objects.count:
        detail = f"are {actual_objects.count}, in the backup {large_objects.count}"
        differences.append(Difference("large objects", detail))
    elif None not in (actual_objects.hash, large_objects.hash) and actual_objects.hash != large_objects.hash:
        differences.append(Difference("large objects", "have other content than in the backup"))
    return differences


def _compare_sequences(
    wanted: tuple[Sequence, ...], actual: dict[tuple[str, str], tuple[int, int, bool]]
) -> list[Difference]:
    differences = []
    for sequence in wanted:
        label = f"sequence {sequence.schema}.{sequence.name}"
        if (sequence.schema, sequence.name) not in actual:
            differences.append(Difference(label, "is missing"))
            continue
        _, value, called = actual[sequence.schema, sequence.name]
        sign = 1 if sequence.increment > 0 else -1
        first = (sign * sequence.first, sequence.first_called)
        last = (sign * sequence.last, sequence.last_called)
        if first > last:  # it was set back or began again during the dump: any value may be right
            continue
        if not first <= (sign * value, called) <= last:
            differences.append(
                Difference(label, f"stands at {value}, in the backup between {sequence.first} and {sequence.last}")
            )
    return differences
