"""Whom a standby may follow, and when it may be rewound."""

from __future__ import annotations

from dataclasses import replace

import pytest

from matriarch.decide.attach import Facts, verdict
from matriarch.decide.lease import LeaseState, Promotion
from matriarch.decide.member import Member
from matriarch.postgres.timeline import Switch, WalPosition

A, B, C = (Member(f"orders-{i}", f"{i}" * 12) for i in (1, 2, 3))
LINE = (Switch(2, 1, 1000), Switch(3, 2, 2000))
LED = LeaseState(epoch=5, holder=B, bootstrap="orders-1", mode="quorum", voters=(A, C), k=1, lineage=LINE, claimed=3)
CLAIMED = replace(LED, epoch=6, promoting=Promotion(4, 3, 3000), claimed=4)


def at(timeline: int, lsn: int, **more: object) -> Facts:
    return replace(Facts(me=A, position=WalPosition(timeline, lsn), lease=LED, promised=5), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("facts", "kind"),
    [
        pytest.param(at(3, 2500), "attach", id="on the holder's timeline"),
        pytest.param(at(2, 2000), "attach", id="just at the fork"),
        pytest.param(at(1, 900), "attach", id="an old ancestor"),
        pytest.param(at(2, 2001), "wait", id="past the fork, and the holder says nothing"),
        pytest.param(at(2, 2001, confirmed=()), "wait", id="past the fork, and no other voter is confirmed"),
        pytest.param(at(2, 2001, confirmed=(C,)), "rewind", id="past the fork, and enough others hold the new"),
        pytest.param(at(2, 2001, confirmed=(), me=Member("orders-1", "new")), "rewind", id="out of the voters"),
        pytest.param(at(2, 2001, confirmed=(), lease=replace(LED, voters=(A,))), "rewind", id="no other voter at all"),
        pytest.param(at(2, 2001, rewind_failed=True), "clone", id="a rewind failed"),
        pytest.param(at(2, 2000, rewind_failed=True), "clone", id="the WAL that it needs is gone"),
        pytest.param(at(2, 2001, confirmed=(), waited=True), "rewind", id="the other voter is away for good"),
        pytest.param(
            at(2, 2001, confirmed=(), waited=True, streaming=(C,)), "wait", id="the other voter is on its way"
        ),
        pytest.param(at(2, 2001, confirmed=None, waited=True), "wait", id="no live holder: never"),
        pytest.param(at(1, 1001, confirmed=(C,)), "rewind", id="past an older fork"),
        pytest.param(at(7, 5000, confirmed=(C,)), "rewind", id="a branch that nobody knows"),
        pytest.param(at(3, 2500, promised=6), "wait", id="a higher epoch is promised"),
        pytest.param(at(3, 3000, lease=CLAIMED), "attach", id="a voter of the election"),
        pytest.param(at(3, 3001, lease=CLAIMED), "wait", id="the old primary: the fork is not known yet"),
        pytest.param(at(2, 1500, lease=CLAIMED), "attach", id="an ancestor meanwhile"),
        pytest.param(
            at(4, 3100, lease=replace(CLAIMED, promoting=Promotion(5, 4, 3200))),
            "attach",
            id="a winner's timeline that was never recorded",
        ),
        pytest.param(
            at(3, 2500, lease=replace(CLAIMED, promoting=Promotion(5, 4, 3200))),
            "wait",
            id="its parent: where it was left is not known yet",
        ),
    ],
)
def test_verdict(facts: Facts, kind: str) -> None:
    assert verdict(facts).kind == kind, verdict(facts)
