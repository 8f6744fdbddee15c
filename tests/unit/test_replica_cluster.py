"""What the controller makes of a replica cluster: its Lease, its Pods, how it stands and what it says."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from matriarch.api.database_cluster import DatabaseCluster
from matriarch.api.defaults import fill
from matriarch.decide import replica_cluster
from matriarch.decide.actions import BeginSwitchover, CreateLease
from matriarch.decide.conditions import of_cluster
from matriarch.decide.facts import Agent, Claim, Facts, Instance, Memory, Pod, Site, Stream, Wish
from matriarch.decide.following import bootstrapped, initial, promoted
from matriarch.decide.lease import LeaseState
from matriarch.decide.member import Member
from matriarch.decide.topology import decide
from matriarch.decide.verdict import Standing
from matriarch.postgres.timeline import WalPosition
from matriarch.resources.blueprint import Blueprint
from matriarch.resources.config import config
from matriarch.resources.pod import pod, pod_hash
from tests.api_cases import DEMOTION_TOKEN, REPLICA, manifest

NOW = datetime(2026, 1, 1, tzinfo=UTC)
A, B = Member("dr-1", "a"), Member("dr-2", "b")
FOLLOWS = bootstrapped(initial("dr-1"), A, "7", (), "n")
STREAMS = Site(streaming=True)


def instance(
    member: Member, *, site: Site | None = None, streams: tuple[Member, ...] = (), ready: bool = True
) -> Instance:
    return Instance(
        member.instance,
        "v1",
        Pod(f"uid-{member.instance}", "v1", running=True, ready=ready, node="n", ip="10.0.0.1"),
        Claim(f"claim-{member.instance}", 1),
        Agent(
            role="replica",
            state="running",
            ready=ready,
            incarnation=member.incarnation,
            site=site,
            streams=tuple(Stream(m.instance, m.incarnation, "streaming", 0) for m in streams),
        ),
    )


def facts(lease: LeaseState | None = FOLLOWS, site: Site | None = STREAMS, **wish: object) -> Facts:
    fields: dict[str, object] = {"number": 1, "storage": 1, "replica": True, "source": "orders-rw", **wish}
    return Facts(
        Wish("dr", ("dr-1", "dr-2"), **fields),  # type: ignore[arg-type]  # fields of Wish by name
        (instance(A, site=site, streams=(B,)), instance(B)),
        lease,
        memory=Memory(holder="dr-1", system_identifier="7"),
    )


def test_a_new_replica_cluster_gets_a_lease_that_lets_nobody_initialise() -> None:
    wish = replace(facts().wish)
    (made,) = [a for a in decide(Facts(wish, ()), NOW).actions if isinstance(a, CreateLease)]
    assert made == CreateLease("dr-1", follow=True)
    (made,) = [a for a in decide(Facts(replace(wish, replica=False), ()), NOW).actions if isinstance(a, CreateLease)]
    assert made == CreateLease("dr-1")


def test_it_is_ready_when_all_stream_and_takes_no_writes() -> None:
    plan = decide(facts(), NOW)
    assert (plan.verdict.standing, plan.verdict.message) == (
        Standing.READY,
        "dr-1 follows orders-rw, 1 replica is ready.",
    )
    assert plan.actions == ()
    said = {c.type: c for c in [*of_cluster(facts(), plan.verdict), *replica_cluster.conditions(facts())]}
    assert (said["Available"].status, said["Available"].reason) == ("False", "ReplicaCluster")
    assert (said["FollowsSource"].status, said["FollowsSource"].reason) == ("True", "Streaming")
    assert said["ReplicasHealthy"].status == "True"
    assert "SyncDegraded" not in said


@pytest.mark.parametrize(
    ("f", "standing", "reason", "words"),
    [
        (facts(initial("dr-1")), Standing.WORKING, "Creating", "Copying orders-rw"),
        (facts(site=Site(problem="no route")), Standing.WORKING, "SourceAway", "from orders-rw: no route."),
        (facts(site=None), Standing.WORKING, "SourceAway", "the stream begins"),
        (facts(replica=False), Standing.WORKING, "Promoting", "is to be promoted"),
        (
            facts(replica=False, site=Site(promotion="wait", message="waiting for X")),
            Standing.WORKING,
            "Promoting",
            "X",
        ),
        (
            facts(replica=False, site=Site(promotion="refuse", message="spent")),
            Standing.STALLED,
            "PromotionRefused",
            "t",
        ),
        (facts(source=""), Standing.STALLED, "InvalidSpec", "spec.replica is gone"),
        (facts(replace(FOLLOWS, mode="alone", opened=True)), Standing.WORKING, "Demoting", "to follow orders-rw"),
        (
            facts(replace(FOLLOWS, mode="alone", opened=True), site=Site(promotion="refuse", message="other")),
            Standing.STALLED,
            "DemotionRefused",
            "other",
        ),
    ],
)
def test_what_it_says_when_not_all_is_well(f: Facts, standing: Standing, reason: str, words: str) -> None:
    verdict = decide(f, NOW).verdict
    assert (verdict.standing, verdict.reason) == (standing, reason)
    assert words in verdict.message


def test_a_designated_primary_that_is_away_is_said() -> None:
    away = replace(facts(), instances=(replace(facts().instances[0], agent=None), facts().instances[1]))
    assert decide(away, NOW).verdict.reason == "DesignatedPrimaryAway"
    (_, followed) = replica_cluster.conditions(away)
    assert (followed.status, followed.reason) == ("False", "NoStream")


def test_after_the_promotion_it_is_a_cluster_like_any_other() -> None:
    lease = promoted(FOLLOWS, 2, WalPosition(1, 9), "n", None)
    assert decide(facts(lease, replica=False), NOW).verdict.reason == "Creating"
    assert not facts(lease).follows


def test_the_place_can_be_moved_and_is_moved_before_the_last_pod_is_replaced() -> None:
    (asked,) = [a for a in decide(facts(primary="dr-2"), NOW).actions if isinstance(a, BeginSwitchover)]
    assert asked == BeginSwitchover("dr-1", "dr-2", "spec.primary")
    old = facts()
    last = replace(old, instances=(replace(old.instances[0], wanted_hash="v2"), old.instances[1]))
    (moved,) = [a for a in decide(last, NOW).actions if isinstance(a, BeginSwitchover)]
    assert moved == BeginSwitchover("dr-1", "dr-2", "rolling update")


def blueprint(**change: object) -> Blueprint:
    read = DatabaseCluster.model_validate(manifest("DatabaseCluster", change))  # type: ignore[arg-type]
    return Blueprint(read, fill("orders", read.spec), "image")


def test_a_cluster_without_another_site_has_the_pod_and_the_configuration_that_it_had() -> None:
    made = pod(blueprint(), "orders-1", "uid")
    assert all(v["name"] != "source" for v in made["spec"]["volumes"])
    assert "replica" not in config(blueprint(), "orders-1")["data"]["cluster.json"]


def test_a_promotion_replaces_no_pod_and_tells_the_agents() -> None:
    before = blueprint(replica=REPLICA)
    after = blueprint(replica={**REPLICA, "enabled": False, "promotionToken": DEMOTION_TOKEN})
    assert pod_hash(before, "orders-1") == pod_hash(after, "orders-1") != pod_hash(blueprint(), "orders-1")
    mounts = pod(before, "orders-1", "uid")["spec"]["containers"][0]["volumeMounts"]
    assert {"name": "source", "mountPath": "/etc/matriarch/source", "readOnly": True} in mounts
    text = config(after, "orders-1")["data"]["cluster.json"]
    assert DEMOTION_TOKEN in text
    assert '"user": "matriarch_replica"' in text
