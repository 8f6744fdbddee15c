"""How far the summarizer is behind is told to the controller, and costs no session for each time nobody answers."""

from __future__ import annotations

import asyncio

import pytest

from matriarch.agent.summaries import PAUSE, Summaries
from matriarch.errors import Unavailable


class Server:
    """Answers, or does not, and counts what it was asked."""

    def __init__(self) -> None:
        self.now, self.asked = 100.0, 0
        self.answer: int | None = 7
        self.away = False
        self.told = Summaries(self.ask, lambda: self.now)

    async def ask(self) -> int | None:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("no answer within 0.5 s")
        return self.answer

    async def behind(self, *, after: float = 0.0) -> int | None:
        self.now += after
        return await self.told.behind()


@pytest.fixture
def server() -> Server:
    return Server()


async def test_each_look_is_a_fresh_one(server: Server) -> None:
    assert await server.behind() == 7
    server.answer = None  # switched off
    assert await server.behind() is None
    server.answer = 9
    assert await server.behind() == 9
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
    assert await server.behind() == 8, "they are not counted over a good one"


async def test_what_is_not_known_for_long_is_not_told(server: Server) -> None:
    assert await server.behind() == 7
    server.away = True
    assert [await server.behind(), await server.behind(after=PAUSE)] == [7, None]
    assert await server.behind() is None
    assert server.asked == 3


async def test_callers_at_the_same_time_ask_once(server: Server) -> None:
    assert await asyncio.gather(server.behind(), server.behind()) == [7, None]
    assert server.asked == 1
