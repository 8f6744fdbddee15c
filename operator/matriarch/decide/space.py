"""What a volume that runs full means for its instance: how much is kept in reserve, and when writes stop.

PostgreSQL ends when a record of its log finds no room, and cannot start again without some. So a ballast lies beside
the data, which goes when nothing else is left; before that, the primary hands over to a replica that has room, or
stops taking writes, because what is stopped in order can be grown in place. Pure; all sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from matriarch.postgres.lsn import SEGMENT_SIZE

MB, GB = 1 << 20, 1 << 30

State = Literal["ok", "low", "full"]


@dataclass(frozen=True, slots=True)
class Space:
    """The volume as last seen. `total_bytes` 0: not yet. `free_bytes` does not count the ballast."""

    total_bytes: int = 0
    free_bytes: int = 0
    ballast_bytes: int = 0
    state: State = "ok"
    writes_stopped: bool = False


def ballast(total: int) -> int:
    """A twentieth of the volume, at least two segments of WAL: what a start and its checkpoint need."""
    return min(max(total // 20, 2 * SEGMENT_SIZE), 512 * MB)


def full_below(total: int) -> int:
    """With less than this free, writes stop: a checkpoint and the WAL under way still fit."""
    return min(max(total // 50, 2 * SEGMENT_SIZE), 2 * GB)


def enough_above(total: int) -> int:
    """From here on writes go on. Twice the other limit, so that they do not go on and off."""
    return 2 * full_below(total)


def seen(before: Space, total: int, free: int, ballast_bytes: int) -> Space:
    """The volume after a look at it."""
    state: State = "ok"
    if free < full_below(total):
        state = "full"
    elif free < enough_above(total):
        state = "low"
    stopped = state == "full" or (before.writes_stopped and state != "ok")
    return Space(total, free, ballast_bytes, state, stopped)


def sheds(former: int, total: int) -> bool:
    """Whether WAL of timelines that were left takes too much room: `former` segments of it.

    Each change of the primary leaves the segment it happened in, and PostgreSQL removes them by their number alone, of
    whatever timeline: while little is written, failovers in a row leave a segment each for as long as that one lasts.
    """
    return former * SEGMENT_SIZE > max(total // 16, 3 * SEGMENT_SIZE)


def next_look(space: Space) -> float:
    """Seconds until the volume is looked at again: a bulk load writes in one second all that is left."""
    return 1.0 if space.free_bytes >= 2 * enough_above(space.total_bytes) else 0.2


def releases(space: Space, *, ended: bool, leads: bool) -> bool:
    """Whether the ballast has to go: PostgreSQL ended unasked and must start, or a primary would end at once.

    A standby that runs keeps it: what it takes no more room for is WAL, and that comes later.
    """
    if not space.ballast_bytes or not space.total_bytes:
        return False
    return space.state == "full" and (ended or (leads and space.free_bytes < SEGMENT_SIZE))


def takes_wal(took: bool, space: Space) -> bool:
    """Whether a standby goes on receiving: without room for a segment it would end, and could not even vote.

    Later than writes stop on a primary, so that a cluster that fills evenly stops in order.
    """
    if not space.total_bytes:
        return True
    return space.free_bytes >= (SEGMENT_SIZE if took else full_below(space.total_bytes))


def remakes(space: Space) -> bool:
    """Whether a ballast that is gone or too small is made again: what stays free is more than enough."""
    wanted = ballast(space.total_bytes)
    if not space.total_bytes or space.ballast_bytes >= wanted:
        return False
    return space.free_bytes - (wanted - space.ballast_bytes) >= enough_above(space.total_bytes)


def successor(streaming: Mapping[str, Space | None]) -> str | None:
    """The voter that should lead instead of one whose volume is full: with the most room, if that is enough.

    Twice what lets writes go on, so that a cluster that fills evenly does not hand itself round.
    """
    fit = {i: s for i, s in streaming.items() if s is not None and s.free_bytes >= 2 * enough_above(s.total_bytes) > 0}
    return max(sorted(fit), key=lambda i: fit[i].free_bytes / fit[i].total_bytes) if fit else None


def advice(space: Space, *, leads: bool) -> str:
    """What, why, and what to do, for people; empty while there is room."""
    if space.state == "ok" and not space.writes_stopped:
        return ""
    used = f"{(space.total_bytes - space.free_bytes) // MB} of {space.total_bytes // MB} MiB of its volume are in use"
    if space.writes_stopped and leads:
        return (
            f"{used}, so writes are stopped. Raise spec.storage.size; or make room: a session that begins with "
            "SET default_transaction_read_only = off may still DROP or TRUNCATE."
        )
    if space.state == "full":
        return f"{used}, too little to go on. Raise spec.storage.size."
    return f"{used}; it will be full soon. Raise spec.storage.size."
