"""Keys that wait: once each, again after a run in which they came, later after a failure, and how long that lasts."""

from __future__ import annotations

import asyncio

import pytest

from matriarch.controller import queue as queues
from matriarch.controller.queue import FIRST_RETRY, Key, WorkQueue

ORDERS, USERS = Key("DatabaseCluster", "prod", "orders"), Key("DatabaseCluster", "prod", "users")


async def test_no_time_to_wait_is_at_once() -> None:
    queue = WorkQueue()
    queue.add_after(ORDERS, 0)
    assert queue.waiting == 1
    assert await queue.get() == ORDERS


async def test_what_came_during_a_run_is_run_again_after_it() -> None:
    queue = WorkQueue()
    queue.add(ORDERS)
    await queue.get()
    queue.add_after(ORDERS, 0)
    assert queue.waiting == 0
    queue.done(ORDERS)
    assert await queue.get() == ORDERS


async def test_news_that_may_wait_come_during_a_run_and_are_not_lost() -> None:
    queue = WorkQueue()
    queue.add(ORDERS)
    queue.discard_later(await queue.get())
    queue.add_after(ORDERS, 0.05)
    queue.done(ORDERS)
    assert await asyncio.wait_for(queue.get(), 10) == ORDERS


async def test_many_that_may_wait_are_one_run() -> None:
    queue = WorkQueue()
    for _ in range(5):
        queue.add_after(ORDERS, 0.05)
    assert await asyncio.wait_for(queue.get(), 10) == ORDERS
    queue.done(ORDERS)
    await asyncio.sleep(0.1)
    assert queue.waiting == 0


async def test_how_long_a_key_fails_counts_from_its_first_failure_and_ends_with_a_good_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(queues.time, "monotonic", lambda: now)
    queue = WorkQueue()
    assert 0 < queue.retry(ORDERS) <= FIRST_RETRY
    now += 50
    assert queue.retry(ORDERS) > FIRST_RETRY
    queue.retry(USERS)
    now += 10
    assert queue.failing() == {ORDERS: 60, USERS: 10}
    queue.forget(ORDERS)
    assert queue.failing() == {USERS: 10}
    queue.retry(ORDERS)
    assert queue.failing() == {ORDERS: 0, USERS: 10}
