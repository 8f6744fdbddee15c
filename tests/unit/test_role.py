"""What an agent does next, as a table of every state that a crash can leave, and what must never happen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.decide.lease import CleanStop, LeaseState, Promotion, bootstrapped, filled, initial, suspended
from matriarch.decide.member import Member
from matriarch.decide.role import ELECTION_GRACE, HEIR_GRACE, LISTEN, PROMOTION_FIRST, Facts, next_step

A, B, C = (Member(f"orders-{i}", f"{i}" * 12) for i in (1, 2, 3))
HELD = LeaseState(
    epoch=5, holder=A, bootstrap="orders-1", mode="quorum", voters=(B, C), k=1, system_identifier="7", opened=True
)
LATE = 100 * ELECTION_GRACE


def facts(**given_: object) -> Facts:
    base = Facts(
        instance="orders-1", me=A, data="primary", server="primary", lease=HELD, lease_fresh=True,
        system_identifier="7", authority=5, promised=5, now=LATE,
    )  # fmt: skip
    return replace(base, **given_)  # type: ignore[arg-type]


NEW = initial("orders-1")
HELD_BACK = initial("orders-1", "r1")
FILLED = filled(HELD_BACK, "r1")
SUSPENDED = suspended(HELD, "r1")
REPLACED = filled(SUSPENDED, "r1")
NEWER = bootstrapped(REPLACED, Member("orders-1", "f" * 12), "9", "n")
ELECTED = replace(HELD, promoting=Promotion(2, 1, 100))
ASYNC = replace(HELD, mode="async", k=0)
TAKEN = replace(ELECTED, holder=B, voters=(A, C))
HEIR = replace(HELD, heir=A, holder=B, voters=(A, C), clean_stop=CleanStop(1, 100))


@pytest.mark.parametrize(
    ("f", "kind"),
    [
        pytest.param(facts(lease=None, server="stopped"), "wait", id="no Lease"),
        pytest.param(facts(lease=NEW, me=None, data="none", server="stopped"), "initialize", id="a new cluster"),
        pytest.param(
            facts(lease=NEW, server="stopped", system_identifier="7"), "record-bootstrap", id="initdb is done"
        ),
        pytest.param(
            facts(lease=NEW, instance="orders-2", me=None, data="none", server="stopped"), "wait", id="another begins"
        ),
        pytest.param(
            facts(lease=HELD_BACK, me=None, data="none", server="stopped"), "wait", id="a restore is to fill it"
        ),
        pytest.param(
            facts(lease=HELD_BACK, server="stopped", filled_by="r1"), "wait", id="it did, and nobody said so yet"
        ),
        pytest.param(
            facts(lease=FILLED, me=None, data="none", server="stopped"), "wait", id="said to be filled, and empty"
        ),
        pytest.param(
            facts(lease=FILLED, server="stopped", filled_by="r0"), "wait", id="filled by another restore, long ago"
        ),
        pytest.param(facts(lease=FILLED, server="stopped"), "wait", id="data that no restore made"),
        pytest.param(
            facts(lease=FILLED, data="standby", server="stopped", filled_by="r1"), "wait", id="a copy not at its end"
        ),
        pytest.param(
            facts(lease=FILLED, server="stopped", system_identifier="8", filled_by="r1"),
            "record-bootstrap",
            id="filled by the restore that the Lease names",
        ),
        pytest.param(
            facts(lease=NEW, data="standby", server="stopped"), "wait", id="a standby's data, and a new Lease"
        ),
        pytest.param(facts(), "lead", id="leads"),
        pytest.param(facts(authority=0), "lead", id="the agent restarted, PostgreSQL did not"),
        pytest.param(facts(promise_heard=6), "reclaim", id="an election died half way"),
        pytest.param(facts(server="stopped", authority=0), "reclaim", id="crashed, and no election was possible"),
        pytest.param(
            facts(server="stopped", authority=0, quiet_since=LATE - LISTEN + 1), "wait", id="has just started"
        ),
        pytest.param(
            facts(server="stopped", authority=0, quiet_since=LATE - LISTEN), "reclaim", id="and hears of no election"
        ),
        pytest.param(
            facts(server="stopped", authority=0, promise_heard=6, quiet_since=LATE - LISTEN),
            "wait",
            id="and hears of an election",
        ),
        pytest.param(facts(server="stopped", fenced=5, quiet_since=LATE - 1), "wait", id="said fenced a moment ago"),
        pytest.param(facts(server="stopped", fenced=5), "reclaim", id="said fenced, and nobody took over"),
        pytest.param(facts(server="stopped", fenced=4), "start-primary", id="fenced in an older epoch"),
        pytest.param(
            facts(server="stopped", fenced=5, lease=replace(HELD, heir=B), quiet_since=LATE - HEIR_GRACE),
            "reclaim",
            id="the heir is silent",
        ),
        pytest.param(facts(server="stopped"), "start-primary", id="right after its own swap"),
        pytest.param(facts(server="standby", data="standby", lease=ELECTED), "promote", id="elected"),
        pytest.param(
            facts(server="standby", data="standby", lease=ELECTED, authority=0), "reclaim", id="elected, crashed"
        ),
        pytest.param(
            facts(server="standby", data="standby", lease=ELECTED, authority=0, claiming=True),
            "wait",
            id="elected, and the watch was faster than the answer",
        ),
        pytest.param(facts(server="stopped", data="standby", lease=ELECTED), "start-standby", id="elected, stopped"),
        pytest.param(facts(server="standby", data="standby"), "claim", id="a holder that an older copy made a standby"),
        pytest.param(facts(server="standby", data="standby", authority=0), "reclaim", id="the same, before its swap"),
        pytest.param(
            facts(
                server="standby",
                data="standby",
                lease=replace(HELD, mode="alone", voters=(), k=0),
                single=True,
                lease_fresh=False,
            ),
            "wait",
            id="the same, and the Lease can't be written",
        ),
        pytest.param(facts(me=B, instance="orders-2", data="broken", server="stopped"), "clone", id="a copy is broken"),
        pytest.param(
            facts(me=B, instance="orders-2", data="broken", server="stopped", lease_fresh=False),
            "wait",
            id="it may be the primary's by now",
        ),
        pytest.param(facts(server="primary", lease=ELECTED), "lead", id="promoted, not recorded"),
        pytest.param(facts(server="stopped", lease=ELECTED, timeline=2), "start-primary", id="promoted, crashed"),
        pytest.param(
            facts(server="stopped", lease=ELECTED, timeline=1),
            "start-standby",
            id="a promotion broken off has no record",
        ),
        pytest.param(facts(lease_fresh=False), "wait", id="the copy of the Lease may be old"),
        pytest.param(
            facts(me=B, instance="orders-2", data="standby", server="starting"),
            "follow",
            id="a copy, not consistent yet",
        ),
        pytest.param(facts(me=B, instance="orders-2"), "depose", id="another holds, and this one runs as primary"),
        pytest.param(facts(me=B, instance="orders-2", server="starting"), "depose", id="and starts as primary"),
        pytest.param(facts(me=B, instance="orders-2", server="stopped"), "start-standby", id="another holds"),
        pytest.param(facts(server="stopped", lease=TAKEN, epoch_seen=LATE - 1), "wait", id="its successor promotes"),
        pytest.param(
            facts(server="stopped", lease=TAKEN, epoch_seen=LATE - PROMOTION_FIRST),
            "start-standby",
            id="its successor promotes for long",
        ),
        pytest.param(
            facts(server="stopped", lease=replace(TAKEN, promoting=None), epoch_seen=LATE - 1),
            "start-standby",
            id="its successor is promoted",
        ),
        pytest.param(
            facts(server="stopped", lease=replace(TAKEN, voters=(A,)), epoch_seen=LATE - 1),
            "start-standby",
            id="its successor needs it",
        ),
        pytest.param(
            facts(server="stopped", data="standby", lease=TAKEN, epoch_seen=LATE - 1),
            "start-standby",
            id="a standby that was stopped",
        ),
        pytest.param(facts(me=None, instance="orders-2", data="none", server="stopped"), "clone", id="a new member"),
        pytest.param(facts(me=B, instance="orders-2", data="broken", server="stopped"), "clone", id="a broken rewind"),
        pytest.param(facts(me=B, instance="orders-2", data="standby", server="standby"), "follow", id="a standby"),
        pytest.param(facts(data="standby", server="standby", lease=HEIR), "inherit", id="the heir"),
        pytest.param(facts(system_identifier="8"), "wait", id="the volume is of another database"),
        pytest.param(
            facts(me=Member("orders-1", "other"), server="stopped", data="none"), "clone", id="the volume was lost"
        ),
        pytest.param(
            facts(lease=ASYNC, server="stopped", authority=0), "reclaim", id="async: crashed, started where it is"
        ),
        pytest.param(
            facts(lease=ASYNC, server="stopped", authority=0, gives_way=True), "wait", id="async: it does not come up"
        ),
        pytest.param(facts(lease=ASYNC, gives_way=True), "lead", id="async: it serves"),
        pytest.param(
            facts(lease=ASYNC, server="stopped", fenced=5, quiet_since=LATE - 1), "wait", id="async: said fenced"
        ),
        pytest.param(facts(lease=ASYNC, server="stopped", lease_fresh=False), "wait", id="async: no API server"),
        pytest.param(
            facts(
                single=True,
                lease=replace(HELD, mode="alone", voters=(), k=0),
                lease_fresh=False,
                authority=0,
                server="stopped",
            ),
            "start-primary",
            id="a single instance needs no API server",
        ),
        pytest.param(
            facts(single=True, lease=replace(HELD, mode="alone", voters=(), k=0), authority=0, server="stopped"),
            "reclaim",
            id="but takes it where it is",
        ),
    ],
)
def test_next_step(f: Facts, kind: str) -> None:
    assert next_step(f).kind == kind, next_step(f)


GONE = {"server": "stopped", "data": "none", "me": None, "system_identifier": ""}


@pytest.mark.parametrize(
    ("f", "kind"),
    [
        pytest.param(facts(lease=SUSPENDED), "halt", id="the primary"),
        pytest.param(facts(lease=SUSPENDED, server="starting"), "halt", id="one that starts"),
        pytest.param(facts(lease=SUSPENDED, me=B, instance="orders-2", server="standby"), "halt", id="a standby"),
        pytest.param(facts(lease=SUSPENDED, server="stopped"), "wait", id="it stopped"),
        pytest.param(facts(lease=SUSPENDED, server="stopped", authority=0, promised=9), "wait", id="no reclaim"),
        pytest.param(facts(lease=SUSPENDED, server="stopped", beside=("r1",)), "wait", id="prepared, and not said"),
        pytest.param(facts(lease=SUSPENDED, **GONE), "wait", id="a volume that is lost is not cloned now"),
        pytest.param(facts(lease=REPLACED, server="stopped", beside=("r1",)), "exchange", id="it counts"),
        pytest.param(facts(lease=REPLACED, beside=("r1",)), "halt", id="it counts, and something still runs"),
        pytest.param(facts(lease=REPLACED, beside=("r1",), **GONE), "exchange", id="killed between the two renames"),
        pytest.param(
            facts(lease=REPLACED, server="stopped", beside=("r1",), lease_fresh=False), "wait", id="only a copy says so"
        ),
        pytest.param(
            facts(lease=REPLACED, server="stopped", beside=("r1",), epoch_heard=6), "wait", id="a peer knows better"
        ),
        pytest.param(facts(lease=REPLACED, server="stopped", beside=("r0",)), "wait", id="that of another restore"),
        pytest.param(facts(lease=REPLACED, server="stopped"), "wait", id="said to be there, and it is not"),
        pytest.param(facts(lease=REPLACED, **GONE), "wait", id="never initdb"),
        pytest.param(
            facts(lease=REPLACED, server="stopped", filled_by="r1", system_identifier="9"),
            "record-bootstrap",
            id="exchanged, and not recorded",
        ),
        pytest.param(facts(lease=REPLACED, server="stopped", filled_by="r1", data="standby"), "wait", id="a standby's"),
        pytest.param(facts(lease=REPLACED, me=B, instance="orders-2", server="stopped"), "wait", id="another begins"),
        pytest.param(
            facts(lease=NEWER, me=B, instance="orders-2", server="stopped", authority=0), "clone", id="of before"
        ),
        pytest.param(
            facts(lease=NEWER, me=B, instance="orders-2", server="standby", data="standby"), "depose", id="it runs"
        ),
        pytest.param(
            facts(lease=NEWER, me=B, instance="orders-2", server="stopped", lease_fresh=False), "wait", id="not read"
        ),
        pytest.param(
            facts(lease=NEWER, me=B, instance="orders-2", server="stopped", epoch_heard=7), "wait", id="late Lease"
        ),
        pytest.param(facts(lease=NEWER, server="stopped"), "wait", id="the primary's own volume was put back"),
        pytest.param(
            facts(lease=NEWER, me=B, instance="orders-2", server="stopped", system_identifier="8"),
            "wait",
            id="a stranger's data is never wiped",
        ),
        pytest.param(
            facts(
                single=True,
                lease=replace(HELD, mode="alone", voters=(), k=0),
                lease_fresh=False,
                authority=0,
                server="stopped",
                beside=("r1",),
            ),
            "wait",
            id="by the copy on its volume no single instance chooses between two",
        ),
    ],
)
def test_a_restore_in_place(f: Facts, kind: str) -> None:
    assert next_step(f).kind == kind, next_step(f)


@pytest.mark.parametrize(
    "f",
    [
        pytest.param(facts(server="stopped", authority=0), id="named by a Lease that was restored"),
        pytest.param(facts(server="stopped"), id="although it swapped itself"),
        pytest.param(facts(server="standby", data="standby", lease=ELECTED), id="elected by one"),
        pytest.param(facts(data="standby", server="standby", lease=HEIR), id="its heir"),
        pytest.param(facts(me=None, instance="orders-2", data="none", server="stopped"), id="a new member"),
    ],
)
def test_nothing_lasting_is_done_by_a_lease_of_which_a_peer_knows_a_newer_one(f: Facts) -> None:
    assert next_step(f).kind != "wait"
    assert next_step(replace(f, epoch_heard=5)).kind == next_step(f).kind
    assert next_step(replace(f, epoch_heard=6)).kind == "wait"


def test_whoever_runs_deposed_is_ended_whatever_peers_know() -> None:
    assert next_step(facts(me=B, instance="orders-2", epoch_heard=6)).kind == "depose"


any_facts = st.builds(
    Facts, instance=st.just("orders-1"), me=st.sampled_from([None, A, Member("orders-1", "other")]),
    data=st.sampled_from(["none", "primary", "standby", "broken"]),
    server=st.sampled_from(["stopped", "starting", "primary", "standby"]),
    lease=st.sampled_from(
        [None, NEW, HELD, ELECTED, HEIR, TAKEN, replace(HELD, holder=B, voters=(A, C)), SUSPENDED, REPLACED, NEWER]
    ),
    filled_by=st.sampled_from(["", "r0", "r1"]), beside=st.sampled_from([(), ("r0",), ("r1",), ("r0", "r1")]),
    lease_fresh=st.booleans(), system_identifier=st.sampled_from(["", "7", "8"]), authority=st.integers(0, 6),
    promised=st.integers(0, 7), promise_heard=st.integers(0, 7), fenced=st.integers(0, 5), single=st.booleans(),
    now=st.just(LATE), quiet_since=st.sampled_from([0, LATE]), claiming=st.booleans(),
    epoch_seen=st.sampled_from([0, LATE]),
)  # fmt: skip


@given(any_facts)
def test_nothing_starts_as_primary_but_what_the_lease_names_right_after_an_own_swap(f: Facts) -> None:
    step = next_step(f)
    if step.kind in ("start-primary", "promote"):
        assert f.lease is not None
        assert f.lease.holder == f.me
        assert f.fenced < f.lease.epoch or (f.single and f.lease.mode == "alone")
        assert f.authority == f.lease.epoch
        assert max(f.promised, f.promise_heard) <= f.lease.epoch
    if step.kind == "initialize":
        assert f.data == "none"
        assert f.lease == NEW
    if step.kind == "clone":
        # what may hold data is rewound or asked about, never wiped here, but for what a restore replaced
        assert f.data in ("none", "broken") or (f.lease is not None and f.system_identifier in f.lease.replaced)
    if f.lease is not None and f.lease.epoch and f.lease.filling is not None:
        assert step.kind in ("halt", "wait", "exchange", "record-bootstrap")
        assert step.kind != "exchange" or ("r1" in f.beside and f.lease.filling.done and f.server == "stopped")
        assert step.kind != "record-bootstrap" or f.filled_by == "r1"
    if f.server == "primary" and f.lease is not None and f.lease.epoch and f.lease.holder != f.me:
        assert step.kind in ("depose", "wait", "halt")
