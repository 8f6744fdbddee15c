"""How a cluster stands, by the contract that kstatus, kubectl wait, Argo CD and Flux read alike."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.decide.conditions import HOPELESS_AFTER, Condition, assess, conditions, of_cluster, standing
from matriarch.decide.facts import Facts, Illness, Memory
from matriarch.decide.lease import Loss
from matriarch.decide.verdict import Standing, Verdict
from matriarch.postgres.timeline import WalPosition

sys.path.insert(0, str(Path(__file__).parent))

from cluster_world import START, World, names, world


def ready(count: int = 3, **wish: object) -> World:
    w = world(count, **wish)
    assert w.settle().verdict.standing is Standing.READY
    return w


@pytest.mark.parametrize(
    ("stands", "expected"),
    [
        (Standing.READY, {"Ready": "True"}),
        (Standing.WORKING, {"Ready": "False", "Reconciling": "True"}),
        (Standing.STALLED, {"Ready": "False", "Stalled": "True"}),
    ],
)
def test_reconciling_and_stalled_exclude_each_other(stands: Standing, expected: dict[str, str]) -> None:
    assert {c.type: c.status for c in standing(Verdict(stands, "Why", "What."))} == expected


@given(st.sampled_from(list(Standing)), st.sampled_from(list(Standing)))
def test_the_time_moves_exactly_with_the_status(first: Standing, second: Standing) -> None:
    before = conditions((), standing(Verdict(first, "A", "a")), 1, "2026-01-01T00:00:00Z")
    after = conditions(before, standing(Verdict(second, "B", "b")), 2, "2026-01-02T00:00:00Z")
    old = {c["type"]: c for c in before}
    for c in after:
        same = c["type"] in old and old[c["type"]]["status"] == c["status"]
        assert (c["lastTransitionTime"] == "2026-01-01T00:00:00Z") == same
        assert c["observedGeneration"] == 2
    assert len({c["type"] for c in after}) == len(after)


def test_a_long_message_is_cut_to_what_the_schema_takes() -> None:
    (made,) = conditions((), [Condition("A", "True", "B", "x" * 5000)], 1, "t")
    assert len(made["message"]) == 4096


def test_available_says_whether_writes_are_taken() -> None:
    w = ready(3)
    plan = w.reconcile()
    kinds = {c.type: c for c in of_cluster(w.facts(), plan.verdict)}
    assert kinds["Available"].status == "True"
    assert kinds["SyncDegraded"].status == "False"
    del w.pods["orders-1"]
    gone = {c.type: c for c in of_cluster(w.facts(), assess(w.facts(), w.memory, None, w.now))}
    assert gone["Available"].status == "False"


def test_a_replica_that_is_away_leaves_the_cluster_available_but_not_ready() -> None:
    w = ready(3)
    w.unready.add("orders-3")
    w.tick()
    verdict = assess(w.facts(), w.memory, None, w.now)
    assert (verdict.standing, verdict.reason) == (Standing.WORKING, "InstancesNotReady")
    assert "orders-3" in verdict.message
    assert {c.type: c.status for c in of_cluster(w.facts(), verdict)}["Available"] == "True"


def test_an_agent_that_has_not_seen_the_configuration_is_waited_for() -> None:
    facts = replace(ready(3).facts(), config_generation=2)
    verdict = assess(facts, Memory(), None, START)
    assert (verdict.standing, verdict.reason) == (Standing.WORKING, "ApplyingConfiguration")


def test_a_failover_under_way_is_no_reason_for_a_person() -> None:
    w = ready(3)
    del w.pods["orders-1"]
    verdict = assess(w.facts(), w.memory, None, w.now)
    assert (verdict.standing, verdict.reason) == (Standing.WORKING, "FailingOver")


def test_a_lost_quorum_needs_a_person_in_the_end() -> None:
    w = ready(3)
    w.pods.clear()
    now = w.now
    memory = replace(w.memory, not_ready_since=now)
    soon = assess(w.facts(), memory, None, now + timedelta(minutes=2))
    late = assess(w.facts(), memory, None, now + HOPELESS_AFTER)
    assert (soon.standing, soon.reason) == (Standing.WORKING, "QuorumLost")
    assert (late.standing, late.reason) == (Standing.STALLED, "QuorumLost")
    assert "0 of 2 voters" in late.message


def test_a_primary_that_acknowledges_alone_is_told() -> None:
    w = ready(2)
    assert w.lease is not None
    w.lease = replace(w.lease, mode="alone", voters=(), k=0)
    kinds = {c.type: c for c in of_cluster(w.facts(), assess(w.facts(), w.memory, None, w.now))}
    assert (kinds["SyncDegraded"].status, kinds["SyncDegraded"].reason) == ("True", "Alone")


def test_advice_is_given_and_taken_back() -> None:
    w = ready(2, advice=("Do not.",))
    verdict = w.reconcile().verdict
    assert "Advice" in {c.type for c in of_cluster(w.facts(), verdict)}
    w.wish = replace(w.wish, advice=())
    assert "Advice" not in {c.type for c in of_cluster(w.facts(), verdict)}


def test_creation_names_what_it_waits_for() -> None:
    w = world(3)
    w.reconcile()
    verdict = assess(w.facts(), w.memory, None, w.now)
    assert verdict.reason == "Creating"
    assert all(n in verdict.message for n in names(3))


def _told(world_: World, name: str, **said: object) -> Facts:
    facts = world_.facts()
    return replace(
        facts,
        instances=tuple(
            replace(i, agent=replace(i.agent, **said)) if i.name == name and i.agent is not None else i  # type: ignore[arg-type]
            for i in facts.instances
        ),
    )


def test_a_full_volume_needs_a_person_until_it_grows() -> None:
    w = ready(3)
    facts = _told(w, "orders-1", volume="full", writes_stopped=True, free_bytes=20 << 20, total_bytes=300 << 20)
    verdict = assess(facts, w.memory, None, w.now)
    assert (verdict.standing, verdict.reason) == (Standing.STALLED, "VolumeFull")
    assert "spec.storage.size" in verdict.message
    assert "20 of 300 MiB" in verdict.message
    kinds = {c.type: c for c in of_cluster(facts, verdict)}
    assert (kinds["Available"].status, kinds["VolumePressure"].status) == ("False", "True")
    larger = replace(facts, wish=replace(facts.wish, storage=2 * facts.wish.storage))
    grows = assess(larger, w.memory, None, w.now)
    assert (grows.standing, grows.reason) == (Standing.WORKING, "VolumeGrowing")


def test_a_replica_that_is_repaired_is_told() -> None:
    w = ready(3)
    verdict = assess(w.facts(), w.memory, None, w.now)
    assert {c.type: c.status for c in of_cluster(w.facts(), verdict)}["ReplicasHealthy"] == "True"
    facts = _told(w, "orders-2", illness=Illness("WalMissing", "its WAL is gone", "clone", "in turn"))
    found = {c.type: c for c in of_cluster(facts, verdict)}["ReplicasHealthy"]
    assert (found.status, found.reason) == ("False", "WalMissing")
    assert found.message == "orders-2: its WAL is gone; remedy: clone (in turn)"


def test_what_replicas_say_of_an_election_is_in_the_status() -> None:
    w = ready(3)
    del w.pods["orders-1"]
    said = "no quorum: 1 of 2 voters answered; orders-2 last seen 12 s ago"
    facts = w.facts()
    told = tuple(
        replace(i, agent=replace(i.agent, refusal=said if i.name == "orders-3" else "")) if i.agent else i
        for i in facts.instances
    )
    verdict = assess(replace(facts, instances=told), w.memory, None, w.now)
    assert verdict.reason == "FailingOver"
    assert f"orders-3 says: {said}." in verdict.message
    few = tuple(replace(i, agent=None) if i.name == "orders-2" else i for i in told)
    lost = assess(replace(facts, instances=few), w.memory, None, w.now)
    assert lost.reason == "QuorumLost"
    assert said in lost.message


def test_a_possible_loss_stays_until_somebody_looked_at_it() -> None:
    w = ready(3)
    assert w.lease is not None
    assert w.lease.holder is not None
    loss = Loss(7, w.lease.holder, WalPosition(1, 3 << 20), WalPosition(1, 1 << 20))
    facts = replace(w.facts(), lease=replace(w.lease, mode="async", k=0, loss=loss))
    found = {c.type: c for c in of_cluster(facts, Verdict(Standing.READY, "AllInstancesReady", ""))}
    assert found["PossibleLoss"].status == "True"
    assert "at least 2 MiB" in found["PossibleLoss"].message
    assert found["SyncDegraded"].status == "True", "the spec asks for quorum"
    seen = replace(facts, wish=replace(facts.wish, loss_seen="7", asynchronous=True))
    after = {c.type: c for c in of_cluster(seen, Verdict(Standing.READY, "AllInstancesReady", ""))}
    assert "PossibleLoss" not in after
    alone = replace(seen, lease=replace(w.lease, mode="alone", voters=(), k=0))
    told = {c.type: c for c in of_cluster(alone, Verdict(Standing.READY, "AllInstancesReady", ""))}
    assert (told["SyncDegraded"].status, told["SyncDegraded"].reason) == ("True", "Alone")
    assert after["SyncDegraded"].status == "False"


def test_a_primary_that_was_lost_after_it_went_on_alone_is_waited_for_and_it_is_said_why() -> None:
    w = ready(3)
    assert w.lease is not None
    facts = replace(w.facts(), lease=replace(w.lease, mode="alone", voters=(), k=0))
    gone = replace(facts, instances=tuple(replace(i, agent=None) for i in facts.instances))
    for age, stands, reason in (
        (timedelta(0), Standing.WORKING, "Starting"),
        (timedelta(minutes=2), Standing.WORKING, "PrimaryMissing"),
        (HOPELESS_AFTER, Standing.STALLED, "PrimaryMissing"),
    ):
        verdict = assess(gone, replace(w.memory, not_ready_since=w.now - age), None, w.now)
        assert (verdict.standing, verdict.reason) == (stands, reason)
