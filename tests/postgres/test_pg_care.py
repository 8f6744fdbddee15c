"""The replica doctor's light remedies on a real standby, and a volume that is really full."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from matriarch.agent.memberfiles import MemberFiles
from matriarch.agent.reserve import Reserve
from matriarch.postgres.lsn import SEGMENT_SIZE
from tests.postgres.pgbox import Box, Member, eventually, streaming

pytestmark = pytest.mark.timeout(240)


async def test_a_receiver_is_ended_and_comes_back(box: Box) -> None:
    one = await box.primary()
    two = await box.standby(2, one)
    (before,) = two.children("walreceiver")
    assert await two.server.restart_receiver()
    await eventually(lambda: two.children("walreceiver") not in ([], [before]), "another one")
    await streaming(one, two)
    (stuck,) = two.children("walreceiver")
    os.kill(stuck, signal.SIGSTOP)
    try:
        assert not await two.server.restart_receiver(timeout=0.5), "a process that stands still does not end"
    finally:
        os.kill(stuck, signal.SIGCONT)


async def test_a_pause_of_replay_is_seen_and_ended(box: Box) -> None:
    one = await box.primary()
    two = await box.standby(2, one)
    found = await two.server.replay()
    assert (found.paused, found.patience_ms) == (False, 30000)
    await two.sql("SELECT pg_wal_replay_pause()")
    assert (await two.server.replay()).paused
    await two.server.resume_replay()
    assert not (await two.server.replay()).paused


async def test_what_is_kept_for_others_is_given_up(box: Box) -> None:
    one = await box.primary()
    two = await box.standby(2, one, parameters={"shared_buffers": "16MB", "wal_keep_size": "0"})
    await two.server.ensure_slots({"matriarch_3": None})
    for _ in range(6):
        await one.sql("SELECT pg_switch_wal(), pg_logical_emit_message(false, 'x', repeat('x', 100000))")
    await one.sql("CHECKPOINT")
    lsn = await one.server.write_record()
    await eventually(lambda: _replayed(two, lsn), "it is replayed")
    before = await two.server.oldest_wal()
    await two.server.free_kept_wal()
    assert await two.server.slots() == []
    assert await two.server.oldest_wal() > before
    assert (await two.server.oldest_wal()) % SEGMENT_SIZE == 0


async def _replayed(member: Member, lsn: int) -> bool:
    status = await member.server.status()
    return status is not None and status.replayed_lsn >= lsn


async def test_the_startup_process_says_what_it_does(box: Box) -> None:
    one = await box.primary()
    two = await box.standby(2, one)
    await eventually(lambda: "recovering" in two.server.startup_title(), "a title")
    assert one.server.startup_title() == ""
    await asyncio.sleep(0)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB, a real one that runs full."""
    place = tmp_path / "volume"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def _fill(place: Path) -> None:
    with (place / "greedy").open("ab", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(b"\0" * size)
            except OSError:
                size //= 4


def test_a_promise_fits_on_a_full_volume(small: Path) -> None:
    reserve = Reserve(small)
    files = MemberFiles(small / "member", reserve)
    files.write_promise(1)
    reserve.make(32 << 20)
    reserve.keep_crumb()
    total, free, ballast = reserve.look()
    assert (total, ballast) == (64 << 20, 32 << 20)
    assert free < 32 << 20
    _fill(small)
    assert reserve.look()[1] == 0
    bare = MemberFiles(small / "member")
    with pytest.raises(OSError, match="No space left"):
        bare.write_promise(2)
    files.write_promise(2)
    assert files.promise() == 2
    reserve.release()
    assert reserve.look()[1] >= 31 << 20
    with pytest.raises(OSError, match="No space left"):
        reserve.make(40 << 20)
    assert not reserve.ballast.exists(), "nothing is left of a ballast that does not fit"
