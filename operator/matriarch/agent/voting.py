"""A voter's side of an election: the pre-vote, and the promise.

A promise is kept before it is spoken: on the disk, in the heartbeat, and in PostgreSQL, whose WAL receiver is gone
for certain. Sources: `docs/protocol.md`, steps 3 and 4; S4, L2, L10.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from matriarch.agent import mutant
from matriarch.agent.clock import boottime
from matriarch.agent.instance import Instance
from matriarch.decide.election import T_FENCE, Answer, Sight, would_promise
from matriarch.errors import MatriarchError, Refused, Unavailable

log = logging.getLogger(__name__)


async def prevote(instance: Instance, epoch: int) -> dict[str, Any]:
    """Would this member promise `epoch`, where does its WAL end, and what does it see? Changes nothing."""
    voter = instance.voter()
    if voter is None:
        answer = Answer(yes=False, why="this instance knows no Lease")
        return _told(answer) | {"promised": instance.promised}
    answer = would_promise(voter, epoch)
    left = instance.courtesy_until - boottime()
    if answer.yes and epoch > instance.promised and left > 0:
        answer = Answer(yes=False, why=f"epoch {instance.promised} was promised a moment ago", wait=left)
    told = _told(answer) | {
        "member": [voter.me.instance, voter.me.incarnation],
        "promised": instance.promised,
        "epoch": voter.lease.epoch,
        "evidence": voter.sight.evidence(voter.lease),
        "sign_age": _sign_age(voter.sight),
    }
    status = await instance.look(timeout=0.3) if instance.server_role == "standby" else None
    if status is not None:
        told |= {"timeline": status.position.timeline, "lsn": status.position.lsn}
    return told


COURTESY = 800_000_000
"""A candidate that was promised an epoch gets this long (ns) to use it before its voters stand themselves: two
elections at once end with a voter that promised more than the winner claimed, and costs a reclaim."""


async def promise(instance: Instance, epoch: int, *, to_another: bool) -> dict[str, Any]:
    """Promise `epoch`: from the return on, this member neither streams from nor acknowledges to a lower one (I3).

    Raises:
        Refused: this member may not promise; nothing changed, or only the promise on the disk.
        Unavailable: it may, but PostgreSQL or the disk did not follow in time; the promise stands and is asked again.
    """
    async with instance.control:
        voter = instance.voter()
        if voter is None:
            raise Refused("this instance knows no Lease", reason="NoLease")
        answer = would_promise(voter, epoch)
        if not answer.yes:
            raise Refused(answer.why, reason="NotNow" if answer.wait is not None else "No")
        if to_another and epoch > instance.promised:
            instance.courtesy_until = boottime() + COURTESY
        await keep_promise(instance, epoch)
        sight = instance.sight()  # after the promise is in force: every grant that was made is in it
        instance.following = None
        if not mutant.is_on("no-cut"):
            await instance.server.cut_stream()
        with contextlib.suppress(Unavailable):  # replay may be slower for it; the promise does not depend on it
            await instance.server.end_client_sessions()
        position = await instance.position()
        log.info("promised epoch %d at timeline %d, LSN %X", epoch, position.timeline, position.lsn)
        return {
            "member": [voter.me.instance, voter.me.incarnation],
            "promised": epoch,
            "timeline": position.timeline,
            "lsn": position.lsn,
            "sign_age": _sign_age(sight),
        }


async def keep_promise(instance: Instance, epoch: int) -> None:
    """On the disk, then in the heartbeat. Raises Unavailable when either takes too long, or MatriarchError."""
    if epoch > instance.promised:
        try:
            async with asyncio.timeout(2.0):
                await asyncio.to_thread(instance.files.write_promise, epoch)
        except TimeoutError:
            raise Unavailable("the volume did not take the promise within 2 s") from None
        except OSError as e:
            raise MatriarchError(f"the volume did not take the promise: {e}") from e
        instance.promised = epoch
    sequence = await instance.sync_beats()
    if not await instance.heartbeat.in_force(sequence, 0.5):
        raise Unavailable("the heartbeat did not take the promise within 0.5 s")


def _sign_age(sight: Sight) -> int:
    """How long ago (ns) this member last heard the holder. A duration, because instants mean nothing elsewhere."""
    if sight.granted_until is None:
        return -1  # never at this epoch
    return boottime() - (sight.granted_until - T_FENCE)


def _told(answer: Answer) -> dict[str, Any]:
    return {"yes": answer.yes, "why": answer.why, "wait": answer.wait}
