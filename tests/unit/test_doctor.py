"""What ails a standby, row by row, and that remedies go from light to heavy, with an end."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.decide import doctor
from matriarch.decide.doctor import LADDERS, SECOND, TIMES, Case, Diagnosis, Signs, Source, diagnose, treat
from matriarch.decide.space import Space

NOW = 1000 * SECOND
SOURCE = Source("there", oldest_lsn=0x3000000, flushed_lsn=0x9000000, others=1)
WELL = Signs(NOW, "standby", received_lsn=0x8000000, source=SOURCE, voter=True, k=1)
FULL = Space(300 << 20, 1 << 20, 0, "full")


def _ago(seconds: float) -> int:
    return NOW - int(seconds * SECOND)


ROWS: list[tuple[str, Signs, str | None]] = [
    ("well", WELL, None),
    ("an election: nobody to stream from", replace(WELL, no_stream_since=_ago(300), source=None), None),
    ("must stay as it is (S3)", replace(WELL, no_stream_since=_ago(300), waits=True), None),
    ("a rewind failed", replace(WELL, no_stream_since=_ago(1), waits=True, rewind_failed=True), "RewindFailed"),
    ("a short gap", replace(WELL, no_stream_since=_ago(20)), None),
    ("no stream", replace(WELL, no_stream_since=_ago(26)), "NoStream"),
    ("its slot is lost", replace(WELL, no_stream_since=_ago(26), source=replace(SOURCE, slot="lost")), "SlotLost"),
    ("its slot is gone", replace(WELL, no_stream_since=_ago(26), source=replace(SOURCE, slot="missing")), "SlotLost"),
    ("its WAL is gone", replace(WELL, no_stream_since=_ago(13), received_lsn=0x2FFFFFF), "WalMissing"),
    ("not looked long enough", replace(WELL, no_stream_since=_ago(5), received_lsn=0x2FFFFFF), None),
    ("nothing arrives", replace(WELL, receiver_still_since=_ago(21)), "ReceiverStuck"),
    ("paused by a person a moment ago", replace(WELL, paused_since=_ago(50), replay_still_since=_ago(90)), None),
    ("paused and forgotten", replace(WELL, paused_since=_ago(61)), "ReplayPaused"),
    ("replay stands", replace(WELL, replay_still_since=_ago(301)), "ReplayStuck"),
    ("readers may be patient", replace(WELL, replay_still_since=_ago(400), reader_patience=250 * SECOND), None),
    ("readers may be patient for ever", replace(WELL, replay_still_since=_ago(9999), reader_patience=None), None),
    ("three crashes", replace(WELL, server="stopped", ends=(_ago(19), _ago(6), _ago(3))), None),
    ("four crashes", replace(WELL, server="stopped", ends=(_ago(13), _ago(9), _ago(6), _ago(3))), "CrashLoop"),
    ("four crashes at once", replace(WELL, server="stopped", ends=(_ago(9), _ago(8), _ago(7), _ago(6))), None),
    ("four old crashes", replace(WELL, server="stopped", ends=(_ago(400), _ago(390), _ago(380), _ago(370))), None),
    ("recovers slowly", replace(WELL, server="starting", start_still_since=_ago(100)), None),
    ("never consistent", replace(WELL, server="starting", start_still_since=_ago(601)), "NeverConsistent"),
    ("an unreadable directory", replace(WELL, server="stopped", unreadable_since=_ago(31)), "DataUnreadable"),
    ("full and well", replace(WELL, space=FULL), None),
    (
        "full and down explains the crashes",
        replace(WELL, server="stopped", space=FULL, ends=(_ago(1),) * 5),
        "VolumeFull",
    ),
    ("full and no stream", replace(WELL, no_stream_since=_ago(1), space=FULL), "VolumeFull"),
]


@pytest.mark.parametrize(("what", "signs", "ailment"), ROWS, ids=[r[0] for r in ROWS])
def test_diagnosis(what: str, signs: Signs, ailment: str | None) -> None:
    found = diagnose(signs)
    assert (found.ailment if found else None) == ailment
    assert found is None or len(found.why) > 10


@pytest.mark.parametrize("ailment", LADDERS)
def test_remedies_go_from_light_to_heavy_each_once_and_get_their_time(ailment: doctor.Ailment) -> None:
    found, case, now, begun = Diagnosis(ailment, "why"), Case(), 1e9, []
    for _ in range(40):
        treatment = treat(found, case, WELL, now)
        if treatment.remedy != "wait":
            begun.append((treatment.remedy, now))
            case = doctor.noted(case, found, treatment.remedy, now)
            if treatment.remedy == "clone":
                case = doctor.clone_finished(doctor.clone_begun(case, now), now)
        now += 10
    light = [r for r, _ in begun if r != "clone"]
    assert light == [r for r in LADDERS[ailment] if r != "clone"]
    for (remedy, at), (_, then) in pairwise(begun):
        assert then - at >= TIMES[remedy]


def test_only_a_full_volume_and_a_pause_are_never_answered_with_a_copy() -> None:
    assert {a for a, ladder in LADDERS.items() if "clone" not in ladder} == {"VolumeFull", "ReplayPaused"}


def test_a_standby_that_crashes_is_started_with_growing_pauses_until_it_is_a_loop() -> None:
    ends: list[int] = []
    now, gaps = NOW, []
    while (found := diagnose(replace(WELL, now=now, server="stopped", ends=tuple(ends)))) is None:
        pause = doctor.start_pause(ends, now)
        gaps.append(pause / SECOND)
        now += pause
        ends.append(now)
    assert gaps == [0, 0, 0.5, 1, 2, 4, 5]
    assert found.ailment == "CrashLoop"
    assert doctor.start_pause(ends, now + doctor.CRASHES_WITHIN + 1) == 0


def test_another_ailment_begins_at_the_light_end() -> None:
    case = doctor.noted(Case(), Diagnosis("NoStream", ""), "restart", 1e9)
    assert treat(Diagnosis("ReplayStuck", ""), case, WELL, 1e9 + 1).remedy == "end-readers"


def test_who_was_well_for_long_begins_anew_but_copies_are_remembered() -> None:
    case = doctor.clone_finished(doctor.noted(Case(), Diagnosis("NoStream", ""), "attach", 1e9), 1e9)
    case = doctor.well(case, 1e9 + 10)
    assert case.tried == ("attach",)
    assert doctor.well(case, 1e9 + 11) == case
    assert doctor.well(case, 1e9 + 10 + doctor.CLOSED_AFTER) == Case(clones=(1e9,))


def test_copies_have_pauses_and_a_limit_a_day() -> None:
    case, now, made = Case(), 1e9, []
    while now < 1e9 + 3 * doctor.DAY:
        if doctor.clone_pause(case, now) == 0:
            made.append(now - 1e9)
            case = doctor.clone_finished(doctor.clone_begun(case, now), now)
        now += 100
    assert made[:4] == [0, 300, 2100, 86400]
    for at in made:
        assert sum(at <= other < at + doctor.DAY for other in made) <= doctor.CLONES_A_DAY


def test_copies_that_fail_are_tried_with_growing_pauses_and_do_not_count_as_made() -> None:
    case, now, tries = Case(), 1e9, []
    for _ in range(9):
        now += doctor.clone_pause(case, now)
        tries.append(now)
        case = doctor.clone_begun(case, now)
    gaps = [b - a for a, b in pairwise(tries)]
    assert gaps == [10, 20, 40, 80, 160, 320, 600, 600]
    assert case.clones == ()


def test_the_only_voter_that_streams_is_not_taken_away() -> None:
    alone = replace(WELL, source=replace(SOURCE, others=0), replay_still_since=_ago(400))
    case = Case("ReplayStuck", ("end-readers", "restart"), 1.0)
    found = Diagnosis("ReplayStuck", "")
    assert treat(found, case, alone, 1e9).remedy == "wait"
    assert treat(found, case, replace(alone, no_stream_since=_ago(1)), 1e9).remedy == "clone"
    assert treat(found, case, replace(alone, voter=False), 1e9).remedy == "clone"
    assert treat(found, case, WELL, 1e9).remedy == "clone"


def test_no_copy_from_a_primary_that_does_not_answer() -> None:
    treatment = treat(Diagnosis("CrashLoop", ""), Case(), replace(WELL, server="stopped", source=None), 1e9)
    assert treatment.remedy == "wait"
    assert "does not answer" in treatment.why


def test_one_copy_at_a_time_in_the_cluster() -> None:
    permits = doctor.permitted({}, "orders-2", NOW, NOW + 60)
    assert permits == {"orders-2": NOW + 60}
    assert isinstance(permits, dict)
    assert doctor.permitted(permits, "orders-3", NOW + 1, NOW + 61) == "orders-2"
    assert doctor.permitted(permits, "orders-2", NOW + 1, NOW + 61) == {"orders-2": NOW + 61}
    assert doctor.permitted(permits, "orders-3", NOW + 60, NOW + 120) == {"orders-3": NOW + 120}


_INSTANT = st.one_of(st.just(0), st.integers(1, NOW))


@given(
    st.builds(
        Signs,
        now=st.just(NOW),
        server=st.sampled_from(["stopped", "starting", "standby"]),
        ends=st.lists(_INSTANT, max_size=8).map(tuple),
        unreadable_since=_INSTANT,
        start_still_since=_INSTANT,
        no_stream_since=_INSTANT,
        receiver_still_since=_INSTANT,
        paused_since=_INSTANT,
        replay_still_since=_INSTANT,
        received_lsn=st.integers(0, 1 << 40),
        waits=st.booleans(),
        voter=st.booleans(),
        k=st.integers(0, 3),
        source=st.one_of(
            st.none(),
            st.builds(
                Source,
                st.sampled_from(["there", "missing", "lost"]),
                st.integers(0, 1 << 40),
                st.integers(0, 1 << 40),
                st.integers(0, 3),
            ),
        ),
        space=st.sampled_from([Space(), FULL]),
    ),
    st.floats(1e9, 2e9),
)
def test_a_voter_that_commits_wait_for_is_never_copied_and_nobody_without_a_primary(signs: Signs, now: float) -> None:
    found = diagnose(signs)
    if found is None:
        return
    case = Case(found.ailment, LADDERS[found.ailment], now - 1e6)
    if treat(found, case, signs, now).remedy == "clone":
        assert not signs.needed
        assert signs.source is not None
