"""What ails a standby, and what is done about it: the lightest remedy once, then the next, at last a new copy.

Signs are facts of the agent, each with the time since when it is so. A remedy that did not help within its time is
not tried again for the same ailment; a standby that was well for `CLOSED_AFTER` begins anew. New copies are few: they
load the primary, and one that did not help will hardly help the next time. Instants are boot-time nanoseconds in
`Signs`, and seconds of the wall clock in `Case`, which outlives restarts. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from matriarch.decide.space import Space

SECOND = 1_000_000_000

Ailment = Literal[
    "VolumeFull",
    "DataUnreadable",
    "CrashLoop",
    "NeverConsistent",
    "RewindFailed",
    "WalMissing",
    "SlotLost",
    "NoStream",
    "ReceiverStuck",
    "ReplayPaused",
    "ReplayStuck",
]

Remedy = Literal[
    "wait", "attach", "restart-receiver", "new-slot", "resume-replay", "end-readers", "free-space", "restart", "clone"
]

LADDERS: dict[Ailment, tuple[Remedy, ...]] = {
    "VolumeFull": ("free-space",),  # a copy would not fit either; only room helps
    "DataUnreadable": ("clone",),
    "CrashLoop": ("clone",),  # it was restarted CRASHES times already
    "NeverConsistent": ("attach", "restart", "clone"),
    "RewindFailed": ("clone",),
    "WalMissing": ("clone",),
    "SlotLost": ("new-slot", "clone"),
    "NoStream": ("attach", "restart-receiver", "restart", "clone"),
    "ReceiverStuck": ("restart-receiver", "restart", "clone"),
    "ReplayPaused": ("resume-replay", "restart"),
    "ReplayStuck": ("end-readers", "restart", "clone"),
}

TIMES: dict[Remedy, float] = {
    "wait": 0.0,
    "attach": 15.0,
    "restart-receiver": 15.0,
    "new-slot": 20.0,
    "resume-replay": 10.0,
    "end-readers": 20.0,
    "free-space": 30.0,
    "restart": 60.0,
    "clone": 60.0,
}
"""Seconds that each remedy gets to take effect."""

CRASHES = 4
CRASHES_WITHIN = 300 * SECOND
UNREADABLE_FOR = 30 * SECOND
CRASHES_OVER = 10 * SECOND
"""Crashes within less may have one cause that is over soon."""
NO_LOOP = 30 * SECOND
"""Who streams for so long is in no loop of crashes: starts are tried again after ten seconds at most."""
START_STILL_FOR = 600 * SECOND
"""Before the first record is replayed, the whole volume may have to be synced."""
WAL_MISSING_FOR = 12 * SECOND
"""Longer than it takes to compare the timelines."""
NO_STREAM_FOR = 25 * SECOND
"""Longer than it takes to attach, to ask again after 10 s, and to attach once more."""
RECEIVER_STILL_FOR = 20 * SECOND
REPLAY_STILL_FOR = 300 * SECOND
"""One record can take minutes: a database that is copied, a large table that is dropped."""
PAUSED_FOR = 60 * SECOND

CLOSED_AFTER = 600.0
"""Seconds after which a standby that is well counts as cured: the next ailment is a new one."""
CLONES_A_DAY = 3
CLONE_PAUSES = (0.0, 300.0, 1800.0)
"""Seconds since the last new copy, before the first, second and third of a day."""
FAILED_PAUSE, LONGEST_PAUSE = 10.0, 600.0
DAY = 86400.0


_UNSEEN = Space()


@dataclass(frozen=True, slots=True)
class Source:
    """The holder as it answers: whether it keeps what this standby needs next, and who else streams from it.

    `oldest_lsn`: the first byte of WAL that it still has. `others`: voters beside this one that stream now.
    """

    slot: Literal["there", "missing", "lost"]
    oldest_lsn: int
    flushed_lsn: int
    others: int = 0
    used_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Signs:
    """One look at a standby. Instants are 0 where the thing is not so; `source` is None while the holder is silent.

    `reader_patience` is max_standby_streaming_delay in ns, None for "for ever". `k` counts only while `voter`.
    """

    now: int
    server: Literal["stopped", "starting", "standby"]
    ends: tuple[int, ...] = ()
    unreadable_since: int = 0
    start_still_since: int = 0
    no_stream_since: int = 0
    receiver_still_since: int = 0  # nothing arrives although the holder has more
    paused_since: int = 0
    replay_still_since: int = 0  # nothing is replayed although there is more
    reader_patience: int | None = 30 * SECOND
    received_lsn: int = 0
    rewind_failed: bool = False
    waits: bool = False  # its WAL has left the holder's line, and it must stay as it is for now (S3)
    voter: bool = False
    k: int = 0
    source: Source | None = None
    space: Space = _UNSEEN

    @property
    def needed(self) -> bool:
        """Commits wait for this very standby: nothing that takes it away for long."""
        streams = self.server == "standby" and not self.no_stream_since
        return self.voter and streams and (self.source is None or self.source.others < self.k)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """`why` is one sentence for people."""

    ailment: Ailment
    why: str


@dataclass(frozen=True, slots=True)
class Case:
    """What was tried. `clones`: when new copies were finished; `failed`: how many in a row were not."""

    ailment: Ailment | None = None
    tried: tuple[Remedy, ...] = ()
    tried_at: float = 0.0
    well_since: float = 0.0
    clones: tuple[float, ...] = ()
    failed: int = 0
    clone_begun: float = 0.0


def diagnose(s: Signs) -> Diagnosis | None:
    """The ailment that explains the others first; None when there is none, or only the holder's absence."""
    ends = [end for end in s.ends if s.now - end <= CRASHES_WITHIN]
    recent = len(ends)
    if s.space.state == "full" and (recent or s.server != "standby" or s.no_stream_since):
        free, total = s.space.free_bytes >> 20, s.space.total_bytes >> 20
        why = f"its volume is full ({free} of {total} MiB are free); raise spec.storage.size"
        return Diagnosis("VolumeFull", why)
    if _longer(s.now, s.unreadable_since, UNREADABLE_FOR):
        return Diagnosis("DataUnreadable", "its data directory cannot be read")
    if recent >= CRASHES and max(ends) - min(ends) >= CRASHES_OVER:
        return Diagnosis("CrashLoop", f"PostgreSQL ended {recent} times within {CRASHES_WITHIN // SECOND} s")
    if s.server == "starting":
        if _longer(s.now, s.start_still_since, START_STILL_FOR):
            return Diagnosis("NeverConsistent", f"its recovery has not moved for {START_STILL_FOR // SECOND} s")
        return None
    if s.server == "stopped":
        return None
    return _of_stream(s) or _of_replay(s)


def _of_stream(s: Signs) -> Diagnosis | None:
    if s.source is None:
        return None  # nobody to stream from: an election's business
    if s.rewind_failed and s.no_stream_since:
        return Diagnosis("RewindFailed", "its WAL has left the primary's line, and pg_rewind failed")
    if s.waits:
        return None
    if s.no_stream_since:
        gone = 0 < s.received_lsn < s.source.oldest_lsn
        if gone and _longer(s.now, s.no_stream_since, WAL_MISSING_FOR):
            return Diagnosis("WalMissing", "the primary no longer has the WAL that it needs next")
        if not _longer(s.now, s.no_stream_since, NO_STREAM_FOR):
            return None
        if s.source.slot != "there":
            return Diagnosis("SlotLost", f"its slot on the primary is {s.source.slot}")
        return Diagnosis("NoStream", f"it has not streamed for {(s.now - s.no_stream_since) // SECOND} s")
    if _longer(s.now, s.receiver_still_since, RECEIVER_STILL_FOR):
        return Diagnosis("ReceiverStuck", "its WAL receiver takes nothing, and the primary has more")
    return None


def _of_replay(s: Signs) -> Diagnosis | None:
    if _longer(s.now, s.paused_since, PAUSED_FOR):
        return Diagnosis("ReplayPaused", "its replay was paused and not resumed")
    if s.paused_since or s.reader_patience is None:
        return None
    if _longer(s.now, s.replay_still_since, max(REPLAY_STILL_FOR, 2 * s.reader_patience)):
        still = (s.now - s.replay_still_since) // SECOND
        return Diagnosis("ReplayStuck", f"it has replayed nothing for {still} s although it has more WAL")
    return None


def _longer(now: int, since: int, limit: int) -> bool:
    return since > 0 and now - since >= limit


@dataclass(frozen=True, slots=True)
class Treatment:
    """What to do now; `wait` with its reason is an answer as well."""

    remedy: Remedy
    why: str = ""


def treat(diagnosis: Diagnosis, case: Case, signs: Signs, now: float) -> Treatment:
    """The next remedy. `now`: the wall clock in seconds."""
    ladder = LADDERS[diagnosis.ailment]
    tried = case.tried if case.ailment == diagnosis.ailment else ()
    if tried and now - case.tried_at < TIMES[tried[-1]]:
        return Treatment("wait", f"{tried[-1]} was tried, and gets its time")
    remedy = next((r for r in ladder if r not in tried), ladder[-1])
    if remedy == "free-space" and signs.server != "standby":
        return Treatment("wait", "it starts with what its ballast left")
    if remedy in tried and remedy != "clone":
        return Treatment("wait", f"{', '.join(tried)} did not help")
    if remedy == "clone":
        return _clone(case, signs, now)
    return Treatment(remedy)


def _clone(case: Case, signs: Signs, now: float) -> Treatment:
    if signs.needed:
        return Treatment("wait", "a new copy is needed, but commits wait for this instance and no other")
    if signs.source is None:
        return Treatment("wait", "a new copy is needed, but the primary does not answer")
    left = clone_pause(case, now)
    if left > 0:
        return Treatment("wait", f"a new copy is due in {left:.0f} s, for the last ones did not help")
    return Treatment("clone")


def clone_pause(case: Case, now: float) -> float:
    """Seconds until this instance may be copied anew."""
    today = [t for t in case.clones if now - t < DAY]
    if len(today) >= CLONES_A_DAY:
        return today[-CLONES_A_DAY] + DAY - now
    left = (today[-1] + CLONE_PAUSES[len(today)] - now) if today else 0.0
    if case.failed:
        pause = min(FAILED_PAUSE * 2.0 ** min(case.failed - 1, 10), LONGEST_PAUSE)
        left = max(left, case.clone_begun + pause - now)
    return max(0.0, left)


def noted(case: Case, diagnosis: Diagnosis, remedy: Remedy, now: float) -> Case:
    """The case after `remedy` was begun."""
    tried = case.tried if case.ailment == diagnosis.ailment else ()
    return replace(case, ailment=diagnosis.ailment, tried=(*tried, remedy), tried_at=now, well_since=0.0)


def clone_begun(case: Case, now: float) -> Case:
    """Before a copy: it counts as failed until it is finished, also when the agent dies over it."""
    return replace(case, failed=case.failed + 1, clone_begun=now)


def clone_finished(case: Case, now: float) -> Case:
    return replace(case, failed=0, clones=(*(t for t in case.clones if now - t < DAY), now))


def well(case: Case, now: float) -> Case:
    """The case after a look that found nothing."""
    if case.ailment is None:
        return case
    if not case.well_since:
        return replace(case, well_since=now)
    if now - case.well_since >= CLOSED_AFTER:
        return Case(clones=case.clones)
    return case


def start_pause(ends: Sequence[int], now: int) -> int:
    """Nanoseconds until a standby that ended at `ends` starts again: none after the first, then 0.5, 1, 2, 4, 5 s."""
    recent = [end for end in ends if now - end <= CRASHES_WITHIN]
    if len(recent) < 2:
        return 0
    pause = min((SECOND // 2) << min(len(recent) - 2, 10), 5 * SECOND)
    return max(0, max(recent) + pause - now)


def permitted(permits: dict[str, int], asks: str, now: int, until: int) -> dict[str, int] | str:
    """Holder: the permits with that of `asks`, or who is copied now. One new copy at a time in the cluster."""
    live = {i: end for i, end in permits.items() if end > now}
    other = next((i for i in sorted(live) if i != asks), None)
    return other if other is not None else {asks: until}
