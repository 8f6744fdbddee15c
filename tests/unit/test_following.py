"""The Lease of a replica cluster: the way in, the way out, and that neither can be gone twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.decide import following, lease, leasetext, token
from matriarch.decide.lease import LeaseState, Promotion
from matriarch.decide.member import Member
from matriarch.decide.site import REMEMBERED, Site
from matriarch.decide.token import Token
from matriarch.decide.transitions import Illegal, Seen, lease_event
from matriarch.postgres.timeline import Switch, WalPosition

A, B, C = (Member(f"dr-{i}", f"{i}" * 12) for i in (1, 2, 3))
LINE = (Switch(2, 1, 100),)
TOKEN = Token("7", 2, 500, 4, "prod/orders", "n1")
TEXT = token.encode(TOKEN)
FOLLOWS = following.bootstrapped(following.initial("dr-1"), A, "7", LINE, "n")
PRIMARY = LeaseState(
    epoch=5, holder=A, bootstrap="dr-1", mode="quorum", voters=(B, C), k=1, system_identifier="7", opened=True,
    lineage=LINE, claimed=4,
)  # fmt: skip
tokens = st.builds(
    Token, st.just("7"), st.integers(1, 99), st.integers(0, 1 << 62), st.integers(1, 99), st.text(max_size=80),
    st.text(max_size=16),
)  # fmt: skip


@given(tokens, st.data())
def test_a_token_is_read_back_from_a_copy_and_never_from_a_part_of_one(made: Token, data: st.DataObject) -> None:
    text = token.encode(made)
    assert token.decode(f" {text[:20]}\n{text[20:]} ") == made
    assert token.digest(f"{text}\n") == token.digest(text)
    cut = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(ValueError, match=r"it is not a demotion token|checksum"):
        token.decode(text[:cut])


def test_the_first_copy_begins_a_cluster_that_has_no_primary() -> None:
    assert FOLLOWS.mode == "follow"
    assert (FOLLOWS.epoch, FOLLOWS.holder, FOLLOWS.timeline, FOLLOWS.claimed) == (1, A, 2, 2)
    assert FOLLOWS.voters == ()
    assert not FOLLOWS.opened
    with pytest.raises(ValueError, match="not the bootstrap instance"):
        following.bootstrapped(following.initial("dr-1"), B, "7", LINE, "n")
    with pytest.raises(ValueError, match="epoch 0 of a replica"):
        following.bootstrapped(lease.initial("dr-1"), A, "7", LINE, "n")


def test_a_new_line_of_the_source_is_taken_over_and_its_numbers_are_passed() -> None:
    line = (*LINE, Switch(9, 2, 300))
    assert (following.line_followed(FOLLOWS, line).timeline, following.line_followed(FOLLOWS, line).claimed) == (9, 9)
    back = following.line_followed(following.line_followed(FOLLOWS, line), LINE)
    assert back.claimed == 9  # a number that was seen is never made again


def test_a_promotion_claims_a_number_above_the_source_and_is_closed_at_first() -> None:
    made = following.promoted(FOLLOWS, 2, WalPosition(2, 620), "n", TEXT)
    assert (made.mode, made.holder, made.epoch, made.opened) == ("alone", A, 2, False)
    assert made.promoting == Promotion(5, 2, 620)
    assert made.site == Site("", (token.digest(TEXT),), "")


def test_a_forced_promotion_leaves_numbers_to_the_source_and_says_where_it_parted() -> None:
    made = following.promoted(FOLLOWS, 2, WalPosition(2, 620), "n", None)
    assert made.claimed == 2 + 1 + following.FORCED_GAP
    assert made.site is not None
    assert made.site.forced == "0/26C on timeline 2"
    assert made.site.spent == ()


def test_a_token_promotes_once() -> None:
    made = following.promoted(FOLLOWS, 2, WalPosition(2, 620), "n", TEXT)
    with pytest.raises(ValueError, match="only a replica cluster"):
        following.promoted(made, 3, WalPosition(2, 620), "n", TEXT)
    again = following.demoted(_settled(made), 9, replace(TOKEN, claimed=made.claimed, nonce="n2"), "n")
    with pytest.raises(ValueError, match="used already"):
        following.promoted(again, 10, WalPosition(5, 700), "n", TEXT)


def test_an_own_token_that_was_taken_back_can_never_be_used_again() -> None:
    down = following.demoted(PRIMARY, 6, TOKEN, "n")
    up = following.promoted(down, 7, WalPosition(2, 620), "n", None)
    assert up.site is not None
    assert token.digest(TEXT) in up.site.spent
    assert up.site.demoted == ""


def test_only_so_many_tokens_are_remembered() -> None:
    state = replace(FOLLOWS, site=Site(spent=tuple(map(str, range(REMEMBERED)))))
    made = following.promoted(state, 2, WalPosition(2, 620), "n", TEXT)
    assert made.site is not None
    assert len(made.site.spent) == REMEMBERED
    assert made.site.spent[-1] == token.digest(TEXT)


def test_a_demotion_ends_the_voters_and_keeps_the_timelines() -> None:
    down = following.demoted(replace(PRIMARY, heir=B), 6, TOKEN, "n")
    assert (down.mode, down.holder, down.voters, down.k, down.heir) == ("follow", A, (), 0, None)
    assert (down.lineage, down.claimed, down.opened) == (PRIMARY.lineage, PRIMARY.claimed, False)
    assert down.site is not None
    assert token.decode(down.site.demoted) == TOKEN
    for wrong, why in (
        (replace(PRIMARY, promoting=Promotion(4, 2, 1)), "not recorded"),
        (replace(PRIMARY, claimed=5), "another state"),
        (down, "only a primary"),
    ):
        with pytest.raises(ValueError, match=why):
            following.demoted(wrong, 9, TOKEN, "n")


def test_the_text_of_a_lease_without_sites_is_what_it_was() -> None:
    assert "site" not in leasetext.encode(PRIMARY)
    down = following.demoted(PRIMARY, 6, TOKEN, "n")
    assert leasetext.decode(leasetext.encode(down)) == down
    assert '"site"' in leasetext.encode(down)


def _settled(state: LeaseState) -> LeaseState:
    """After the promotion was recorded."""
    assert state.promoting is not None
    line = (*state.lineage, Switch(state.claimed, state.promoting.parent, state.promoting.lsn))
    return lease.history_recorded(state, line)


UP = following.promoted(FOLLOWS, 2, WalPosition(2, 620), "n", TEXT)
DOWN = following.demoted(PRIMARY, 6, TOKEN, "n")


@pytest.mark.parametrize(
    ("before", "after", "event"),
    [
        (following.initial("dr-1"), replace(following.initial("dr-1"), bootstrap="dr-2"), "other"),
        (following.initial("dr-1"), FOLLOWS, "bootstrap"),
        (FOLLOWS, following.designated(FOLLOWS, B, 2, "n"), "designate"),
        (FOLLOWS, following.line_followed(FOLLOWS, (*LINE, Switch(3, 2, 300))), "line"),
        (FOLLOWS, lease.leaving_set(FOLLOWS, ["dr-3"]), "other"),
        (FOLLOWS, UP, "site-promote"),
        (PRIMARY, DOWN, "site-demote"),
        (UP, lease.reclaimed(UP, [4], "n"), "reclaim"),
    ],
)
def test_each_change_has_its_name(before: LeaseState, after: LeaseState, event: str) -> None:
    assert lease_event(Seen.of(before), Seen.of(after)) == event


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (FOLLOWS, replace(UP, epoch=1), "within an epoch"),
        (PRIMARY, replace(DOWN, epoch=5), "within an epoch"),
        (FOLLOWS, replace(UP, holder=B), "changes its holder"),
        (PRIMARY, replace(DOWN, holder=B), "changes its holder"),
        (FOLLOWS, replace(UP, claimed=2), "claims a timeline"),
        (FOLLOWS, replace(UP, mode="quorum", voters=(B,), k=1), "promoted alone"),
        (PRIMARY, replace(DOWN, voters=(B,), k=1), "neither voters"),
        (PRIMARY, replace(DOWN, claimed=5), "changes the timelines"),
        (FOLLOWS, replace(FOLLOWS, holder=B), "two holders"),
        (FOLLOWS, replace(following.designated(FOLLOWS, B, 2, "n"), claimed=9), "changes the timelines"),
        (following.initial("dr-1"), replace(UP, epoch=1), "epoch 0 of a replica cluster"),
    ],
)
def test_what_no_rule_allows_is_found(before: LeaseState, after: LeaseState, why: str) -> None:
    with pytest.raises(Illegal, match=why):
        lease_event(Seen.of(before), Seen.of(after))
