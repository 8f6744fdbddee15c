"""Logical slots over switchovers and failovers, with a real consumer: no change is missing, none is taken back."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from contextlib import suppress

import pytest

from matriarch.agent.postgres import processes
from matriarch.errors import Unavailable
from matriarch.postgres.standbynames import render_names
from tests.postgres.pgbox import Box, Member, eventually, streaming

pytestmark = pytest.mark.timeout(240)


class Consumer:
    """pg_recvlogical, started again on whichever member leads, as a connector would be."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self.file = box.root / "changes"
        self.child: subprocess.Popen[bytes] | None = None
        self._log = (box.root / "consumer.log").open("ab")

    def follow(self, member: Member) -> None:
        self.stop()
        self.child = subprocess.Popen(
            [
                member.paths.bin / "pg_recvlogical", "-h", member.paths.socket_dir, "-p", str(self._box.port),
                "-U", "postgres", "-d", "app", "-S", "cdc", "--start", "-f", self.file, "-s", "1", "-F", "1",
            ],
            stderr=self._log,
        )  # fmt: skip

    def stop(self) -> None:
        if self.child is not None:
            self.child.send_signal(signal.SIGINT)
            self.child.wait(10)
            self.child = None

    def close(self) -> None:
        self.stop()
        self._log.close()

    def seen(self) -> list[int]:
        """The numbers of all inserted rows, in order of arrival, repeats left out."""
        text = self.file.read_text() if self.file.exists() else ""
        return list(dict.fromkeys(int(n) for n in re.findall(r"INSERT: i\[integer\]:(\d+)", text)))


@pytest.fixture
async def consumer(box: Box):  # type: ignore[no-untyped-def]
    made = Consumer(box)
    yield made
    made.close()
    print((box.root / "consumer.log").read_text() if (box.root / "consumer.log").exists() else "")


async def _cluster(box: Box) -> tuple[Member, Member, Member]:
    """One primary with two voters, k 1, a table and a slot that survives failovers, copied to both."""
    one = await box.primary(names='ANY 1 ("orders-2-aaaa", "orders-3-aaaa")')
    two = await box.standby(2, one)
    three = await box.standby(3, one)
    await one.sql("CREATE TABLE t (i int PRIMARY KEY)")
    await one.server.set_standby_slots([two.slot])
    await one.value("SELECT pg_create_logical_replication_slot('cdc', 'test_decoding', false, false, true)")
    await _copied(one, two, three)
    return one, two, three


async def _copied(one: Member, *standbys: Member) -> None:
    """A copy is whole once the consumer has moved past the rows and the WAL that the standby lacked at first."""

    async def whole(member: Member) -> bool:
        await member.server.wake_slot_worker()
        await one.sql("SELECT pg_log_standby_snapshot()")
        if not await _pids(one):
            await one.sql("SELECT pg_logical_slot_get_changes('cdc', NULL, NULL)")
        return [s.name for s in await member.server.logical_slots() if s.copy and s.whole] == ["cdc"]

    for member in standbys:
        await eventually(lambda m=member: whole(m), f"{member.instance} copies the slot", within=60)


async def test_a_switchover_and_a_failover_lose_no_change(box: Box, consumer: Consumer) -> None:
    one, two, three = await _cluster(box)
    consumer.follow(one)
    await one.sql("INSERT INTO t SELECT generate_series(1, 500)")
    await eventually(lambda: len(consumer.seen()) >= 500, "the first changes arrive")

    # planned: consumers end, then a clean stop, and the heir goes on
    await one.server.end_consumers()
    assert await one.server.stop("fast")
    await two.server.cut_stream()
    for slot in (one.slot, three.slot):
        await two.server.ensure_slots({one.slot: None, three.slot: None})
        assert slot in {s.name for s in await two.server.slots()}
    await two.server.set_standby_names(render_names(1, [one.name, three.name]), slots=[three.slot])
    promotion = await two.server.promote(2)
    await three.server.attach(three.upstream(two), line=promotion.line)
    await one.server.start_standby(one.upstream(two), line=promotion.line)
    await streaming(two, one, three)
    consumer.follow(two)
    await two.sql("INSERT INTO t SELECT generate_series(501, 1000)")
    await eventually(lambda: len(consumer.seen()) >= 1000, "the changes after the switchover arrive")

    # the old primary's own slot of that name is in the way of the copy, until it goes
    assert await one.server.drop_leftovers() == ["cdc"]
    await _copied(two, one, three)

    # unplanned, while changes are made and read
    writer = asyncio.create_task(_write(two, 1001))
    await eventually(lambda: len(consumer.seen()) >= 1200, "changes arrive meanwhile")
    two.kill()
    acknowledged = await writer
    for member in (one, three):
        await member.server.cut_stream()
    ends = {m: await m.server.vote_position() for m in (one, three)}
    winner = max(ends, key=lambda m: ends[m])
    other = one if winner is three else three
    await winner.server.ensure_slots({two.slot: None, other.slot: None})
    await winner.server.set_standby_names(render_names(1, [other.name, two.name]), slots=[other.slot])
    promotion = await winner.server.promote(3)
    await other.server.attach(other.upstream(winner), line=promotion.line)
    await streaming(winner, other)
    consumer.follow(winner)
    await winner.sql("INSERT INTO t SELECT generate_series(1000001, 1000100)")
    await eventually(lambda: 1000100 in consumer.seen(), "the changes after the failover arrive")
    kept = [r["i"] for r in await winner.sql("SELECT i FROM t ORDER BY i")]
    assert set(acknowledged) <= set(kept)
    seen = consumer.seen()
    assert sorted(seen) == kept, "the consumer saw exactly what the cluster kept"
    assert seen == sorted(seen), "in order"


async def _write(member: Member, first: int) -> list[int]:
    """Single rows until the server is gone; those that were acknowledged."""
    done: list[int] = []
    session = await member.connect()
    with suppress(Exception):
        for i in range(first, first + 100000):
            await session.execute(f"INSERT INTO t VALUES ({i})")
            done.append(i)
    return done


async def test_a_consumer_sees_nothing_that_k_voters_have_not_flushed(box: Box, consumer: Consumer) -> None:
    one, two, three = await _cluster(box)
    consumer.follow(one)
    await one.sql("INSERT INTO t VALUES (1)")
    await eventually(lambda: consumer.seen() == [1], "the first change arrives")
    (receiver,) = two.children("walreceiver")
    os.kill(receiver, signal.SIGSTOP)
    try:
        await one.sql("INSERT INTO t VALUES (2)", synchronous_commit="local")
        await asyncio.sleep(1.0)
        assert consumer.seen() == [1]
        # the voter is away: another takes its place, and the consumer goes on
        await one.server.set_standby_slots([three.slot])
        await eventually(lambda: consumer.seen() == [1, 2], "the change arrives by the other voter")
    finally:
        os.kill(receiver, signal.SIGCONT)


async def test_ending_consumers_sees_them_gone(box: Box, consumer: Consumer) -> None:
    one, *_ = await _cluster(box)
    consumer.follow(one)
    await eventually(lambda: _pids(one), "it reads")
    (before,) = await _pids(one)
    assert await one.server.end_consumers() == 1
    assert not processes.alive(processes.look(before))
    await eventually(lambda: _pids(one), "it comes back", within=30)


async def _pids(member: Member) -> list[int]:
    return [s.pid for s in await member.server.logical_slots() if s.pid is not None]


async def test_a_worker_that_waits_for_a_dead_primary_holds_up_no_promotion(box: Box) -> None:
    one, two, three = await _cluster(box)
    await eventually(lambda: two.children("slotsync"), "the worker runs")
    for pid in processes.working_in(one.paths.pgdata):
        os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(2.5)  # its next question is never answered
    begun = asyncio.get_running_loop().time()
    await two.server.cut_stream()
    await two.server.ensure_slots({one.slot: None, three.slot: None})
    await two.server.promote(2)
    assert asyncio.get_running_loop().time() - begun < 2.0
    assert [(s.name, s.copy, s.whole) for s in await two.server.logical_slots()] == [("cdc", True, True)]


async def test_a_deposed_primary_forgets_the_rows_it_kept(box: Box) -> None:
    """hot_standby_feedback is remembered by the slot; by the feedback of a standby it reached the new primary."""
    one = await box.primary()
    two = await box.standby(2, one)
    reader = await two.connect()
    await reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class")
    keeps = "SELECT xmin IS NOT NULL FROM pg_replication_slots WHERE slot_name = $1"

    async def kept() -> bool:
        return bool(await one.value(keeps, two.slot))

    await eventually(kept, "the slot keeps rows", within=30)
    await one.server.ensure_slots({two.slot: None})
    assert await kept(), "a primary's stays as it is"
    assert await one.server.stop("fast")
    await two.server.cut_stream()
    await two.server.ensure_slots({one.slot: None})
    promotion = await two.server.promote(2)
    await one.server.start_standby(one.upstream(two), line=promotion.line)
    await streaming(two, one)
    assert [(s.name, s.stale) for s in await one.server.slots()] == [(two.slot, True)]
    await one.server.ensure_slots({two.slot: None})
    (after,) = await one.server.slots()
    assert (after.stale, after.lost) == (False, False)
    assert after.restart_lsn
    assert not await kept()
    await reader.close()


async def test_the_list_is_refused_in_time_when_nobody_shows_it(box: Box) -> None:
    one = await box.primary()
    (postmaster,) = [one.server.postmaster()]
    assert postmaster is not None
    os.kill(postmaster, signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable):
            await one.server.set_standby_slots(["matriarch_2"], timeout=1.0)
    finally:
        os.kill(postmaster, signal.SIGCONT)
