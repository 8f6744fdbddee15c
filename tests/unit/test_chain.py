"""Chains of incremental backups: which parent, which WAL, which are sound, and in which order they go."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.decide.chain import (
    Candidate,
    Full,
    Source,
    Stretch,
    chain_of,
    children_first,
    choose_parent,
    covering,
    needed,
    sound,
)
from matriarch.decide.retention import BackupFact, RetentionPolicy, plan_retention
from matriarch.postgres.timeline import Switch

PARENT = Candidate(id="p", system="7", timeline=1, start=1000, stop=1500, increments=0, encrypted=True, checksums=True)
SOURCE = Source(system="7", timeline=1, line=(), start=3000, reached=3000, encrypted=True, checksums=True)
SECOND = replace(SOURCE, timeline=2, line=(Switch(2, 1, 2000),))


@pytest.mark.parametrize(
    ("parent", "source", "why"),
    [
        pytest.param({}, SOURCE, None, id="the same timeline"),
        pytest.param({}, SECOND, None, id="a timeline that came out of it"),
        pytest.param({"stop": 2000}, SECOND, None, id="up to the switch"),
        pytest.param({"stop": 2001}, SECOND, "did not come out of", id="past the switch"),
        pytest.param({"timeline": 3}, SECOND, "did not come out of", id="a timeline that nobody here knows"),
        pytest.param({"timeline": 2}, SOURCE, "did not come out of", id="a later timeline, after a restore"),
        pytest.param({"system": "8"}, SOURCE, "of system 8", id="another system"),
        pytest.param({"encrypted": False}, SOURCE, "not encrypted", id="in the clear"),
        pytest.param({}, replace(SOURCE, encrypted=False), "is encrypted", id="it is encrypted, this is not to be"),
        pytest.param({"checksums": False}, SOURCE, "checksums were switched", id="pg_checksums --enable in between"),
        pytest.param({"fault": "its data is gone"}, SOURCE, "its data is gone", id="damaged"),
        pytest.param({"increments": 6}, SOURCE, "which is the most", id="a chain that is long enough"),
        pytest.param({"increments": 5}, SOURCE, None, id="one more"),
        pytest.param({"start": 3000, "stop": 3200}, replace(SOURCE, reached=3200), None, id="an idle standby"),
        pytest.param({"start": 3000, "stop": 3200}, replace(SOURCE, reached=3199), "only replayed", id="one behind"),
        pytest.param({"start": 3001, "stop": 3002}, replace(SOURCE, reached=4000), "older than it", id="checkpoint"),
    ],
)
def test_what_is_built_on(parent: dict[str, object], source: Source, why: str | None) -> None:
    candidate = replace(PARENT, **parent)  # type: ignore[arg-type]
    found = choose_parent([candidate], source, 6)
    if why is None:
        assert found == candidate
    else:
        assert isinstance(found, Full)
        assert why in found.because


def test_an_older_one_that_fits_is_taken_and_none_at_all_is_said() -> None:
    stray = replace(PARENT, id="stray", timeline=9)
    assert choose_parent([stray, PARENT], SOURCE, 6) == PARENT
    assert choose_parent([], SOURCE, 6) == Full("There is no physical backup in the store to build on.")


def test_the_wal_in_between_follows_the_line() -> None:
    assert needed(PARENT, SOURCE) == (Stretch(1, 1000, 3000),)
    assert needed(PARENT, SECOND) == (Stretch(1, 1000, 2000), Stretch(2, 2000, 3000))
    third = replace(SOURCE, timeline=5, line=(Switch(2, 1, 2000), Switch(5, 2, 2500)))
    assert needed(PARENT, third) == (Stretch(1, 1000, 2000), Stretch(2, 2000, 2500), Stretch(5, 2500, 3000))
    on_two = replace(PARENT, timeline=2, start=2100, stop=2200)
    assert needed(on_two, third) == (Stretch(2, 2100, 2500), Stretch(5, 2500, 3000))
    assert needed(replace(PARENT, start=3000), SOURCE) == ()


def test_summaries_have_to_cover_everything() -> None:
    wanted = (Stretch(1, 1000, 2000), Stretch(2, 2000, 3000))
    first, second = Stretch(1, 900, 1600), Stretch(1, 1600, 2000)
    third = Stretch(2, 2000, 3000)
    assert covering(wanted, [third, Stretch(1, 3, 900), second, first]) == (first, second, third)
    assert covering(wanted, [first, third]) == Stretch(1, 1600, 2000)
    assert covering(wanted, [first, second]) == Stretch(2, 2000, 3000)
    assert covering(wanted, [first, Stretch(1, 1601, 2000), third]) == Stretch(1, 1600, 2000)
    assert covering((), []) == ()


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), max_size=8), st.integers(0, 20), st.integers(1, 20))
def test_covering_is_all_or_names_a_hole(pieces: list[tuple[int, int]], start: int, length: int) -> None:
    there = [Stretch(1, a, a + n) for a, n in pieces]
    wanted = Stretch(1, start, start + length)
    found = covering([wanted], there)
    covered = {n for s in there for n in range(s.start, s.end)}
    inside = set(range(wanted.start, wanted.end))
    if isinstance(found, Stretch):
        assert found.start in inside - covered
    else:
        assert inside <= {n for s in found for n in range(s.start, s.end)}


# Each backup's parent is one before it, or none, or one that is not there.
forests = st.lists(st.integers(-2, 12), max_size=12).map(
    lambda choices: {str(n): None if c < 0 else str(c) if c < n else None for n, c in enumerate(choices)}
)


@given(forests, st.data())
def test_a_chain_is_as_good_as_its_weakest_link(parents: dict[str, str | None], data: st.DataObject) -> None:
    own = {b: data.draw(st.booleans()) for b in parents}
    good = sound(own, parents)
    for backup in parents:
        chain = chain_of(backup, parents)
        assert not isinstance(chain, str)
        assert (backup in good) == all(own[link] for link in chain)


def test_what_is_missing_is_named_and_circles_end() -> None:
    assert chain_of("b", {"b": "a"}) == "a"
    assert chain_of("a", {"a": "b", "b": "a"}) == "a"
    assert sound({"b": True}, {"b": "a"}) == frozenset()
    assert children_first(("a", "b"), {"a": "b", "b": "a"})


@given(forests, st.data())
def test_no_prefix_of_a_deletion_leaves_an_orphan(parents: dict[str, str | None], data: st.DataObject) -> None:
    chosen = data.draw(st.permutations(sorted(parents)))
    ordered = children_first(chosen, parents)
    assert sorted(ordered) == sorted(parents)
    for number in range(len(ordered) + 1):
        left = set(parents) - set(ordered[:number])
        assert all(parents[b] is None or parents[b] in left for b in left)


NOW = datetime(2026, 3, 1, tzinfo=UTC)


@given(
    st.lists(
        st.tuples(st.floats(0, 60), st.integers(-2, 12), st.booleans(), st.sampled_from([None, "s"])), max_size=12
    ),
    st.integers(0, 40),
    st.integers(0, 4),
    st.sampled_from([None, "s"]),
)
def test_retention_never_takes_the_parent_of_what_stays(
    made: list[tuple[float, int, bool, str | None]], days: int, count: int, schedule: str | None
) -> None:
    facts = [
        BackupFact(
            id=str(n),
            finished=NOW - timedelta(days=age),
            good=good,
            schedule=of,
            parent=str(parent) if 0 <= parent < n else None,
        )
        for n, (age, parent, good, of) in enumerate(made)
    ]
    plan = plan_retention(facts, RetentionPolicy(days=days, count=count, schedule=schedule), NOW)
    parents = {f.id: f.parent for f in facts}
    for number in range(len(plan.delete) + 1):  # a kill between any two deletions
        left = set(parents) - set(plan.delete[:number])
        assert all(parents[b] is None or parents[b] in left for b in left)
