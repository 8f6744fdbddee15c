"""How far PostgreSQL's WAL summarizer is behind, as the agent sees it: at work, stuck, and off."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dev.ports import free_port
from matriarch.agent import api, summarizer
from matriarch.agent.config import Environment
from matriarch.agent.instance import Instance
from matriarch.agent.leases import Leases
from matriarch.agent.memberfiles import MemberFiles
from matriarch.agent.summarizer import quiet
from matriarch.agent.tls import Tls
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


async def test_the_controller_is_told_and_a_peer_does_not_wait_for_it(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await box.primary()
    for name in (api.CONTROLLER, "orders-2"):
        box.ca.issue(name, tmp_path / name)
    monkeypatch.setattr(api, "PORT", port := free_port("127.0.0.1"))
    monkeypatch.setattr(api, "PROBES", free_port("127.0.0.1"))
    served = api.Api(_instance(one), Tls(one.paths.secret), elect=_no, won=_no, switchover=_no, restart=_no)
    await served.start()
    try:
        async with aiohttp.ClientSession() as session:

            async def told(caller: str) -> dict[str, Any]:
                tls = Tls(tmp_path / caller).client
                async with session.get(f"https://127.0.0.1:{port}/v1/status", ssl=tls) as answer:
                    assert answer.status == 200
                    return dict(await answer.json())

            async def known() -> bool:
                return (await told(api.CONTROLLER))["summaries_behind_bytes"] is not None

            await eventually(known, "the controller is told", within=AWAKE)
            assert (await told(api.CONTROLLER))["summaries_behind_bytes"] >= 0
            assert "summaries_behind_bytes" not in await told("orders-2")
    finally:
        await served.close()


def _instance(member: Member) -> Instance:
    """As much of one as a status is made of."""
    nobody: Any = None
    leases = Leases(nobody, "orders", "n", {}, keep=_no)
    env = Environment("orders", "n", member.instance, member.address, "pod", "node", "claim")
    files = MemberFiles(member.paths.volume / "member")
    instance = Instance(env, files, nobody, leases, nobody, nobody, member.server, nobody, nobody)
    instance.server_role = "primary"
    return instance


def _no(*_: object) -> None: ...


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


async def test_one_that_sleeps_after_an_error_is_gone_before_a_planned_stop(box: Box) -> None:
    one = await box.primary()
    folder = one.server.paths.pgdata / "pg_wal" / "summaries"
    folder.chmod(0o500)
    try:
        await _write(one)
        await one.sql("CHECKPOINT")  # a summary ends there, and can't be written
        await eventually(one.server.summarizer_failed, "it failed", within=AWAKE)
        here = _Here(one)
        with ExitStack() as stopping:
            await quiet(here, "", stopping)  # type: ignore[arg-type]  # all that it needs of an instance
            assert one.children("walsummarizer") == []
            assert not here.summarizes
        assert not await one.server.summarizer_failed()
    finally:
        folder.chmod(0o700)
    assert here.summarizes
    await here.apply()
    await eventually(lambda: _near(one), "it has begun anew", within=AWAKE)


class _Here:
    """An instance, as far as its settings go."""

    def __init__(self, member: Member) -> None:
        self.member, self.server, self.summarizes, self.door = member, member.server, True, "open"

    async def apply(self) -> None:
        await self.server.configure(replace(self.member.settings, summarize=self.summarizes))


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    async def apply(here: _Here, *_: object, **__: object) -> None:
        await here.apply()

    monkeypatch.setattr(summarizer, "apply_config", apply)
