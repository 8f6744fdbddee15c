"""The clients of the history tests against a PostgreSQL that nobody fails over: what one server shows must pass.

So whatever they find in a cluster is the cluster's. And what is taken away from under them must be found here, too.
"""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from bench.history.checks import Final, check
from bench.history.load import Load, final
from bench.history.ops import Op
from dev.product import Database
from matriarch.postgres.standbynames import render_names
from tests.postgres.pgbox import Box, Member

pytestmark = pytest.mark.timeout(120)

WORKLOADS = {"set", "cancel", "bank", "append-rr", "append-ser", "register"}


def database(member: Member) -> Database:
    return Database(f"postgresql://app:secret@{member.address}:{member.box.port}/app", {})


async def history(load: Load) -> tuple[list[Op], Final]:
    ops = await asyncio.to_thread(load.stop)
    return ops, await asyncio.to_thread(final, load.database)


async def test_a_server_that_crashes_and_recovers_shows_nothing_wrong(box: Box, tmp_path: Path) -> None:
    one = await box.primary()
    with Load(database(one), tmp_path / "history.jsonl", seed=3) as load:
        await asyncio.to_thread(load.flowing, more=600)
        one.kill()
        await asyncio.sleep(0.3)
        await one.server.start_primary()
        await asyncio.to_thread(load.flowing, more=600)
        ops, there = await history(load)
    assert {op.workload for op in ops if op.ok} == WORKLOADS
    assert check(ops, there).violations == ()

    gone = next(op.value for op in ops if op.workload == "set" and op.ok)
    found = check(ops, replace(there, sets={**there.sets, "set": [v for v in there.sets["set"] if v != gone]}))
    assert [(v.workload, v.rule) for v in found.violations] == [("set", "lost")]


async def test_waits_for_replication_that_time_out_are_unknown(box: Box, tmp_path: Path) -> None:
    one = await box.primary()
    two = await box.standby(2, one)
    await one.server.set_standby_names(render_names(1, [two.name]))
    with Load(database(one), tmp_path / "history.jsonl", seed=4) as load:
        await asyncio.to_thread(load.flowing, more=300)
        (receiver,) = two.children("walreceiver")
        os.kill(receiver, signal.SIGSTOP)
        await asyncio.sleep(1.5)
        os.kill(receiver, signal.SIGCONT)
        await asyncio.to_thread(load.flowing, more=300)
        ops, there = await history(load)
    impatient = [op for op in ops if op.workload == "cancel" and op.outcome == "info"]
    assert any("WARNING" in op.error for op in impatient)
    assert not any("WARNING" in op.error for op in ops if op.workload != "cancel")
    assert check(ops, there).violations == ()


async def test_a_standby_that_takes_over_without_the_last_writes_is_found(box: Box, tmp_path: Path) -> None:
    """Asynchronous replication, its stream held up, and a promotion: the loss that everything here is about."""
    one = await box.primary()
    two = await box.standby(2, one)
    with Load(database(one), tmp_path / "history.jsonl", seed=5) as load:
        await asyncio.to_thread(load.flowing, more=300)
        (sender,) = one.children("walsender")  # not the receiver: what was sent to it already it would still read
        os.kill(sender, signal.SIGSTOP)
        await asyncio.to_thread(load.flowing, more=300)
        os.kill(sender, signal.SIGKILL)  # before anything wakes it up
        one.kill()
        await two.server.cut_stream()
        await two.server.set_standby_names("")
        await two.server.promote(2)
        ops = await asyncio.to_thread(load.stop)
        there = await asyncio.to_thread(final, database(two))
    found = check(ops, there)
    assert found.lost > 50
    assert {v.workload for v in found.violations if v.rule == "lost"} >= {"set", "bank", "append-rr", "append-ser"}
