"""The turns that all periodic looks of an agent share: ten a second, at the same instants.

Each task with a timer of its own would wake the process by itself, and waking is most of what an idle agent costs.
"""

from __future__ import annotations

import asyncio

TURN = 0.1  # s


def until_turn(now: float, turns: int = 1) -> float:
    """Seconds from `now` to an instant that every caller shares: the next whole multiple of `turns` turns.

    One that is nearer than a tenth of a turn is passed over: timers may fire a moment early, and would fire twice.
    """
    every = turns * TURN
    left = every - now % every
    return left if left >= TURN / 10 else left + every


async def next_turn(turns: int = 1) -> None:
    """Sleep until the next shared instant, about `turns` turns away at most."""
    await asyncio.sleep(until_turn(asyncio.get_running_loop().time(), turns))
