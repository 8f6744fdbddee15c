"""How far the summarizer is behind is told to the controller, which never waits for it, and asked with restraint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from matriarch.agent.summaries import EVERY, PAUSE, Summaries
from matriarch.errors import Unavailable


class Server:
    """Answers, or does not, or hangs; counts what it was asked."""

    def __init__(self) -> None:
        self.now, self.asked = 100.0, 0
        self.answer: int | None = 7
        self.away = False
        self.free = asyncio.Event()
        self.free.set()
        self.told = Summaries(self.ask, lambda: self.now)

    async def ask(self) -> int | None:
        self.asked += 1
        await self.free.wait()
        if self.away:
            raise Unavailable("no answer within 5 s")
        return self.answer

    async def behind(self, *, after: float = EVERY) -> int | None:
        """What a status says once the question that it may have begun is answered."""
        self.now += after
        self.told.behind()
        for _ in range(5):
            await asyncio.sleep(0)
        return self.told.behind()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    yield server
    await server.told.close()


async def test_it_is_asked_anew_at_its_time_and_not_for_each_status(server: Server) -> None:
    assert server.told.behind() is None, "nothing is known yet, and nobody waits"
    assert await server.behind(after=0) == 7
    server.answer = 9
    assert await server.behind(after=EVERY - 1) == 7
    assert await server.behind(after=1) == 9
    server.answer = None  # switched off
    assert await server.behind() is None
    assert server.asked == 3


async def test_one_question_without_an_answer_changes_nothing_and_is_not_put_again_for_a_while(server: Server) -> None:
    assert await server.behind() == 7
    server.away = True
    assert await server.behind() == 7
    assert await server.behind(after=PAUSE - 1) == 7
    assert server.asked == 2
    server.away, server.answer = False, 8
    assert await server.behind(after=1) == 8
    server.away = True
    assert await server.behind() == 8, "one without an answer after a good one is the first again"


async def test_what_is_not_known_for_long_is_not_told(server: Server) -> None:
    assert await server.behind() == 7
    server.away = True
    assert [await server.behind(), await server.behind(after=PAUSE)] == [7, None]
    assert await server.behind(after=PAUSE - 1) is None
    assert server.asked == 3


async def test_there_is_one_question_at_a_time(server: Server) -> None:
    assert await server.behind() == 7
    server.free.clear()
    for _ in range(10):
        assert await server.behind() == 7
    assert server.asked == 2
    await server.told.close()
