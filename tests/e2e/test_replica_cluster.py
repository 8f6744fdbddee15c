"""Another site: it follows, survives its own failovers and the source's, and takes over by a token or by force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.load import Load
from dev.kubectl import Kubectl, KubectlError, wait
from dev.product import Cluster
from tests.e2e.fixtures import Operator
from tests.e2e.inside import Inside, condition_of, wait_condition

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

Object = dict[str, Any]


def site(other: str, namespace: str, *, enabled: bool, **more: Object | str) -> Object:
    """`spec.replica` with the cluster `other` of the same namespace as the other site."""
    source = {"host": f"{other}-rw.{namespace}.svc", "secret": {"name": f"{other}-replica-tls"}}
    return {"enabled": enabled, "source": source, **more}


def addresses(cluster: Cluster, service: str) -> list[str]:
    found = cluster.kubectl.list(
        "endpointslice", cluster.namespace, f"kubernetes.io/service-name={cluster.name}-{service}"
    )
    return [a for s in found for e in s["endpoints"] or [] for a in e["addresses"]]


def designated(cluster: Cluster) -> str:
    return str(cluster.status()["replica"]["designatedPrimary"])


def holder(cluster: Cluster) -> str:
    """The designated primary by the Lease itself."""
    return str(cluster.kubectl.need("lease", cluster.name, cluster.namespace)["spec"]["holderIdentity"])


def rows(cluster: Cluster, instance: str) -> str:
    return Inside(cluster, instance).sql("SELECT count(*) FROM t")


def wait_rows(cluster: Cluster, number: int, *, timeout: float = 60) -> None:
    for instance in cluster.instances():
        what = f"{number} rows at {instance}"
        wait(
            what,
            lambda i=instance: rows(cluster, i) == str(number) or None,  # type: ignore[misc]
            timeout=timeout,
            show=cluster.describe,
        )


def add(cluster: Cluster) -> None:
    cluster.database().execute("INSERT INTO t VALUES (0)")


def force_delete(cluster: Cluster, instance: str) -> None:
    cluster.kubectl.run(
        "delete", "pod", instance, "-n", cluster.namespace, "--grace-period=0", "--force", "--wait=false"
    )


@pytest.fixture
def sites(kubectl: Kubectl, namespace: str) -> tuple[Cluster, Cluster]:
    """`home` with three instances, and its copy `away` with two; each knows the other."""
    home, away = Cluster(kubectl, namespace, "home"), Cluster(kubectl, namespace, "away")
    home.apply(instances=3, replica=site("away", namespace, enabled=False))
    home.wait_ready(timeout=240)
    home.database().execute("CREATE TABLE t (i int)")
    away.apply(instances=2, replica=site("home", namespace, enabled=True))
    away.wait_ready(timeout=240)
    return home, away


def test_the_role_moves_to_the_other_site_and_back(
    sites: tuple[Cluster, Cluster], operator: Operator, artifacts: Path
) -> None:
    home, away = sites
    namespace = home.namespace
    assert condition_of(away, "FollowsSource")["status"] == "True"
    assert condition_of(away, "Available")["reason"] == "ReplicaCluster"
    assert "primary" not in away.status()
    add(home)
    wait_rows(away, 1)
    assert addresses(away, "rw") == []
    for service in ("ro", "r"):
        wait(
            f"both behind -{service}",
            lambda s=service: len(addresses(away, s)) == 2 or None,  # type: ignore[misc]
            timeout=30,
            show=away.describe,
        )
    for instance in away.instances():
        with pytest.raises(KubectlError, match="read-only transaction"):
            Inside(away, instance).sql("INSERT INTO t VALUES (1)")

    # The designated primary is lost, and then the source's primary.
    before = holder(away)
    with operator.away():  # or it would be back before anybody misses it
        force_delete(away, before)
        wait("another designated primary", lambda: holder(away) != before or None, timeout=90)
        away.kubectl.delete("persistentvolumeclaim", before, namespace, "--wait=false")
    add(home)
    away.wait_ready(timeout=240)
    wait_rows(away, 2)
    lost = home.primary
    force_delete(home, lost)
    wait("another primary", lambda: home.status().get("primary") not in (None, lost) or None, timeout=60)
    add(home)
    home.wait_ready(timeout=240)
    wait_rows(away, 3, timeout=120)
    away.wait_ready(timeout=120)

    # Under load the role moves: nothing that was acknowledged is missing.
    with Load(home.database(), artifacts / "load" / "sites.log") as load:
        calm = load.flowing()
        home.patch({"replica": {"enabled": True}})
        token = wait("the token", lambda: home.status().get("demotionToken"), timeout=180, show=home.describe)
        load.stop()
    away.patch({"replica": {"enabled": False, "promotionToken": token}})
    away.wait_ready(timeout=240)
    assert away.status()["primary"]
    load.database = away.database()
    assert load.figures(calm).lost == ()
    add(away)
    home.wait_ready(timeout=300)
    wait_rows(home, 4, timeout=120)
    assert "demotionToken" not in away.status()

    # And back; the token that was used promotes nobody again.
    away.patch({"replica": {"enabled": True, "promotionToken": None}})
    back = wait("the token", lambda: away.status().get("demotionToken"), timeout=180, show=away.describe)
    away.patch({"replica": {"enabled": False, "promotionToken": token}})
    stalled = wait_condition(away, "Stalled", "PromotionRefused", timeout=60)
    assert "a token promotes once" in stalled["message"]
    away.patch({"replica": {"enabled": True, "promotionToken": None}})
    home.patch({"replica": {"enabled": False, "promotionToken": back}})
    home.wait_ready(timeout=240)
    add(home)
    away.wait_ready(timeout=240)
    wait_rows(away, 5, timeout=120)


def test_the_place_is_moved_and_a_promotion_is_refused_waits_or_is_forced(sites: tuple[Cluster, Cluster]) -> None:
    home, away = sites
    before = designated(away)
    other = next(i for i in away.instances() if i != before)
    away.hand_over(other)
    wait("the place is moved", lambda: designated(away) == other or None, timeout=60, show=away.describe)
    add(home)
    wait_rows(away, 1)

    away.patch({"replica": {"enabled": False}})
    stalled = wait_condition(away, "Stalled", "PromotionRefused", timeout=60)
    assert "needs replica.promotionToken" in stalled["message"]
    add(home)
    wait_rows(away, 2)  # it goes on following
    away.patch({"replica": {"promotion": "forced"}})
    away.wait_ready(timeout=240)
    assert away.status()["replica"]["forcedAt"]
    add(away)

    # The old site comes to its senses, with a write that the new one lacks: it keeps it, and says so.
    add(home)
    home.patch({"replica": {"enabled": True}})
    wait("the token", lambda: home.status().get("demotionToken"), timeout=180, show=home.describe)
    wait(
        "what home says",
        lambda: "without its last writes" in home.status().get("replica", {}).get("message", "") or None,
        timeout=180,
        show=home.describe,
    )
    assert rows(home, designated(home)) == "3"
