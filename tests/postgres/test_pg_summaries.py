"""How far PostgreSQL's WAL summarizer is behind, as the agent sees it: at work, stuck, and off."""

from __future__ import annotations

import os
import signal

import pytest

from matriarch.postgres.lsn import SEGMENT_SIZE
from tests.postgres.pgbox import Box, Member, eventually

pytestmark = pytest.mark.timeout(240)

AWAKE = 60
"""A summarizer that found nothing to do for long sleeps for up to 30 s."""


async def test_a_summarizer_that_stands_still_falls_behind_and_catches_up(box: Box) -> None:
    one = await box.primary()
    two = await box.standby(2, one)
    for member in (one, two):
        await eventually(lambda m=member: _near(m), "it has read all there is", within=AWAKE)
    stuck = [pid for member in (one, two) for pid in member.children("walsummarizer")]
    assert len(stuck) == 2
    for pid in stuck:
        os.kill(pid, signal.SIGSTOP)
    try:
        await _write(one)
        for member in (one, two):  # each has a summarizer of its own, and backups are made from replicas
            await eventually(lambda m=member: _far(m), "what was written is not summarized", within=AWAKE)
    finally:
        for pid in stuck:
            os.kill(pid, signal.SIGCONT)
    for member in (one, two):
        await eventually(lambda m=member: _near(m), "it has caught up", within=AWAKE)


async def test_a_summarizer_that_is_off_is_not_behind(box: Box) -> None:
    one = await box.primary(parameters={"shared_buffers": "16MB", "summarize_wal": "off"})
    await _write(one)
    assert one.children("walsummarizer") == []
    assert await one.server.unsummarized() is None


async def _write(member: Member) -> None:
    """Some segments of WAL."""
    for _ in range(4):
        await member.sql("SELECT pg_logical_emit_message(true, 'x', repeat('x', 100000)), pg_switch_wal()")


async def _near(member: Member) -> bool:
    behind = await member.server.unsummarized()
    return behind is not None and behind < SEGMENT_SIZE


async def _far(member: Member) -> bool:
    behind = await member.server.unsummarized()
    return behind is not None and behind >= 3 * SEGMENT_SIZE
