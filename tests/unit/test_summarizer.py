"""A WAL summarizer that fails again and again is switched off, comes back, and is left alone for longer each time."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from matriarch.agent import summarizer
from matriarch.agent.clock import SECOND
from matriarch.agent.summarizer import CALM, FIRST_REST, LONGEST_REST, Summarizer
from matriarch.errors import Unavailable


class World:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.fails, self.asked = 1000 * SECOND, False, 0
        monkeypatch.setattr(summarizer, "boottime", lambda: self.now)
        self.instance: Any = SimpleNamespace(
            server_role="standby", busy="", summarizes=True, nudge=lambda: None, warnings={},
            server=SimpleNamespace(summarizer_failed=self._failed),
        )  # fmt: skip
        self.summarizer = Summarizer(self.instance)

    async def _failed(self) -> bool:
        self.asked += 1
        return self.fails

    async def look(self, after: int = 30 * SECOND) -> bool:
        self.now += after
        await self.summarizer.look()
        on: bool = self.instance.summarizes
        return on

    async def until_off(self) -> None:
        self.fails = True
        assert await self.look()
        assert not await self.look()
        self.fails = False  # its process is gone


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


async def test_one_error_is_no_reason(world: World) -> None:
    world.fails = True
    assert await world.look()
    world.fails = False
    assert await world.look()
    world.fails = True
    assert await world.look()


async def test_two_looks_in_a_row_switch_it_off_and_it_comes_back(world: World) -> None:
    await world.until_off()
    world.instance.warnings.clear()  # as when PostgreSQL ends
    assert not await world.look(FIRST_REST - 60 * SECOND)
    assert "is off for a while" in world.instance.warnings["summaries"]
    assert await world.look(60 * SECOND)
    assert world.instance.warnings == {}


async def test_each_rest_is_longer_until_it_stays_well(world: World) -> None:
    rest = FIRST_REST
    for _ in range(8):
        await world.until_off()
        assert not await world.look(rest - 1)
        assert await world.look(1)
        rest = min(2 * rest, LONGEST_REST)
    await world.look(CALM)
    await world.until_off()
    assert await world.look(FIRST_REST)


@pytest.mark.parametrize("change", [{"server_role": "stopped"}, {"busy": "cloning"}])
async def test_where_no_server_is_to_be_asked_nobody_asks(world: World, change: dict[str, str]) -> None:
    vars(world.instance).update(change)
    await world.look()
    assert world.asked == 0


class Stop:
    """A planned stop of a primary whose summarizer failed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, door: str = "open") -> None:
        self.failed: bool | Exception = True
        self.gone: Exception | None = None
        self.doors: list[str] = []
        self.stopping = ExitStack()
        self.instance: Any = SimpleNamespace(
            server=SimpleNamespace(summarizer_failed=self._failed, summarizer_gone=self._gone), summarizes=True,
            door=door,
        )  # fmt: skip
        monkeypatch.setattr(summarizer, "apply_config", self._apply)

    async def _failed(self) -> bool:
        if isinstance(self.failed, Exception):
            raise self.failed
        return self.failed

    async def _gone(self) -> None:
        self.doors.append("gone")
        if self.gone is not None:
            raise self.gone

    async def _apply(self, instance: Any, names: str, *, door: str) -> None:
        assert not instance.summarizes
        self.doors.append(door)

    async def quiet(self) -> None:
        await summarizer.quiet(self.instance, "", self.stopping)


async def test_it_is_off_until_the_stop_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop(monkeypatch)
    await stop.quiet()
    assert (stop.doors, stop.instance.summarizes) == (["open", "gone"], False)
    stop.stopping.close()
    assert stop.instance.summarizes


async def test_a_door_that_is_closed_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop(monkeypatch, door="closed")
    await stop.quiet()
    assert stop.doors == ["waits", "gone"]


async def test_one_that_rests_already_is_only_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop(monkeypatch)
    stop.instance.summarizes = False
    await stop.quiet()
    stop.stopping.close()
    assert (stop.doors, stop.instance.summarizes) == (["gone"], False)


@pytest.mark.parametrize("error", [Unavailable("no answer"), OSError(5, "Input/output error")])
async def test_what_fails_does_not_keep_the_stop_from_coming(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    stop = Stop(monkeypatch)
    stop.failed = error
    await stop.quiet()
    assert stop.instance.summarizes
    stop.failed, stop.gone = True, error
    await stop.quiet()
    stop.stopping.close()
    assert stop.instance.summarizes


async def test_during_a_planned_stop_nobody_else_switches_it(world: World) -> None:
    world.fails = True
    await world.look()
    world.instance.summarizes = False
    await world.look()
    assert world.asked == 1
    assert world.instance.warnings == {}
