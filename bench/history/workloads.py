"""The workloads: what each kind of client asks for, again and again, and how it remembers what it was told."""

from __future__ import annotations

import asyncio
import itertools
import random
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterator
from typing import Any, ClassVar, TextIO

from bench.history.checks import bank
from bench.history.ops import Outcome, completion, invocation
from bench.history.session import ERRORS, Session, SlowError, boottime, outcome_of, unless_stopped, words

TABLES = 3  # of lists
ACTIVE = 3  # lists that are appended to at a time, in each table
FULL = 60  # elements after which a list is left alone, so that reads stay short

SCHEMA = f"""
DROP TABLE IF EXISTS history_set, history_cancel, history_account, history_transfer, history_register;
CREATE TABLE history_set (id bigint PRIMARY KEY);
CREATE TABLE history_cancel (id bigint PRIMARY KEY);
CREATE TABLE history_account (id int PRIMARY KEY, balance int NOT NULL CHECK (balance >= 0));
INSERT INTO history_account SELECT i, {bank.START} FROM generate_series(0, {bank.ACCOUNTS - 1}) i;
CREATE TABLE history_transfer (id bigint PRIMARY KEY, source int, target int, amount int);
CREATE TABLE history_register (id int PRIMARY KEY, value bigint NOT NULL);
INSERT INTO history_register SELECT i, 0 FROM generate_series(0, 9) i;
""" + "".join(
    f"DROP TABLE IF EXISTS {table}; CREATE TABLE {table} (id text PRIMARY KEY, val text NOT NULL);"
    for kind in ("rr", "ser")
    for table in (f"history_{kind}_{n}" for n in range(TABLES))
)


class Log:
    """Where all clients of one process write; ids count from 1."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._ids = itertools.count(1)

    def begin(self, client: int, workload: str, kind: str, value: Any) -> int:
        number = next(self._ids)
        self._file.write(invocation(number, client, workload, kind, boottime(), value))
        return number

    def end(self, number: int, outcome: Outcome, value: Any = None, error: str = "") -> None:
        self._file.write(completion(number, boottime(), outcome, value, error))


class Client(ABC):
    """One client with one connection. `pace` is the longest pause between two of its operations, in seconds."""

    workload: ClassVar[str]
    pace: ClassVar[float] = 0.03
    timeout: ClassVar[float] = 2.0

    def __init__(self, uri: str, host: str | None, number: int, log: Log, rng: random.Random) -> None:
        self.session = Session(uri, host, timeout=self.timeout)
        self.number = number
        self.log = log
        self.rng = rng
        self._serial = itertools.count(1)

    def unique(self) -> int:
        """A number that no other client and no other operation of a run has."""
        return self.number << 32 | next(self._serial)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; the operation under way is finished."""
        while not stop.is_set():
            connection = await self.session.connection()
            if connection is not None:
                self.session.warned = False
                await self.once(connection)
                await unless_stopped(stop, self.rng.random() * self.pace)
        self.session.drop()

    @abstractmethod
    async def once(self, connection: Any) -> None:
        """One operation, logged."""

    async def change(self, kind: str, value: Any, sql: str, *arguments: Any) -> None:
        """One statement that is its own transaction."""
        number = self.log.begin(self.number, self.workload, kind, value)
        connection = await self.session.connection()
        if connection is None:
            self.log.end(number, "fail", error="no connection")
            return
        try:
            await self.session.within(connection.execute(sql, *arguments))
        except ERRORS as e:
            self.failed(number, e, sent=True)
        else:
            await self.succeeded(number)

    async def succeeded(self, number: int, value: Any = None) -> None:
        """Acknowledged; with a warning, the commit is known to the primary alone."""
        if await self.session.heard_warning():
            self.log.end(number, "info", error="WARNING: the wait for replication was cancelled")
        else:
            self.log.end(number, "ok", value)

    def failed(self, number: int, error: BaseException, *, sent: bool) -> None:
        """The connection is given up: what state it is in is not worth knowing."""
        self.log.end(number, outcome_of(error, sent=sent), error=words(error))
        self.session.drop()


class Adder(Client):
    """Unique inserts."""

    workload = "set"
    pace = 0.02

    async def once(self, connection: Any) -> None:
        value = self.unique()
        await self.change("add", value, "INSERT INTO history_set VALUES ($1)", value)


class Impatient(Client):
    """Unique inserts that are given up while they wait for replication.

    In turn by the driver's time-out, which sends a cancel, and by a second session's pg_cancel_backend(), after which
    the server answers success with a warning. statement_timeout is of no use here: it ends before the wait begins.
    """

    workload = "cancel"
    pace = 0.05

    def __init__(self, uri: str, host: str | None, number: int, log: Log, rng: random.Random) -> None:
        super().__init__(uri, host, number, log, rng)
        self._other = Session(uri, host, timeout=self.timeout)

    async def once(self, connection: Any) -> None:
        value = self.unique()
        number = self.log.begin(self.number, self.workload, "add", value)
        limit = self.rng.choice((0.02, 0.05, 0.2, 0.5))
        sql = "INSERT INTO history_cancel VALUES ($1)"
        try:
            if value % 2:
                await connection.execute(sql, value, timeout=limit)
            else:
                await self._cancelled_after(limit, connection, self.session.within(connection.execute(sql, value)))
        except ERRORS as e:
            if isinstance(e, TimeoutError) and not isinstance(e, SlowError):
                self.log.end(number, "info", error=words(e))  # the driver cancels, and goes on with the connection
            else:
                self.failed(number, e, sent=True)
        else:
            await self.succeeded(number)

    async def _cancelled_after(self, limit: float, connection: Any, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        done, _ = await asyncio.wait({task}, timeout=limit)
        if not done and (other := await self._other.connection()) is not None:
            try:
                sql = "SELECT pg_cancel_backend($1)"
                await self._other.within(other.execute(sql, connection.get_server_pid()))
            except ERRORS:
                self._other.drop()
        await task


class Teller(Client):
    """Transfers, each with a line in the ledger; now and then a look at all accounts."""

    workload = "bank"
    pace = 0.08

    async def once(self, connection: Any) -> None:
        if self.rng.random() < 0.4:
            await self._look(connection)
        else:
            await self._transfer(connection)

    async def _look(self, connection: Any) -> None:
        number = self.log.begin(self.number, self.workload, "read", None)
        try:
            rows = await self.session.within(connection.fetch("SELECT id, balance FROM history_account"))
        except ERRORS as e:
            self.failed(number, e, sent=False)
        else:
            self.log.end(number, "ok", {str(row["id"]): row["balance"] for row in rows})

    async def _transfer(self, connection: Any) -> None:
        key = self.unique()
        source, target = self.rng.sample(range(bank.ACCOUNTS), 2)
        amount = self.rng.randint(1, 5)
        number = self.log.begin(self.number, self.workload, "transfer", [key, source, target, amount])
        sent = False
        try:
            await self.session.within(connection.execute("BEGIN"))
            if self.rng.random() < 0.02:  # as a migration does; a reader on a replica holds up its replay there
                sql = "LOCK TABLE history_account IN ACCESS EXCLUSIVE MODE"
                await self.session.within(connection.execute(sql))
            steps = sorted([(source, -amount), (target, amount)])  # in one order, or they lock each other out
            for account, change in steps:
                sql = "UPDATE history_account SET balance = balance + $2 WHERE id = $1"
                await self.session.within(connection.execute(sql, account, change))
            sql = "INSERT INTO history_transfer VALUES ($1, $2, $3, $4)"
            await self.session.within(connection.execute(sql, key, source, target, amount))
            sent = True
            await self.session.within(connection.execute("COMMIT"))
        except ERRORS as e:
            self.failed(number, e, sent=sent)
        else:
            await self.succeeded(number)


class LongReader(Client):
    """Looks at all accounts on a replica, in a transaction that stays open for seconds: a heir must not wait for it."""

    workload = "bank"
    timeout = 12.0

    async def once(self, connection: Any) -> None:
        number = self.log.begin(self.number, self.workload, "read", None)
        try:
            await self.session.within(connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            rows = await self.session.within(connection.fetch("SELECT id, balance FROM history_account"))
            await self.session.within(connection.execute("SELECT pg_sleep($1)", self.rng.random() * 8))
            await self.session.within(connection.execute("COMMIT"))
        except ERRORS as e:
            self.failed(number, e, sent=False)
        else:
            self.log.end(number, "ok", {str(row["id"]): row["balance"] for row in rows})


class Appender(Client):
    """Short transactions that append to lists and read them."""

    workload = "append-rr"
    pace = 0.08
    level: ClassVar[str] = "REPEATABLE READ"
    table: ClassVar[str] = "history_rr"
    elements: ClassVar[Iterator[int]] = itertools.count(1)  # all appenders of the process share them

    async def once(self, connection: Any) -> None:
        steps = self._steps()
        number = self.log.begin(self.number, self.workload, "txn", steps)
        sent = False
        done: list[list[Any]] = []
        try:
            await self.session.within(connection.execute(f"BEGIN ISOLATION LEVEL {self.level}"))
            for what, name, value in steps:
                done.append([what, name, await self._step(connection, what, name, value)])
            sent = True
            await self.session.within(connection.execute("COMMIT"))
        except ERRORS as e:
            self.failed(number, e, sent=sent)
        else:
            await self.succeeded(number, done)

    def _steps(self) -> list[list[Any]]:
        steps: list[list[Any]] = []
        for _ in range(self.rng.randint(1, 4)):
            element = next(self.elements) if self.rng.random() < 0.5 else None
            # Lists fill up one after the other, so the newest elements say which are in use.
            era = self._era(element)
            name = f"{self.rng.randrange(TABLES)}/{era * ACTIVE + self.rng.randrange(ACTIVE)}"
            steps.append(["r", name, None] if element is None else ["a", name, element])
        return steps

    newest: ClassVar[int] = 0

    def _era(self, element: int | None) -> int:
        if element is not None:
            type(self).newest = element
        return self.newest // (FULL * ACTIVE * TABLES)

    async def _step(self, connection: Any, what: str, name: str, value: int | None) -> Any:
        number, _, key = name.partition("/")
        table = f"{self.table}_{number}"
        if what == "r":
            text = await self.session.within(connection.fetchval(f"SELECT val FROM {table} WHERE id = $1", key))
            return [int(v) for v in text.split(",")] if text else []
        sql = (
            f"INSERT INTO {table} AS t VALUES ($1, $2) "
            "ON CONFLICT (id) DO UPDATE SET val = t.val || ',' || excluded.val"
        )
        await self.session.within(connection.execute(sql, key, str(value)))
        return value


class SerialAppender(Appender):
    """The same, serializable."""

    workload = "append-ser"
    level = "SERIALIZABLE"
    table = "history_ser"
    elements = itertools.count(1)
    newest = 0


class RegisterWriter(Client):
    """Counts one register up; nobody else writes it."""

    workload = "register"
    pace = 0.05

    def __init__(self, uri: str, host: str | None, number: int, log: Log, rng: random.Random) -> None:
        super().__init__(uri, host, number, log, rng)
        self.register = number % 10
        self.value = 0

    async def once(self, connection: Any) -> None:
        self.value += 1
        sql = "UPDATE history_register SET value = $2 WHERE id = $1"
        await self.change("write", [self.register, self.value], sql, self.register, self.value)


class RegisterReader(Client):
    """Reads registers over one connection that it keeps as long as it lives: an old primary is asked, too."""

    workload = "register"
    pace = 0.04
    registers: ClassVar[tuple[int, ...]] = ()

    async def once(self, connection: Any) -> None:
        register = self.rng.choice(self.registers)
        number = self.log.begin(self.number, self.workload, "read", [register, None])
        sql = "SELECT value FROM history_register WHERE id = $1"
        try:
            value = await self.session.within(connection.fetchval(sql, register))
        except ERRORS as e:
            self.failed(number, e, sent=False)
        else:
            self.log.end(number, "ok", [register, value])


class Sleeper(RegisterReader):
    """A reader that thinks for seconds, so that its next read may be asked of a primary that has been deposed since,
    and that waits long enough to hear what one says that was frozen."""

    pace = 5.0
    timeout = 12.0
