"""What the archiver does next, decided from what it sees. Pure.

It looks ahead: PostgreSQL asks for one file after the other, and waits for each. By the time it asks, the file is
stored already. Four rules:

- A history goes before every other file, and every segment of a later timeline waits for its timeline's history.
- One refused file does not hold up the others: they are stored, and PostgreSQL, which asks in order, sees the refusal.
- A store that fails is left alone for a while that grows; then one file alone tries it.
- No more than `parallel` files are in memory at any time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from matriarch.archive.names import WalName

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0  # seconds between two attempts: half of what PostgreSQL itself waits
WAIT_FOR_PRIMARY = 1.0
LONGEST_WAIT_FOR_PRIMARY = 10.0


@dataclass(frozen=True, slots=True)
class Pause:
    """After `failures` in a row nothing is tried before `until` (monotonic seconds)."""

    failures: int = 0
    until: float = 0.0

    def longer(self, now: float, *, first: float = FIRST_PAUSE, longest: float = LONGEST_PAUSE) -> Pause:
        return Pause(self.failures + 1, now + min(first * 2 ** min(self.failures, 16), longest))


@dataclass(frozen=True, slots=True)
class Seen:
    """`ready`: what PostgreSQL wants archived; `stored`: of that, what is; `histories`: timelines that have theirs."""

    ready: tuple[WalName, ...]
    stored: Collection[str] = ()
    running: Collection[str] = ()
    histories: Collection[int] = ()
    pauses: Mapping[str, Pause] = field(default_factory=dict)
    store: Pause = field(default_factory=Pause)


def next_files(seen: Seen, *, parallel: int, now: float) -> tuple[WalName, ...]:
    """The files to begin with now, in order."""
    if now < seen.store.until:
        return ()
    free = (1 if seen.store.failures else parallel) - len(seen.running)
    if free <= 0:
        return ()
    open_files = [n for n in sorted(seen.ready, key=lambda n: n.order) if n.text not in seen.stored]
    due = [n for n in open_files if n.text not in seen.running and not _paused(seen, n, now)]
    histories = [n for n in due if n.kind == "history"]
    if histories:
        return tuple(histories[:free])
    return tuple(n for n in due if not _waits(seen, open_files, n))[:free]


def wanted_histories(seen: Seen) -> tuple[int, ...]:
    """Timelines whose history has to be stored first although PostgreSQL does not ask for it.

    It asks once, when the timeline begins; an archive that was switched on later would never have it.
    """
    asked = {n.timeline for n in seen.ready if n.kind == "history"}
    later = {n.timeline for n in seen.ready if n.kind != "history" and n.timeline > 1 and n.text not in seen.stored}
    return tuple(sorted(later - asked - set(seen.histories)))


def _waits(seen: Seen, open_files: list[WalName], name: WalName) -> bool:
    """For a history that is under way or was refused; its timeline's files and those of later ones stay in order."""
    if name.timeline > 1 and name.timeline not in seen.histories:
        return True
    return any(n.kind == "history" and n.timeline <= name.timeline for n in open_files)


def _paused(seen: Seen, name: WalName, now: float) -> bool:
    pause = seen.pauses.get(name.text)
    return pause is not None and now < pause.until
