"""Retention of the WAL archive: what may go, when it goes, and that no backup ever reaches less far for it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matriarch.decide.recovery import Base, Segment, recovery
from matriarch.decide.wal_retention import WAIT, Archive, Mark, PhysicalFact, Step, WalFact, next_step, plan_wal
from matriarch.postgres.lsn import SEGMENT_SIZE, segment_name
from matriarch.postgres.timeline import Switch, history_file

NOW = datetime(2026, 11, 25, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def segment(timeline: int, number: int, age: timedelta = 9 * DAY) -> WalFact:
    start = number * SEGMENT_SIZE
    return WalFact(timeline, start + SEGMENT_SIZE, segment_name(timeline, start), NOW - age)


def history(timeline: int, age: timedelta = 9 * DAY) -> WalFact:
    return WalFact(timeline, None, history_file(timeline), NOW - age)


def backup(timeline: int, number: int, *, offset: int = 40, **more: Any) -> PhysicalFact:
    more = {"id": f"b{timeline}-{number}", "finished": NOW - DAY, "good": True, **more}
    return PhysicalFact(timeline=timeline, start=number * SEGMENT_SIZE + offset, **more)


def archive(*files: WalFact, backups: tuple[PhysicalFact, ...] = (), **more: Any) -> Archive:
    return Archive(now=NOW, backups=backups, files=files, **more)


def names(*files: WalFact) -> tuple[str, ...]:
    return tuple(f.name for f in files)


def test_only_what_lies_below_every_backup_goes_oldest_first() -> None:
    files = [segment(1, n) for n in (4, 1, 3, 2)]
    found = plan_wal(archive(*files, backups=(backup(1, 3), backup(1, 4, good=False))), None)
    assert (found.gone, found.frozen) == (names(segment(1, 1), segment(1, 2)), None)


def test_parents_go_up_to_the_backup_s_own_start_and_its_history_stays() -> None:
    files = [segment(1, 1), segment(1, 2), segment(2, 2), segment(2, 3), segment(3, 3), history(2), history(3)]
    files += [segment(1, 9)]  # the end of a line that was left: somebody may still want to look at it
    found = plan_wal(archive(*files, backups=(backup(3, 3),)), None)
    assert found.gone == names(segment(1, 1), segment(1, 2), segment(2, 2))  # history 2: WAL of it stays
    assert plan_wal(archive(segment(3, 3), history(2), history(3), backups=(backup(3, 3),)), None).gone == (
        history_file(2),
    )


def test_a_history_above_any_backup_s_timeline_stays() -> None:
    files = [history(2), history(3), history(4), segment(4, 9)]
    assert plan_wal(archive(*files, backups=(backup(1, 8), backup(4, 9))), None).gone == ()


@pytest.mark.parametrize("odd", [{"good": False}, {"id": "pinned", "finished": NOW - 900 * DAY}])
def test_a_suspect_and_an_old_backup_need_their_wal_as_well(odd: dict[str, Any]) -> None:
    files = [segment(1, n) for n in range(1, 9)]
    found = plan_wal(archive(*files, backups=(backup(1, 3, **odd), backup(1, 8))), None)
    assert found.gone == names(segment(1, 1), segment(1, 2))


def test_the_window_keeps_what_was_stored_lately_and_all_that_follows() -> None:
    files = [segment(1, 1), segment(1, 2, HOUR), segment(1, 3), history(2, HOUR)]
    assert plan_wal(archive(*files, backups=(backup(3, 9),)), DAY).gone == names(segment(1, 1))
    assert plan_wal(archive(*files, backups=(backup(3, 9),)), DAY).because == "the window of 1 days"
    assert len(plan_wal(archive(*files, backups=(backup(3, 9),)), None).gone) == 3


def test_without_a_window_the_second_in_which_a_file_was_stored_does_not_matter() -> None:
    """Stores tell whole seconds, and a small archive is filled within one."""
    for age in (timedelta(0), timedelta(seconds=-1)):  # a store may say a later time of an object than of itself
        files = [segment(1, 1, age), segment(1, 2, age), history(2, age)]
        assert plan_wal(archive(*files, backups=(backup(3, 9),)), timedelta(0)).gone == names(files[0], files[2])


def test_the_newest_segment_stays_so_that_an_archive_that_was_emptied_is_known_by_it() -> None:
    files = [segment(1, 1), segment(2, 1), segment(2, 2), segment(1, 3)]
    assert plan_wal(archive(*files, backups=(backup(3, 9),)), None).gone == names(*files[:2], files[3])


def test_backups_in_other_stores_need_their_wal_as_well() -> None:
    files = [segment(1, n) for n in range(1, 9)]
    found = plan_wal(archive(*files, backups=(backup(1, 8),), elsewhere=(3 * SEGMENT_SIZE + 40,)), None)
    assert (found.gone, found.because) == (names(*files[:2]), "a backup in another store")
    assert plan_wal(archive(*files, backups=(backup(1, 2),), elsewhere=(3 * SEGMENT_SIZE,)), None).gone == names(
        files[0]
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        pytest.param({"backups": ()}, "no good physical backup", id="no backup"),
        pytest.param({"backups": (backup(1, 9, good=False),)}, "no good physical backup", id="only a Suspect one"),
        pytest.param({"running": ("r",)}, "being made", id="one is being made"),
        pytest.param({"broken": ("manifests/x",)}, "cannot be read", id="a damaged manifest"),
        pytest.param({"lost": ("Backup x is gone.",)}, "x is gone", id="a store that was set back"),
        pytest.param({"elsewhere": (0,)}, "another store", id="a backup elsewhere without its place"),
        pytest.param(
            {"backups": (backup(1, 9), backup(1, 9, id="x", authentic=False, good=False))}, "holder", id="forged"
        ),
        pytest.param({"backups": (backup(1, 9, segment_size=1 << 20),)}, "segments of", id="other segments"),
        pytest.param({"backups": (backup(1, 0, offset=0),)}, "where it begins", id="no start"),
        pytest.param({"backups": (backup(1, 9, finished=NOW + DAY),)}, "future", id="future backup"),
        pytest.param({"files": (segment(1, 1, -DAY),)}, "future", id="future file"),
    ],
)
def test_any_doubt_freezes_and_takes_the_mark_back(change: dict[str, Any], why: str) -> None:
    doubtful = replace(archive(segment(1, 1), backups=(backup(1, 9),)), **change)
    found = plan_wal(doubtful, None)
    assert found.gone == ()
    assert why in (found.frozen or "")
    assert next_step(found, Mark(9 * SEGMENT_SIZE, NOW - DAY), doubtful).step is Step.UNMARK
    assert next_step(found, None, doubtful).step is Step.NOTHING


def test_mark_wait_delete() -> None:
    known = archive(segment(1, 1), segment(1, 2), segment(1, 3), backups=(backup(1, 3),))
    plan = plan_wal(known, None)
    assert next_step(plan, None, known).step is Step.MARK
    young, old = NOW - WAIT + timedelta(seconds=1), NOW - WAIT
    assert next_step(plan, Mark(plan.before, young), known).step is Step.WAIT
    assert next_step(plan, Mark(plan.before, old), known).gone == names(segment(1, 1), segment(1, 2))
    # Less was marked than may go by now: only that goes. More was marked than may go now: only what may.
    assert next_step(plan, Mark(2 * SEGMENT_SIZE, old), known).gone == names(segment(1, 1))
    assert next_step(plan, Mark(99 * SEGMENT_SIZE, old), known).gone == plan.gone
    assert next_step(plan, Mark(SEGMENT_SIZE, old), known).step is Step.MARK
    assert next_step(plan, Mark(plan.before, NOW + DAY), known).step is Step.MARK


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Archive, dict[int, tuple[Switch, ...]], list[Base]]:
    """Timelines that branch off anywhere, holes, backups anywhere on them."""
    count = draw(st.integers(1, 5))
    lines: dict[int, tuple[Switch, ...]] = {1: ()}
    for timeline in range(2, count + 1):
        parent = draw(st.integers(1, timeline - 1))
        least = lines[parent][-1].lsn if lines[parent] else SEGMENT_SIZE
        lsn = least + draw(st.integers(0, 4 * SEGMENT_SIZE))
        lines[timeline] = (*lines[parent], Switch(timeline, parent, lsn))
    files: list[WalFact] = []
    for timeline, line in lines.items():
        first = line[-1].lsn // SEGMENT_SIZE if line else 1
        files += [segment(timeline, n) for n in range(first, first + 6) if draw(st.integers(0, 9))]
        if timeline > 1 and draw(st.integers(0, 9)):
            files.append(history(timeline))
    facts, bases = [], []
    for n in range(draw(st.integers(1, 3))):
        timeline = draw(st.integers(1, count))
        first = lines[timeline][-1].lsn if lines[timeline] else SEGMENT_SIZE
        start = first + draw(st.integers(0, 5 * SEGMENT_SIZE))
        stop = start + draw(st.integers(1, 2 * SEGMENT_SIZE))
        good = n == 0 or draw(st.booleans())
        facts.append(PhysicalFact(id=f"b{n}", timeline=timeline, start=start, finished=NOW - DAY, good=good))
        bases.append(Base(id=f"b{n}", timeline=timeline, stop=stop, finished=NOW - DAY))
    readable = {int(f.name[:8], 16) for f in files if f.end is None}
    return archive(*files, backups=tuple(facts)), {t: lines[t] for t in readable}, bases


@given(worlds(), st.integers(0, 99), st.integers(0, 20))
@settings(max_examples=300, deadline=None)
def test_no_backup_reaches_less_far_after_any_part_of_the_deletion(
    world: tuple[Archive, dict[int, tuple[Switch, ...]], list[Base]], done: int, marked: int
) -> None:
    before, histories, bases = world
    plan = plan_wal(before, None)
    turn = next_step(plan, Mark(marked * SEGMENT_SIZE, NOW - DAY), before)
    gone = set(turn.gone[:done])  # interrupted anywhere
    after = replace(before, files=tuple(f for f in before.files if f.name not in gone))
    left = {t: line for t, line in histories.items() if history_file(t) not in gone}

    def reaches(known: Archive, read: dict[int, tuple[Switch, ...]]) -> object:
        found = [
            Segment(timeline=f.timeline, start=f.end - SEGMENT_SIZE, stored=f.stored) for f in known.files if f.end
        ]
        return recovery(bases, found, read).reaches

    assert reaches(after, left) == reaches(before, histories)
    # What stays is planned the same way: a run that was killed is only repeated.
    again = plan_wal(after, None)
    assert (again.before, set(again.gone) | gone) == (plan.before, set(plan.gone) | gone)
    # And no history is left out of the numbers that PostgreSQL counts up from a backup's timeline.
    lowest = min(b.timeline for b in before.backups)
    assert all(int(name[:8], 16) < lowest for name in gone if name.endswith(".history"))
