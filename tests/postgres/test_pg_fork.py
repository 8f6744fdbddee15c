"""A primary that dies in the middle of a record, at the end of a segment: whose word opens the heir's door."""

from __future__ import annotations

import os
import signal

import pytest

from matriarch.postgres.lsn import SEGMENT_SIZE
from matriarch.postgres.standbynames import render_names
from tests.postgres.pgbox import Box, Member, eventually, streaming

pytestmark = pytest.mark.timeout(240)


async def _lsn(member: Member, function: str) -> int:
    return int(str(await member.value(f"SELECT ({function}() - '0/0')::bigint")))


async def _dies_in_the_middle_of_a_record(one: Member, *standbys: Member) -> int:
    """A record that ends in the first page of the next segment. The WAL writer flushes whole pages, so up to the
    segment's end; that arrives, and it is over. Returns the segment's end."""
    for _ in range(5):
        here = await _lsn(one, "pg_current_wal_insert_lsn")
        end = (here // SEGMENT_SIZE + 1) * SEGMENT_SIZE
        await one.sql(f"SELECT pg_logical_emit_message(true, 'm', repeat('x', {end - here - 100_000}))")
        here = await _lsn(one, "pg_current_wal_insert_lsn")
        await one.sql(f"SELECT pg_logical_emit_message(false, 'm', repeat('x', {end - here + 2000}))")

        async def all_arrived(end: int = end) -> bool:
            return min([await _lsn(s, "pg_last_wal_receive_lsn") for s in standbys]) >= end

        await eventually(all_arrived, "a segment")
        if {await _lsn(s, "pg_last_wal_receive_lsn") for s in standbys} == {end}:
            one.kill()
            return end
    raise AssertionError("something else completed the record each time")


async def test_who_has_flushed_the_new_timeline_without_its_beginning_does_not_open_the_door(box: Box) -> None:
    one = await box.primary()
    heir = await box.standby(2, one)
    other = await box.standby(3, one)
    await streaming(one, heir, other)
    end = await _dies_in_the_middle_of_a_record(one, heir, other)
    for member in (heir, other):
        await member.server.cut_stream()
        await member.server.vote_position()
    await heir.server.ensure_slots({other.slot: None})
    await heir.server.set_standby_names(render_names(1, [other.name]))
    await other.server.attach(other.upstream(heir))  # as after a vote: the winner is not promoted yet
    promotion = await heir.server.promote(5)
    assert promotion.switch_lsn < end
    record = await heir.server.write_record()
    await eventually(lambda: "ahead of the upstream" in other.log.read_text(), "it asks from behind the fork")
    for pid in other.children("startup"):
        os.kill(pid, signal.SIGSTOP)  # it would find out, and PANIC, within milliseconds
    await heir.server.pass_segment()

    async def says_so() -> bool:
        return await heir.server.flushed_by(record, [other.name]) == [other.name]

    await eventually(says_so, "it says that it has flushed the record")
    assert await heir.server.flushed_by(record, [other.name], fork=promotion.switch_lsn) == []
    assert await _lsn(other, "pg_last_wal_replay_lsn") <= promotion.switch_lsn, "and it can't have"
