"""Whether a standby lets clients in.

Reads of the primary must not see what is undone later, nor miss what was acknowledged, and two ways lead past that:

- A server that led holds, after its last start, also what it never acknowledged. Started as a standby it replays all of
  it, and shows it, until it follows its successor or is rewound.
- kube-proxy goes on leading clients of the write Service to where the primary was: for a second when all is well, and
  until its watch is back when the API server or its node was away. They would read at a replica and not know.

So nobody gets in before the server follows the primary, nor while the write Service may still lead here. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from matriarch.decide.kubeproxy import ROUND
from matriarch.postgres.preload import Door

SECOND = 1_000_000_000

AFTER_MOVE = 3 * ROUND

AFTER_SILENCE = 60 * SECOND
"""How long kube-proxy's watch may be dead or resting after the API server was away: client-go finds a dead connection
after 45 s (30 s of silence, 15 s for a ping), and rests for up to 60 s between two attempts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Boot-time instants in nanoseconds; 0: never."""

    now: int
    follows: bool
    """Since its start the server has streamed from a primary, or was made from it: no WAL here left its line."""
    clients_expected_until: int = 0
    """An heir: clients come ahead of the switchover and are kept."""
    led_here: int = 0
    """When the write Service last led here; `now` while it does."""
    api_away: int = 0
    """When the API server last did not answer."""


def door(f: Facts) -> Door:
    """What becomes of clients that come now."""
    if f.now < f.clients_expected_until:
        return "waits"
    if not f.follows:
        return "refuses"
    unsure = f.api_away and f.api_away > f.led_here - AFTER_SILENCE
    if f.led_here and f.now < f.led_here + (AFTER_SILENCE if unsure else AFTER_MOVE):
        return "refuses"
    return "open"
