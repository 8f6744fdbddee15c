"""The kept session, when it is closed while a question is under way."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from matriarch.agent.postgres.session import Sessions
from matriarch.errors import Unavailable


class _Connection:
    """A session whose query waits until the session is closed, as a server that is taken away leaves it."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.closed = asyncio.Event()

    def is_closed(self) -> bool:
        return self.closed.is_set()

    async def fetch(self, query: str, *args: Any) -> list[Any]:
        self.asked.set()
        await self.closed.wait()
        raise asyncpg.InternalClientError("got result for unknown protocol state")

    async def close(self) -> None:
        self.closed.set()

    def terminate(self) -> None:
        self.closed.set()


async def test_a_session_closed_under_a_question_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = _Connection()

    async def connect(**settings: Any) -> _Connection:
        return connection

    monkeypatch.setattr(asyncpg, "connect", connect)
    sessions = Sessions(Path("/nowhere"))
    question = asyncio.create_task(sessions.fetch("status", "SELECT 1", timeout=10))
    await connection.asked.wait()
    await sessions.close()
    with pytest.raises(Unavailable, match="unknown protocol state"):
        await question
