"""The replica doctor at work: takes a standby's signs, asks `decide/doctor.py`, carries out the light remedies.

Attaching and copying anew are the follower's; everything is said: in the log, in the status, as an Event.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from matriarch.agent import upstream
from matriarch.agent.clock import SECOND, boottime
from matriarch.agent.events import Notices
from matriarch.agent.instance import Instance
from matriarch.agent.postgres.facts import ServerStatus
from matriarch.decide import doctor as rules
from matriarch.decide.doctor import Case, Diagnosis, Remedy, Signs, Source
from matriarch.errors import Corrupt, MatriarchError, Unavailable

log = logging.getLogger(__name__)

LOOK_EVERY = SECOND
ASK_EVERY, ASK_SICK_EVERY = 15 * SECOND, 3 * SECOND
REWINDS = 2
"""A rewind that failed so often without touching a file is not tried again: a new copy follows."""
GIVE_UP_AFTER = 60 * SECOND
"""A copy that was decided on and cannot begin for so long is given up, so that this member may vote again."""


class Doctor:
    """`again`: attach once more. `stop`: PostgreSQL, for the loop to start. `clone`: a new copy, or Unavailable."""

    def __init__(
        self,
        instance: Instance,
        *,
        again: Callable[[], Awaitable[None]],
        stop: Callable[[], Awaitable[None]],
        clone: Callable[[], Awaitable[None]],
    ) -> None:
        self._instance = instance
        self._again, self._stop, self._clone = again, stop, clone
        self._notices = Notices(instance)
        self._signs = Signs(boottime(), "stopped")
        self._looked_at = 0
        self._asked_at = 0
        self._asking: asyncio.Task[None] | None = None
        self._source: Source | None = None
        self._well_since = 0
        self._title = ""
        self._lsns = (0, 0)  # received, replayed, as last seen
        self._goal = 0  # the holder's flush at the last answer: what should arrive here
        self._decided: tuple[Diagnosis, int] | None = None  # a new copy, since when
        self._case: Case | None = None
        self._said = ""
        self.rewinds_failed = 0
        self.waits = False  # see Signs

    async def examine(self, status: ServerStatus | None) -> float | None:
        """One look; None when there is nothing to do, else seconds until the next look, after a remedy or a wait.

        Raises MatriarchError when a remedy could not be carried out.
        """
        instance, now = self._instance, boottime()
        if instance.is_holder or instance.terminating or instance.stopping:
            self._decided = None
            return None
        if now - self._looked_at < LOOK_EVERY and self._decided is None:
            return self._pause_between_starts(now)
        self._looked_at = now
        await self._look(status, now)
        self._ask()
        if self._decided is not None:
            return await self._copy(now)
        found = rules.diagnose(self._signs)
        case = await self._known_case()
        if found is None:
            instance.illness = None
            await self._see_well(case, now)
            return self._pause_between_starts(now)
        self._well_since = 0
        return await self._treat(found, case, now)

    def _pause_between_starts(self, now: int) -> float | None:
        """A standby that ended again and again is not started again at once: nudges must make no spin of it."""
        if self._instance.server_role != "stopped":
            return None
        left = rules.start_pause([end for end, led in self._instance.ends if not led], now) / SECOND
        return left if left > 0 else None

    async def _see_well(self, case: Case, now: int) -> None:
        if self._signs.server != "standby" or self._signs.no_stream_since:
            self._well_since = 0
            return
        self._well_since = self._well_since or now
        await self._note(rules.well(case, time.time()))
        if now - self._well_since >= rules.NO_LOOP:
            self._instance.ends = [e for e in self._instance.ends if e[1]]

    def unreadable(self, why: Corrupt) -> bool:
        """Whether a data directory that cannot be read is given up: not at the first look, and never the holder's."""
        now = boottime()
        since = self._signs.unreadable_since or now
        self._signs = replace(self._signs, now=now, unreadable_since=since)
        if self._instance.is_holder or now - since < rules.UNREADABLE_FOR:
            return False
        self._tell_state(Diagnosis("DataUnreadable", str(why)), "clone", "")
        return True

    # --- signs ------------------------------------------------------------------------------------------------

    async def _look(self, status: ServerStatus | None, now: int) -> None:
        instance, before = self._instance, self._signs
        lease = instance.lease
        server = instance.server_role
        s = replace(
            before,
            now=now,
            server="standby" if status is not None else "starting" if server != "stopped" else "stopped",
            ends=tuple(end for end, led in instance.ends if not led),
            unreadable_since=0,
            waits=self.waits,
            rewind_failed=self.rewinds_failed >= REWINDS,
            source=self._source,
            voter=lease is not None and instance.me in lease.voters,
            k=lease.k if lease is not None else 0,
            space=instance.space,
        )
        if status is None:
            title = instance.server.startup_title()
            still = before.start_still_since if title == self._title and s.server == "starting" else now
            self._title = title
            self._signs = replace(
                s,
                start_still_since=still if s.server == "starting" else 0,
                no_stream_since=0,
                receiver_still_since=0,
                paused_since=0,
                replay_still_since=0,
            )
            return
        received, replayed = status.position.lsn, status.replayed_lsn
        streaming = status.receiver is not None and status.receiver.status == "streaming"
        # One that stays behind on purpose begins to receive only when it has replayed what is here.
        behind = instance.delay > 0
        excused = streaming or (behind and status.received_lsn is None)
        came, went = (
            received > self._lsns[0] or received >= self._goal,
            replayed > self._lsns[1] or replayed >= received,
        )
        self._lsns = (received, replayed)
        paused, patience = before.paused_since, before.reader_patience
        with contextlib.suppress(Unavailable):
            replay = await instance.server.replay()
            paused = (paused or now) if replay.paused else 0
            patience = None if replay.patience_ms is None else replay.patience_ms * 1_000_000
        self._signs = replace(
            s,
            start_still_since=0,
            no_stream_since=0 if excused else before.no_stream_since or now,
            receiver_still_since=0 if came or not streaming else before.receiver_still_since or now,
            paused_since=paused,
            replay_still_since=0 if went or behind else before.replay_still_since or now,
            reader_patience=patience,
            received_lsn=received,
        )

    def _ask(self) -> None:
        """The holder, beside the loop: it may be gone, and the loop must not wait for it."""
        s, now = self._signs, boottime()
        sick = s.no_stream_since or self._decided is not None or s.server != "standby"
        if now - self._asked_at < (ASK_SICK_EVERY if sick else ASK_EVERY) or (self._asking and not self._asking.done()):
            return
        self._asked_at = now
        self._asking = asyncio.create_task(self._ask_holder())

    async def _ask_holder(self) -> None:
        lease = self._instance.lease
        found: Source | None = None
        if lease is not None and lease.holder is not None and lease.holder != self._instance.me:
            found = await upstream.ask(self._instance, lease.holder)
        self._source = found
        self._goal = found.flushed_lsn if found is not None else 0

    # --- remedies ---------------------------------------------------------------------------------------------

    async def _treat(self, found: Diagnosis, case: Case, now: int) -> float | None:
        instance = self._instance
        treatment = rules.treat(found, case, self._signs, time.time())
        self._tell_state(found, treatment.remedy, treatment.why)
        if treatment.remedy == "wait":
            # What does not run stays down only while a full volume or a loop of crashes makes a start useless.
            return 2.0 if instance.server_role == "stopped" and found.ailment == "CrashLoop" else None
        message = f"{instance.env.instance}: {found.why}; remedy: {treatment.remedy}."
        log.warning("%s", message)
        await self._notices.warn("ReplicaRepair", message)
        if treatment.remedy == "clone":
            self._decided = (found, now)
            return await self._copy(now)
        await self._note(rules.noted(case, found, treatment.remedy, time.time()))
        await self._light(treatment.remedy)
        return 0.5

    async def _light(self, remedy: Remedy) -> None:
        instance, server = self._instance, self._instance.server
        match remedy:
            case "attach":
                await self._again()
            case "restart-receiver":
                await server.restart_receiver()
            case "new-slot":  # the holder makes it anew at its next look; this asks for that look
                await self._join()
            case "resume-replay":
                await server.resume_replay()
            case "end-readers":
                await server.end_client_sessions()
            case "free-space":
                if instance.server_role == "standby" and instance.status is not None:
                    await server.free_kept_wal()
            case "restart":
                await self._stop()
            case "wait" | "clone":
                raise AssertionError(remedy)

    async def _copy(self, now: int) -> float:
        """Tries to begin the copy that was decided on; given up when that cannot be for long."""
        assert self._decided is not None
        found, since = self._decided
        if now - since > GIVE_UP_AFTER:
            self._decided = None
            self._tell_state(found, "wait", "the new copy could not begin")
            await self._note(rules.noted(await self._known_case(), found, "clone", time.time()))
            return 0.5
        if self._instance.server_role != "stopped":
            if self._signs.needed:
                self._decided = None
                return 0.5
            await self._stop()  # the holder takes a voter that does not stream out of the voters (S1)
        try:
            await self._clone()
        except Unavailable as e:
            self._tell_state(found, "clone", str(e))
            self._instance.reason = str(e)
            return 1.0
        self._decided = None
        await self._note(rules.noted(await self._known_case(), found, "clone", time.time()))
        return 0.0

    # --- copies anew ------------------------------------------------------------------------------------------

    async def may_clone(self) -> None:
        """Before a copy in place of data that is here. Raises Unavailable while it may not begin."""
        left = rules.clone_pause(await self._known_case(), time.time())
        if left > 0:
            raise Unavailable(f"a new copy is due in {left:.0f} s: {rules.CLONES_A_DAY} a day, with pauses")
        await self._join(again=True)
        await self._note(rules.clone_begun(await self._known_case(), time.time()))
        name = self._instance.env.instance
        await self._notices.warn("ReplicaCopied", f"{name} is copied anew from the primary; its own data goes.")

    async def cloned(self) -> None:
        """A copy in place of data that was here is whole."""
        self.rewinds_failed = 0
        self._instance.ends = []
        self._signs = Signs(boottime(), "stopped", space=self._instance.space)
        with contextlib.suppress(MatriarchError):
            await self._join(done=True)  # another may begin now and not only when the permit ends
        await self._note(rules.clone_finished(await self._known_case(), time.time()))
        await self._notices.tell("ReplicaCopied", f"{self._instance.env.instance} is a new copy of the primary.")

    async def keep_permit(self) -> None:
        """During a copy: it is still under way. Until cancelled."""
        while True:
            await asyncio.sleep(upstream.PERMIT / SECOND / 4)
            with contextlib.suppress(MatriarchError):
                await self._join(again=True)

    @property
    def source(self) -> Source | None:
        return self._source

    async def _join(self, *, again: bool = False, done: bool = False) -> None:
        instance = self._instance
        lease, me = instance.lease, instance.me
        if lease is None or lease.holder is None or me is None:
            raise Unavailable("no primary is known")
        try:
            body = {"member": [me.instance, me.incarnation], "again": again, "done": done}
            await instance.peers.post(lease.holder.instance, "/v1/join", body, timeout=5.0)
        except MatriarchError as e:
            raise Unavailable(str(e)) from e

    # --- what is remembered and said --------------------------------------------------------------------------

    async def _known_case(self) -> Case:
        if self._case is None:
            self._case = _parse(await asyncio.to_thread(self._instance.files.doctor))
        return self._case

    async def _note(self, case: Case) -> None:
        if case == self._case:
            return
        self._case = case
        try:
            await asyncio.to_thread(self._instance.files.write_doctor, asdict(case))
        except OSError as e:
            log.warning("what was tried is not written down: %s", e)

    def _tell_state(self, found: Diagnosis, remedy: Remedy, why: str) -> None:
        instance = self._instance
        before = instance.illness or {}
        since = before.get("since") if before.get("ailment") == found.ailment else None
        instance.illness = {
            "ailment": found.ailment,
            "why": found.why,
            "remedy": remedy,
            "note": why,
            "since": since or f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        }
        instance.reason = f"{found.why}; {why or remedy}"
        if (said := f"{found.ailment} {remedy} {found.why}") != self._said and remedy == "wait":
            log.warning("%s: %s (%s)", found.ailment, found.why, why)
        self._said = said


def _parse(doc: dict[str, Any] | None) -> Case:
    """What was written; anything else is a standby that nothing was tried on."""
    try:
        doc = dict(doc or {})
        return Case(**{**doc, "tried": tuple(doc.get("tried") or ()), "clones": tuple(doc.get("clones") or ())})
    except (TypeError, ValueError):
        return Case()
