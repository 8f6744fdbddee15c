"""What the doctor keeps on the volume and reads from it: what was tried outlives a restart of the agent."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.agent.doctor import _parse
from matriarch.agent.memberfiles import DOCTOR, MemberFiles
from matriarch.agent.postgres import processes, walfiles
from matriarch.decide.doctor import LADDERS, Case
from matriarch.postgres.lsn import SEGMENT_SIZE, segment_name, segment_start

CASES = st.builds(
    Case,
    ailment=st.one_of(st.none(), st.sampled_from(sorted(LADDERS))),
    tried=st.lists(st.sampled_from(["attach", "restart", "clone"]), max_size=4).map(tuple),
    tried_at=st.floats(0, 4e9),
    well_since=st.floats(0, 4e9),
    clones=st.lists(st.floats(0, 4e9), max_size=3).map(tuple),
    failed=st.integers(0, 100),
    clone_begun=st.floats(0, 4e9),
)


@given(CASES)
def test_a_case_survives_its_file(case: Case) -> None:
    assert _parse(json.loads(json.dumps(asdict(case)))) == case


@pytest.mark.parametrize("doc", [None, {}, {"something": "else"}, {"tried": 5}])
def test_anything_else_is_a_standby_that_nothing_was_tried_on(doc: dict[str, object] | None) -> None:
    assert _parse(doc) == Case()


def test_a_damaged_file_holds_up_no_repair(tmp_path: Path) -> None:
    files = MemberFiles(tmp_path / "member")
    assert files.doctor() is None
    files.write_doctor(asdict(Case(failed=2)))
    assert _parse(files.doctor()) == Case(failed=2)
    (tmp_path / "member" / DOCTOR).write_text("{")
    assert files.doctor() is None
    files.write_doctor(asdict(Case(failed=3)))
    assert _parse(files.doctor()) == Case(failed=3)


@given(st.integers(1, 1000), st.integers(0, 1 << 50))
def test_a_segments_name_tells_where_it_begins(timeline: int, lsn: int) -> None:
    assert segment_start(segment_name(timeline, lsn)) == lsn - lsn % SEGMENT_SIZE


def test_the_oldest_wal_is_found_among_all_timelines(tmp_path: Path) -> None:
    assert walfiles.oldest_lsn(tmp_path) == 0
    for timeline, lsn in ((2, 0x5000000), (1, 0x4000000), (2, 0x6000000)):
        (tmp_path / segment_name(timeline, lsn)).touch()
    (tmp_path / "00000002.history").touch()
    (tmp_path / "archive_status").mkdir()
    assert walfiles.oldest_lsn(tmp_path) == 0x4000000


def test_processes_are_known_by_what_they_call_themselves() -> None:
    assert processes.is_slot_worker("postgres: orders-2: slotsync worker")
    assert processes.is_startup("postgres: orders-2: startup recovering 000000010000000000000003")
    assert processes.is_startup("postgres: orders-2: startup waiting for 000000010000000000000003")
    assert processes.is_startup("postgres: orders-2: startup")
    assert not processes.is_startup("postgres: orders-2: startup app 10.0.0.1(5432) idle"), "a role called so"
    assert not processes.is_slot_worker("postgres: orders-2: slotsync worker 10.0.0.1(5432) idle")
    assert not processes.is_slot_worker("postgres: orders-2: walreceiver streaming 0/3000148")
    assert not processes.is_startup("postgres: orders-2: walreceiver")
