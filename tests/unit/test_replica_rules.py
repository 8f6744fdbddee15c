"""A replica cluster's decisions: whom it follows, who is designated, and when it may be promoted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.decide import attach, designation, promotion, source, token
from matriarch.decide.designation import AWAY, TURN
from matriarch.decide.election import Sight, Voter, would_promise
from matriarch.decide.following import bootstrapped, demoted, initial, promoted
from matriarch.decide.lease import LeaseState
from matriarch.decide.member import Member
from matriarch.decide.promotion import Wish
from matriarch.decide.role import Facts, next_step
from matriarch.decide.site import Site
from matriarch.decide.token import Token
from matriarch.postgres.timeline import Switch, WalPosition

A, B, C = (Member(f"dr-{i}", f"{i}" * 12) for i in (1, 2, 3))
LINE = (Switch(2, 1, 100),)
FOLLOWS = replace(bootstrapped(initial("dr-1"), A, "7", LINE, "n"), epoch=5)
TOKEN = Token("7", 2, 500, 4, "prod/orders", "n1")
TEXT = token.encode(TOKEN)
HERE = WalPosition(2, 620)


# --- the step -----------------------------------------------------------------------------------------------------


def facts(**given_: object) -> Facts:
    base = Facts(
        instance="dr-1", me=A, data="standby", server="standby", lease=FOLLOWS, lease_fresh=True, system_identifier="7"
    )
    return replace(base, **given_)  # type: ignore[arg-type]


NEW = initial("dr-1")


@pytest.mark.parametrize(
    ("f", "kind"),
    [
        pytest.param(facts(lease=NEW, me=None, data="none", server="stopped"), "clone-source", id="a new cluster"),
        pytest.param(facts(lease=NEW, data="broken", server="stopped"), "clone-source", id="the copy is damaged"),
        pytest.param(facts(lease=NEW, server="stopped"), "record-copy", id="copied, not recorded"),
        pytest.param(facts(lease=NEW, data="primary", server="stopped"), "wait", id="somebody's data"),
        pytest.param(
            facts(lease=NEW, instance="dr-2", me=None, data="none", server="stopped"), "wait", id="another begins"
        ),
        pytest.param(facts(server="stopped"), "start-standby", id="restarted"),
        pytest.param(facts(server="stopped", data="primary"), "start-standby", id="demoted, or an old primary"),
        pytest.param(facts(server="stopped", data="primary", authority=5), "start-standby", id="whatever it swapped"),
        pytest.param(facts(), "follow-source", id="designated"),
        pytest.param(facts(server="starting"), "follow-source", id="designated, not consistent yet"),
        pytest.param(facts(instance="dr-2", me=B), "follow", id="cascades"),
        pytest.param(facts(instance="dr-2", me=B, server="starting"), "follow", id="not consistent yet"),
        pytest.param(facts(instance="dr-2", me=None, data="none", server="stopped"), "clone", id="a new member"),
        pytest.param(
            facts(me=Member("dr-1", "other"), data="none", server="stopped"), "clone-source", id="its volume is new"
        ),
        pytest.param(facts(me=Member("dr-1", "other")), "wait", id="takes its own place back"),
        pytest.param(facts(data="broken", server="stopped"), "clone-source", id="a rewind died"),
        pytest.param(facts(server="primary", data="primary"), "depose", id="never primary"),
        pytest.param(facts(server="starting", data="primary"), "depose", id="never about to be"),
        pytest.param(facts(system_identifier="8"), "wait", id="another system"),
    ],
)
def test_what_an_instance_does(f: Facts, kind: str) -> None:
    assert next_step(f).kind == kind


PRIMARY_STEPS = {"initialize", "record-bootstrap", "reclaim", "start-primary", "promote", "lead", "inherit"}


@given(
    st.builds(
        facts,
        me=st.sampled_from([None, A, B, Member("dr-1", "other")]),
        data=st.sampled_from(["none", "primary", "standby", "broken"]),
        server=st.sampled_from(["stopped", "starting", "primary", "standby"]),
        lease=st.sampled_from([NEW, FOLLOWS, replace(FOLLOWS, holder=B), replace(FOLLOWS, site=Site(TEXT))]),
        lease_fresh=st.booleans(),
        authority=st.integers(0, 6),
        fenced=st.integers(0, 6),
        promised=st.integers(0, 9),
        promise_heard=st.integers(0, 9),
        single=st.booleans(),
    )
)
def test_no_crash_makes_a_primary_of_a_replica_cluster(f: Facts) -> None:
    step = next_step(f)
    assert step.kind not in PRIMARY_STEPS
    if f.server == "primary":
        assert step.kind == "depose"


def test_nobody_is_elected() -> None:
    voter = Voter(B, FOLLOWS, 0, Sight(now=10**12, started=0, gone=True))
    assert not would_promise(voter, 6).yes


# --- the source ---------------------------------------------------------------------------------------------------

SOURCE = source.Source("7", 2, LINE)
DEMOTED = replace(FOLLOWS, site=Site(demoted=TEXT))


@pytest.mark.parametrize(
    ("position", "lease", "says", "kind"),
    [
        pytest.param(HERE, FOLLOWS, SOURCE, "attach", id="the same timeline"),
        pytest.param(WalPosition(1, 90), FOLLOWS, SOURCE, "attach", id="before the fork"),
        pytest.param(WalPosition(1, 101), FOLLOWS, SOURCE, "rewind", id="a failover of the source left it ahead"),
        pytest.param(HERE, FOLLOWS, replace(SOURCE, system_identifier="8"), "wait", id="another database"),
        pytest.param(WalPosition(3, 700), FOLLOWS, SOURCE, "wait", id="an older server"),
        pytest.param(
            HERE, DEMOTED, source.Source("7", 5, (*LINE, Switch(5, 2, 620))), "attach", id="demoted, and the next leads"
        ),
        pytest.param(
            HERE, DEMOTED, source.Source("7", 25, (*LINE, Switch(25, 2, 400))), "wait", id="the next was forced"
        ),
        pytest.param(
            WalPosition(5, 900),
            DEMOTED,
            source.Source("7", 6, (*LINE, Switch(5, 2, 620), Switch(6, 5, 800))),
            "rewind",
            id="all that this cluster wrote is there",
        ),
    ],
)
def test_what_the_designated_primary_does(
    position: WalPosition, lease: LeaseState, says: source.Source, kind: str
) -> None:
    found = source.verdict(position, lease, says, "7")
    assert found.kind == kind
    assert (kind == "attach") == (not found.why)


def test_the_others_go_where_the_designated_primary_went() -> None:
    line = (*LINE, Switch(5, 2, 600))
    lease = replace(FOLLOWS, lineage=line, claimed=5)

    def kind(position: WalPosition) -> str:
        return attach.verdict(attach.Facts(B, position, lease, promised=0)).kind

    assert kind(WalPosition(2, 600)) == "attach"
    assert kind(WalPosition(5, 700)) == "attach"
    assert kind(WalPosition(2, 601)) == "rewind"
    assert kind(WalPosition(6, 800)) == "wait"  # it came with the stream, and is not recorded yet


# --- the designated primary ---------------------------------------------------------------------------------------

AT = {A: WalPosition(2, 100), B: WalPosition(2, 90), C: WalPosition(2, 95)}


def designated(me: Member, silent: int, **given_: object) -> bool:
    base = designation.Facts(me, FOLLOWS, silent, {B: AT[B], C: AT[C]})
    return designation.stands(replace(base, **given_))  # type: ignore[arg-type]


def test_the_one_with_most_goes_first_and_the_others_after_it() -> None:
    assert not designated(C, AWAY - 1)
    assert designated(C, AWAY)
    assert not designated(B, AWAY)
    assert designated(B, AWAY + TURN)
    assert designated(B, AWAY, standbys={B: AT[B]})
    assert designated(B, AWAY, standbys={B: AT[C], C: AT[C]}, priorities={"dr-2": 101})


def test_who_must_not_stand() -> None:
    late = 100 * AWAY
    assert not designated(A, late, standbys=AT)  # holds it
    assert not designated(B, late, standbys={C: AT[C]})  # cannot follow
    assert not designated(B, late, lease=replace(FOLLOWS, leaving=("dr-2",)))
    assert not designated(B, late, lease=replace(FOLLOWS, mode="alone"))


def test_a_new_volume_of_the_holder_need_not_wait_for_itself() -> None:
    again = Member("dr-1", "new")
    assert designated(again, 0, standbys={again: AT[A]})


@given(st.dictionaries(st.sampled_from([A, B, C]), st.builds(WalPosition, st.integers(1, 3), st.integers(0, 9))))
def test_somebody_stands_in_the_end(at: dict[Member, WalPosition]) -> None:
    free = {m: p for m, p in at.items() if m != A}
    ready = [m for m in free if designated(m, AWAY, standbys=free)]
    assert len(ready) == (1 if free else 0)
    assert all(designated(m, AWAY + 2 * TURN, standbys=free) for m in free)


# --- promotion ----------------------------------------------------------------------------------------------------

BY_TOKEN = Wish(enabled=False, token=TEXT)
FORCED = Wish(enabled=False, forced=True)


def wants(**given_: object) -> promotion.Verdict:
    base = promotion.Facts(FOLLOWS, BY_TOKEN, HERE, replayed=620)
    return promotion.verdict(replace(base, **given_))  # type: ignore[arg-type]


SPENT = replace(FOLLOWS, site=Site(spent=(token.digest(TEXT),)))


@pytest.mark.parametrize(
    ("given_", "kind", "said"),
    [
        ({}, "promote", "everything up to the demotion"),
        ({"wish": Wish(enabled=True, token=TEXT, forced=True)}, "none", ""),
        ({"lease": replace(FOLLOWS, mode="alone")}, "none", ""),
        ({"lease": initial("dr-1")}, "none", ""),
        ({"wish": Wish(enabled=False)}, "refuse", "needs replica.promotionToken"),
        ({"wish": Wish(enabled=False, token="orders")}, "refuse", "is not a demotion token"),
        ({"wish": Wish(enabled=False, token=TEXT[:-1])}, "refuse", "checksum is wrong"),
        ({"lease": SPENT}, "refuse", "a token promotes once"),
        ({"lease": DEMOTED}, "refuse", "is this cluster's own"),
        ({"lease": replace(FOLLOWS, system_identifier="8")}, "refuse", "is a copy of 8"),
        ({"replayed": 500}, "wait", "waiting for the last write of prod/orders, at 0/1F4 on timeline 2"),
        ({"position": WalPosition(2, 400), "replayed": 400}, "wait", "replayed up to 0/190"),
        ({"position": WalPosition(1, 90), "replayed": 90, "lease": replace(FOLLOWS, lineage=())}, "wait", "waiting"),
        (
            {"position": WalPosition(3, 800), "lease": replace(FOLLOWS, lineage=(*LINE, Switch(3, 2, 620)))},
            "refuse",
            "of an older demotion",
        ),
        (
            {"position": WalPosition(3, 800), "lease": replace(FOLLOWS, lineage=(*LINE, Switch(3, 2, 300)))},
            "refuse",
            "of an older demotion",
        ),
        ({"wish": FORCED, "lease": SPENT}, "promote", "forced at 0/26C on timeline 2: what the source wrote after"),
        ({"wish": FORCED, "lease": DEMOTED, "replayed": 0}, "promote", "is lost here"),
    ],
)
def test_when_it_may_be_promoted(given_: dict[str, object], kind: str, said: str) -> None:
    found = wants(**given_)
    assert found.kind == kind
    assert said in found.why


def test_a_promotion_that_is_allowed_can_be_written_and_is_not_asked_for_again() -> None:
    for wish in (BY_TOKEN, FORCED):
        found = wants(wish=wish)
        state = promoted(FOLLOWS, 6, HERE, "n", found.token)
        assert wants(lease=state, wish=wish).kind == "none"
        settled = replace(state, promoting=None, lineage=(*LINE, Switch(state.claimed, 2, 620)))
        own = Token("7", state.claimed, 900, state.claimed, "prod/dr", "n2")
        down = demoted(settled, 7, own, "n")
        again = wants(lease=down, wish=BY_TOKEN, position=WalPosition(state.claimed, 950), replayed=950)
        assert again.kind == "refuse"
