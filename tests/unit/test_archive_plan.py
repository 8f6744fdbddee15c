"""What the archiver does next: by table, and what holds whatever it sees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.archive.plan import Pause, Seen, next_files, wanted_histories
from matriarch.postgres.lsn import SEGMENT_SIZE, segment_name
from tests.unit.archive_world import named

A1, A2, A3 = (segment_name(1, n * SEGMENT_SIZE) for n in (1, 2, 3))
B3, B4 = (segment_name(2, n * SEGMENT_SIZE) for n in (3, 4))
H2 = "00000002.history"


def seen(ready: str, **how: object) -> Seen:
    return Seen(tuple(named(n) for n in ready.split()), **how)  # type: ignore[arg-type]  # given by tests


@pytest.mark.parametrize(
    ("what", "state", "begun"),
    [
        ("nothing to do", seen(""), ""),
        ("in order, whatever the listing's order", seen(f"{A3} {A1} {A2}"), f"{A1} {A2} {A3}"),
        ("no more than fit", seen(f"{A1} {A2} {A3}", running={"x", "y"}), f"{A1} {A2}"),
        ("all places taken", seen(f"{A1}", running={"w", "x", "y", "z"}), ""),
        ("what is stored is not stored again", seen(f"{A1} {A2}", stored={A1}), A2),
        ("nor what is under way", seen(f"{A1} {A2}", running={A1}), A2),
        ("histories first", seen(f"{A1} {B3} {H2}"), H2),
        ("older timelines go on meanwhile", seen(f"{A1} {B3} {H2}", running={H2}), A1),
        ("and its own afterwards", seen(f"{B3} {H2}", stored={H2}, histories={2}), B3),
        ("a timeline without a history waits", seen(f"{A1} {B3}"), A1),
        ("one refused file does not hold up the others", seen(f"{A1} {A2}", pauses={A1: Pause(1, 99.0)}), A2),
        ("its pause ends", seen(f"{A1} {A2}", pauses={A1: Pause(1, 9.0)}), f"{A1} {A2}"),
        ("a refused history holds up its timeline", seen(f"{A2} {B3} {H2}", pauses={H2: Pause(1, 99.0)}), A2),
        ("a store that fails is left alone", seen(f"{A1} {A2}", store=Pause(3, 11.0)), ""),
        ("then one tries it", seen(f"{A1} {A2}", store=Pause(3, 9.0)), A1),
        ("and only one", seen(f"{A1} {A2}", store=Pause(3, 9.0), running={A1}), ""),
    ],
)
def test_next_files(what: str, state: Seen, begun: str) -> None:
    assert [n.text for n in next_files(state, parallel=4, now=10.0)] == begun.split(), what


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        (seen(A1), ()),
        (seen(B3), (2,)),
        (seen(f"{B3} {H2}"), ()),
        (seen(B3, histories={2}), ()),
        (seen(B3, stored={B3}), ()),
    ],
)
def test_histories_that_nobody_asked_for(state: Seen, wanted: tuple[int, ...]) -> None:
    assert wanted_histories(state) == wanted


names = st.sampled_from([A1, A2, A3, B3, B4, H2, f"{A3}.partial", f"{A1}.00000028.backup"])


@given(
    st.sets(names), st.sets(names), st.sets(names), st.sets(st.just(2)), st.integers(0, 3), st.floats(0, 20),
    st.dictionaries(names, st.builds(Pause, st.integers(0, 3), st.floats(0, 20))),
)  # fmt: skip
def test_whatever_it_sees(
    ready: set[str], stored: set[str], running: set[str], histories: set[int], failures: int, until: float,
    pauses: dict[str, Pause],
) -> None:  # fmt: skip
    store = Pause(failures, until if failures else 0.0)
    state = Seen(tuple(named(n) for n in ready), stored, running, histories, pauses, store)
    begun = [n.text for n in next_files(state, parallel=4, now=10.0)]
    assert len(begun) == len(set(begun))
    assert set(begun) <= ready - stored - running
    assert len(begun) + len(running) <= max(4, len(running))
    assert H2 not in ready - stored or not {B3, B4} & set(begun)
    assert {2} <= histories or not {B3, B4} & set(begun)
    if failures:
        assert len(begun) <= 1


@given(st.integers(0, 100))
def test_pauses_grow_and_end(failures: int) -> None:
    pause = Pause(failures).longer(100.0)
    assert pause.failures == failures + 1
    assert 100.5 <= pause.until <= 130.0
