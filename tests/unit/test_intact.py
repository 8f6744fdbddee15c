"""A store that was emptied, set back or robbed is told from one that retention made smaller."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.decide.intact import Expected, Holdings, Known, Link, head_of, what_is_lost


def link(number: int, previous: int | None = None) -> Link:
    before = number - 1 if previous is None else previous
    return Link(number, f"id{number}", f"sha{number}", f"sha{before}" if before else None)


THERE = tuple(link(n) for n in (1, 2, 3))
HOLDS = Holdings(owned=True, there=THERE, wal=frozenset({"A1", "A2"}))
EXPECTED = Expected(head=link(3), wal="A2", backups=tuple(Known(k.id, k.sha256) for k in THERE))


def test_all_is_there() -> None:
    assert what_is_lost(EXPECTED, HOLDS) == ()


def test_what_went_by_retention_is_not_lost() -> None:
    assert what_is_lost(EXPECTED, replace(HOLDS, there=THERE[2:], buried=THERE[:2])) == ()
    assert what_is_lost(EXPECTED, replace(HOLDS, there=(), buried=THERE)) == ()


@pytest.mark.parametrize(
    ("holds", "said"),
    [
        pytest.param(Holdings(owned=False), "says no more whose", id="emptied"),
        pytest.param(replace(HOLDS, there=THERE[:2]), "id3 (number 3) was the newest", id="set back by one"),
        pytest.param(replace(HOLDS, there=THERE[:1] + THERE[2:]), "id2 is gone", id="one taken"),
        pytest.param(replace(HOLDS, there=(), buried=()), "id3", id="all manifests taken"),
        pytest.param(
            replace(HOLDS, there=(THERE[0], replace(THERE[1], sha256="forged"), THERE[2])), "id2 has been replaced",
            id="one replaced",
        ),
        pytest.param(replace(HOLDS, wal=frozenset({"A1"})), "A2 was the newest", id="WAL set back"),
        pytest.param(replace(HOLDS, wal=frozenset()), "A2", id="WAL emptied"),
        pytest.param(replace(HOLDS, buried=(link(9, previous=8),)), "id9 (number 9) follows", id="a hole in the chain"),
    ],
)  # fmt: skip
def test_losses(holds: Holdings, said: str) -> None:
    assert any(said in sentence for sentence in what_is_lost(EXPECTED, holds))


def test_the_chain_speaks_for_backups_whose_records_are_gone() -> None:
    only_head = Expected(head=link(3))
    assert what_is_lost(only_head, replace(HOLDS, there=(THERE[0], THERE[2]))) == (
        "Backup id3 (number 3) follows one that is gone without a trace.",
    )


def test_a_loss_that_was_looked_at_is_not_said_again() -> None:
    set_back = replace(HOLDS, there=(THERE[0], THERE[2]))
    assert what_is_lost(Expected(head=None, accepted=3), set_back) == ()
    grown = replace(set_back, there=(*set_back.there, link(4), link(6)))
    assert what_is_lost(Expected(accepted=3), grown) == (
        "Backup id6 (number 6) follows one that is gone without a trace.",
    )


def test_a_new_store_and_an_archive_that_was_not_looked_at() -> None:
    assert what_is_lost(Expected(), Holdings(owned=False)) == ()
    assert what_is_lost(Expected(), HOLDS) == ()
    assert what_is_lost(EXPECTED, replace(HOLDS, wal=None)) == ()
    assert head_of(()) is None


@given(st.integers(1, 8), st.data())
def test_whatever_goes_without_a_tombstone_is_missed_and_nothing_else_is(count: int, data: st.DataObject) -> None:
    chain = [link(n) for n in range(1, count + 1)]
    fates = [data.draw(st.sampled_from(["there", "buried", "taken"])) for _ in chain]
    holds = Holdings(
        owned=True,
        there=tuple(k for k, fate in zip(chain, fates, strict=True) if fate == "there"),
        buried=tuple(k for k, fate in zip(chain, fates, strict=True) if fate == "buried"),
    )
    records = Expected(head=chain[-1], backups=tuple(Known(k.id, k.sha256) for k in chain))
    assert bool(what_is_lost(records, holds)) == ("taken" in fates)
    # With nothing but the head remembered, whatever has a successor is still missed.
    after = [k for k, fate in zip(chain, fates, strict=True) if fate != "taken"]
    followed = any(k.previous is not None and k.previous not in {a.sha256 for a in after} for k in after)
    assert bool(what_is_lost(Expected(head=chain[-1]), holds)) == (fates[-1] == "taken" or followed)
