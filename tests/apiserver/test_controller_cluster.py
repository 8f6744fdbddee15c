"""A DatabaseCluster reconciled against a real API server: its objects, its status, and what survives it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dev.kubectl import Kubectl, KubectlError
from matriarch.controller import pki
from matriarch.decide.leasetext import from_manifest
from matriarch.errors import Unavailable
from matriarch.kube.errors import Forbidden, Invalid
from matriarch.resources import names
from tests.apiserver.cluster_world import ClusterWorld, Dying, cluster_world, definitions, install

__all__ = ["cluster_world", "definitions"]

KEPT = {"Pod", "PersistentVolumeClaim", "Lease"}
KEPT_SECRETS = {"orders-ca", "orders-app", "orders-superuser"}

EXPECTED = {
    *(("Pod", f"orders-{i}") for i in (1, 2, 3)),
    *(("PersistentVolumeClaim", f"orders-{i}") for i in (1, 2, 3)),
    *(("EndpointSlice", n) for n in ("orders-rw", "orders-ro", "orders-r", "orders-1", "orders-2", "orders-3")),
    *(("Service", n) for n in ("orders-rw", "orders-ro", "orders-r", "orders-members")),
    *(("Secret", n) for n in ("orders-ca", "orders-app", "orders-backup-tls", "orders-replica-tls")),
    *(("Secret", f"orders-{i}-tls") for i in (1, 2, 3)),
    *((k, n) for k in ("ServiceAccount", "Role", "RoleBinding") for n in ("orders", "orders-backup")),
    ("Lease", "orders"),
    ("ConfigMap", "orders-config"),
    ("PodDisruptionBudget", "orders"),
}


async def test_one_round_makes_everything(cluster_world: ClusterWorld) -> None:
    made = await cluster_world.create()
    await cluster_world.reconcile()
    objects = await cluster_world.objects()
    assert set(objects) == EXPECTED
    for (kind, name), obj in objects.items():
        owners = [o["uid"] for o in obj["metadata"].get("ownerReferences") or ()]
        kept = kind in KEPT or name in KEPT_SECRETS
        assert owners == ([] if kept else [made["metadata"]["uid"]]), (kind, name)
        for key, value in names.labels("orders").items():
            assert obj["metadata"]["labels"][key] == value
    lease = from_manifest(objects["Lease", "orders"]).state
    assert (lease.epoch, lease.bootstrap, lease.holder) == (0, "orders-1", None)


async def test_a_second_round_writes_nothing(cluster_world: ClusterWorld) -> None:
    await cluster_world.create()
    await cluster_world.reconcile(2)
    before = {k: o["metadata"]["resourceVersion"] for k, o in (await cluster_world.objects()).items()}
    resource = (await cluster_world.resource())["metadata"]["resourceVersion"]
    cluster_world.kube.changes = 0
    await cluster_world.reconcile(2)
    assert cluster_world.kube.changes == 0
    assert {k: o["metadata"]["resourceVersion"] for k, o in (await cluster_world.objects()).items()} == before
    assert (await cluster_world.resource())["metadata"]["resourceVersion"] == resource


POOLER = {
    *((k, f"orders-pooler-{d}") for k in ("Deployment", "Service", "PodDisruptionBudget") for d in ("rw", "ro")),
    *((k, "orders-pooler") for k in ("ServiceAccount", "Role", "RoleBinding", "ConfigMap")),
    ("Secret", "orders-pooler-tls"),
}


async def test_a_pooler_comes_changes_and_goes(cluster_world: ClusterWorld) -> None:
    await cluster_world.create(pooler={"mode": "both", "resources": {"requests": {"cpu": "0.1", "memory": "0.1Gi"}}})
    await cluster_world.reconcile(2)
    objects = await cluster_world.objects()
    assert set(objects) == EXPECTED | POOLER
    leaf = pki.describe(pki.text(objects["Secret", "orders-pooler-tls"], "tls.crt"))
    assert leaf is not None
    assert f"orders-pooler-rw.{cluster_world.namespace}.svc" in leaf.hosts
    app = objects["Secret", "orders-app"]
    host = f"orders-pooler-rw.{cluster_world.namespace}.svc"
    assert pki.text(app, "pooler-uri") == f"postgresql://app:{pki.text(app, 'password')}@{host}:5432/app"
    status = (await cluster_world.resource())["status"]
    assert status["endpoints"]["pooledWrite"] == host
    assert status["effective"]["pooler"]["maxConnections"] == 10
    condition = next(c for c in status["conditions"] if c["type"] == "PoolerAvailable")
    assert (condition["status"], condition["reason"]) == ("False", "NoPod")
    cluster_world.kube.changes = 0
    await cluster_world.reconcile(2)  # amounts in another spelling are no difference
    assert cluster_world.kube.changes == 0

    await cluster_world.change(pooler={"mode": "rw", "instances": 1, "maxConnections": 20})
    await cluster_world.reconcile(2)
    objects = await cluster_world.objects()
    gone = {("PodDisruptionBudget", "orders-pooler-rw")}
    assert {k for k in objects if "pooler" in k[1]} == {k for k in POOLER if not k[1].endswith("-ro")} - gone
    assert "default_pool_size = 20" in objects["ConfigMap", "orders-pooler"]["data"]["pgbouncer-rw.ini"]
    assert objects["Deployment", "orders-pooler-rw"]["spec"]["replicas"] == 1

    await cluster_world.change(pooler=None)
    await cluster_world.reconcile(2)
    objects = await cluster_world.objects()
    assert set(objects) == EXPECTED
    assert not [key for key in objects["Secret", "orders-app"]["data"] if key.startswith("pooler")]


async def test_pods_know_their_volume_and_secrets_work_together(cluster_world: ClusterWorld) -> None:
    await cluster_world.create()
    await cluster_world.reconcile()
    objects = await cluster_world.objects()
    for i in (1, 2, 3):
        env = {e["name"]: e.get("value") for e in objects["Pod", f"orders-{i}"]["spec"]["containers"][0]["env"]}
        assert env["MATRIARCH_CLAIM_UID"] == objects["PersistentVolumeClaim", f"orders-{i}"]["metadata"]["uid"]
    authority = objects["Secret", "orders-ca"]
    keys = {pki.text(objects["Secret", f"orders-{i}-tls"], "heartbeat.key") for i in (1, 2, 3)}
    assert keys == {pki.text(authority, "heartbeat.key")}
    assert len(bytes.fromhex(keys.pop())) == 32
    ca = pki.describe(pki.text(authority, "tls.crt"))
    leaf = pki.describe(pki.text(objects["Secret", "orders-1-tls"], "tls.crt"))
    assert ca is not None
    assert leaf is not None
    assert leaf.issuer_key_id == ca.key_id
    assert {"orders-1", "orders-rw", f"orders-rw.{cluster_world.namespace}.svc", "localhost"} <= leaf.hosts
    assert f"orders-1.orders-members.{cluster_world.namespace}.svc" in leaf.hosts
    app = objects["Secret", "orders-app"]
    password = pki.text(app, "password")
    assert len(password) >= 32
    assert pki.text(app, "uri") == f"postgresql://app:{password}@orders-rw.{cluster_world.namespace}.svc:5432/app"


@pytest.mark.parametrize("step", range(1, 33))
async def test_a_controller_that_dies_anywhere_leaves_what_the_next_one_finishes(
    cluster_world: ClusterWorld, step: int
) -> None:
    await cluster_world.create()
    cluster_world.kube.changes, cluster_world.kube.dies_before = 0, step
    try:
        await cluster_world.reconcile()
    except Dying:
        pass
    else:
        pytest.fail(f"a round has fewer than {step} changes")
    lease = await cluster_world.get("Lease", "orders")
    if lease is None:
        assert not await cluster_world.kube.list("PersistentVolumeClaim", cluster_world.namespace)
    cluster_world.kube.dies_before = None
    await cluster_world.reconcile(2)
    objects = await cluster_world.objects()
    assert set(objects) == EXPECTED
    ca = pki.describe(pki.text(objects["Secret", "orders-ca"], "tls.crt"))
    for i in (1, 2, 3):
        leaf = pki.describe(pki.text(objects["Secret", f"orders-{i}-tls"], "tls.crt"))
        assert ca is not None
        assert leaf is not None
        assert leaf.issuer_key_id == ca.key_id
    assert (await cluster_world.condition("Stalled")) is None


class TestDrift:
    """What others change comes back; what is the agents' stays theirs."""

    async def test_deleted_and_changed_objects_are_restored(self, cluster_world: ClusterWorld) -> None:
        await cluster_world.create()
        await cluster_world.reconcile()
        kube, ns = cluster_world.kube, cluster_world.namespace
        await kube.delete("Service", ns, "orders-rw")
        await kube.delete("Secret", ns, "orders-2-tls")
        await kube.patch("Role", ns, "orders", {"rules": []})
        await kube.patch(
            "Service", ns, "orders-ro", {"metadata": {"labels": {names.CLUSTER_LABEL: "orders", "x": "y"}}}
        )
        await cluster_world.reconcile()
        objects = await cluster_world.objects()
        assert set(objects) == EXPECTED
        assert objects["Role", "orders"]["rules"]
        assert objects["Service", "orders-ro"]["metadata"]["labels"]["x"] == "y"

    async def test_endpoints_belong_to_the_agents(self, cluster_world: ClusterWorld) -> None:
        await cluster_world.create()
        await cluster_world.reconcile()
        kube, ns = cluster_world.kube, cluster_world.namespace
        endpoints = [{"addresses": ["10.1.2.3"], "conditions": {"ready": True}}]
        merge: dict[str, Any] = {"metadata": {"annotations": {"matriarch.dev/epoch": "7"}}, "endpoints": endpoints}
        await kube.patch("EndpointSlice", ns, "orders-rw", merge)
        await kube.patch("EndpointSlice", ns, "orders-rw", {"metadata": {"labels": {names.CLUSTER_LABEL: None}}})
        await kube.patch("EndpointSlice", ns, "orders-rw", {"metadata": {"labels": {names.CLUSTER_LABEL: "orders"}}})
        await cluster_world.change(instances=2)
        await cluster_world.reconcile(2)
        found = await cluster_world.get("EndpointSlice", "orders-rw")
        assert found is not None
        assert found["endpoints"][0]["addresses"] == ["10.1.2.3"]
        assert found["metadata"]["annotations"]["matriarch.dev/epoch"] == "7"

    async def test_a_password_is_kept_and_its_forms_follow_it(self, cluster_world: ClusterWorld) -> None:
        await cluster_world.create()
        await cluster_world.reconcile()
        kube, ns = cluster_world.kube, cluster_world.namespace
        await kube.patch("Secret", ns, "orders-app", {"stringData": {"password": "p:w/1"}, "data": {"uri": None}})
        await cluster_world.reconcile()
        app = await cluster_world.get("Secret", "orders-app")
        assert pki.text(app, "password") == "p:w/1"
        assert pki.text(app, "uri").startswith("postgresql://app:p%3Aw%2F1@")
        assert pki.text(app, "pgpass").strip().endswith(r":app:app:p\:w/1")

    async def test_a_lost_authority_is_replaced_without_losing_the_heartbeat_key(
        self, cluster_world: ClusterWorld
    ) -> None:
        await cluster_world.create()
        await cluster_world.reconcile()
        before = await cluster_world.get("Secret", "orders-ca")
        await cluster_world.kube.delete("Secret", cluster_world.namespace, "orders-ca")
        await cluster_world.reconcile(2)
        after = await cluster_world.get("Secret", "orders-ca")
        assert pki.text(after, "heartbeat.key") == pki.text(before, "heartbeat.key")
        assert pki.text(after, "tls.crt") != pki.text(before, "tls.crt")
        leaf = await cluster_world.get("Secret", "orders-1-tls")
        old = pki.describe(pki.text(before, "tls.crt"))
        assert old is not None
        assert old.fingerprint in pki.fingerprints(pki.text(leaf, "ca.crt"))


class TestStatus:
    """The contract of the conditions."""

    async def test_a_new_cluster_is_on_its_way(self, cluster_world: ClusterWorld) -> None:
        await cluster_world.create()
        assert (await cluster_world.status())["observedGeneration"] == -1
        await cluster_world.reconcile()
        status = await cluster_world.status()
        kinds = {c["type"]: c for c in status["conditions"]}
        assert kinds["Ready"]["status"] == "False"
        assert kinds["Reconciling"]["status"] == "True"
        assert "Stalled" not in kinds
        assert status["observedGeneration"] == 1
        assert {c["observedGeneration"] for c in status["conditions"]} == {1}
        assert status["effective"]["sync"] == {"mode": "quorum", "number": 1, "durability": "required"}
        assert status["endpoints"]["write"] == f"orders-rw.{cluster_world.namespace}.svc"

    async def test_the_scale_subresource_finds_the_pods(self, cluster_world: ClusterWorld, kubectl: Kubectl) -> None:
        await cluster_world.create()
        await cluster_world.reconcile(2)
        path = f"/apis/matriarch.dev/v1alpha1/namespaces/{cluster_world.namespace}/databaseclusters/orders/scale"
        scale = json.loads(kubectl.run("get", "--raw", path))
        assert scale["spec"]["replicas"] == 3
        assert scale["status"]["replicas"] == 3
        found = kubectl.run(
            "get", "pods", "-n", cluster_world.namespace, "-l", scale["status"]["selector"], "-o", "name"
        )
        assert len(found.split()) == 3

    async def test_a_misspelt_parameter_stalls_and_changes_nothing(self, cluster_world: ClusterWorld) -> None:
        await cluster_world.create()
        await cluster_world.reconcile(2)
        before = {k: o["metadata"]["resourceVersion"] for k, o in (await cluster_world.objects()).items()}
        await cluster_world.change(parameters={"work_men": "64MB"}, instances=2)
        await cluster_world.reconcile()
        stalled = await cluster_world.condition("Stalled")
        assert stalled is not None
        assert (stalled["status"], stalled["reason"], stalled["observedGeneration"]) == ("True", "InvalidSpec", 2)
        assert "work_men" in stalled["message"]
        assert "work_mem" in stalled["message"]
        assert await cluster_world.condition("Reconciling") is None
        assert {k: o["metadata"]["resourceVersion"] for k, o in (await cluster_world.objects()).items()} == before
        await cluster_world.change(parameters=None, instances=3)
        await cluster_world.reconcile()
        assert await cluster_world.condition("Stalled") is None

    async def test_a_step_that_is_refused_is_told(self, cluster_world: ClusterWorld) -> None:
        """A name that is taken by an object which cannot become ours."""
        ns = cluster_world.namespace
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "other"}
        made = {"kind": "RoleBinding", "metadata": {"name": "orders", "namespace": ns}, "roleRef": role, "subjects": []}
        await cluster_world.kube.create(made)
        await cluster_world.create()
        with pytest.raises(Invalid):
            await cluster_world.reconcile()
        ready = await cluster_world.condition("Ready")
        assert ready is not None
        assert (ready["status"], ready["reason"]) == ("False", "ObjectRefused")
        assert "orders" in ready["message"]
        assert (await cluster_world.status())["observedGeneration"] == 1
        assert await cluster_world.get("PersistentVolumeClaim", "orders-1") is None

    async def test_the_time_of_a_condition_moves_only_with_its_status(self, cluster_world: ClusterWorld) -> None:
        await cluster_world.create()
        await cluster_world.reconcile()
        first = await cluster_world.condition("Ready")
        await cluster_world.change(instances=2)
        await cluster_world.reconcile()
        second = await cluster_world.condition("Ready")
        assert first is not None
        assert second is not None
        assert second["observedGeneration"] == 2
        assert second["lastTransitionTime"] == first["lastTransitionTime"]


class TestData:
    """Data outlives the resource; nothing is initialised beside it."""

    async def test_deletion_stops_the_pods_and_keeps_the_data(self, cluster_world: ClusterWorld) -> None:
        made = await cluster_world.create()
        await cluster_world.reconcile(2)
        before = await cluster_world.objects()
        await cluster_world.kube.delete("DatabaseCluster", cluster_world.namespace, "orders")
        await cluster_world.collect_garbage(made["metadata"]["uid"])
        assert await cluster_world.reconcile(2) is None
        left = await cluster_world.objects()
        claims = {("PersistentVolumeClaim", f"orders-{i}") for i in (1, 2, 3)}
        assert set(left) == {*claims, ("Lease", "orders"), ("Secret", "orders-ca"), ("Secret", "orders-app")}
        assert all(left[k]["metadata"]["uid"] == before[k]["metadata"]["uid"] for k in left)

        again = await cluster_world.create()
        await cluster_world.reconcile(2)
        after = await cluster_world.objects()
        assert set(after) == EXPECTED
        assert all(after[k]["metadata"]["uid"] == before[k]["metadata"]["uid"] for k in left)
        assert pki.text(after["Secret", "orders-app"], "password") == pki.text(
            before["Secret", "orders-app"], "password"
        )
        owners = after["Service", "orders-rw"]["metadata"]["ownerReferences"]
        assert [o["uid"] for o in owners] == [again["metadata"]["uid"]]

    async def test_objects_of_the_former_resource_are_adopted(self, cluster_world: ClusterWorld) -> None:
        """The resource came back before the garbage collector: its uid is another, its objects are the same."""
        await cluster_world.create()
        await cluster_world.reconcile()
        await cluster_world.kube.delete("DatabaseCluster", cluster_world.namespace, "orders")
        again = await cluster_world.create()
        await cluster_world.reconcile(2)
        for (kind, name), obj in (await cluster_world.objects()).items():
            if kind not in KEPT and name not in KEPT_SECRETS:
                assert [o["uid"] for o in obj["metadata"]["ownerReferences"]] == [again["metadata"]["uid"]], name

    async def test_delete_policy_deletes_data_last_the_lease(self, cluster_world: ClusterWorld) -> None:
        await cluster_world.create(deletionPolicy="Delete")
        await cluster_world.reconcile(2)
        await cluster_world.kube.delete("DatabaseCluster", cluster_world.namespace, "orders")
        assert await cluster_world.reconcile(2) is not None
        assert await cluster_world.get("Lease", "orders") is not None
        await cluster_world.release_claims()
        assert await cluster_world.reconcile() is None
        left = {k for k in await cluster_world.objects() if k[0] in {"Pod", "PersistentVolumeClaim", "Lease"}}
        assert left == set()
        assert await cluster_world.get("Secret", "orders-ca") is None

    async def test_a_policy_that_was_changed_later_counts(self, cluster_world: ClusterWorld) -> None:
        await cluster_world.create(deletionPolicy="Retain")
        await cluster_world.reconcile(2)
        await cluster_world.change(deletionPolicy="Delete")
        await cluster_world.reconcile()
        lease = await cluster_world.get("Lease", "orders")
        assert lease is not None
        assert lease["metadata"]["annotations"]["matriarch.dev/deletion-policy"] == "Delete"
        assert "matriarch.dev/state" in lease["metadata"]["annotations"]
        await cluster_world.kube.delete("DatabaseCluster", cluster_world.namespace, "orders")
        await cluster_world.reconcile(2)
        await cluster_world.release_claims()
        await cluster_world.reconcile()
        assert await cluster_world.get("Lease", "orders") is None

    async def test_a_policy_that_was_changed_back_keeps_the_data(self, cluster_world: ClusterWorld) -> None:
        await cluster_world.create(deletionPolicy="Delete")
        await cluster_world.reconcile()
        await cluster_world.change(deletionPolicy="Retain")
        await cluster_world.reconcile()
        await cluster_world.kube.delete("DatabaseCluster", cluster_world.namespace, "orders")
        await cluster_world.reconcile(3)
        claims = await cluster_world.kube.list("PersistentVolumeClaim", cluster_world.namespace)
        assert [c["metadata"]["name"] for c in claims if "deletionTimestamp" not in c["metadata"]] == [
            "orders-1",
            "orders-2",
            "orders-3",
        ]

    async def test_a_cluster_that_comes_back_while_its_data_is_erased_begins_anew(
        self, cluster_world: ClusterWorld
    ) -> None:
        await cluster_world.create(deletionPolicy="Delete")
        await cluster_world.reconcile(2)
        old = await cluster_world.get("Lease", "orders")
        await cluster_world.kube.delete("DatabaseCluster", cluster_world.namespace, "orders")
        await cluster_world.reconcile()
        await cluster_world.create(deletionPolicy="Delete")
        await cluster_world.reconcile()
        ready = await cluster_world.condition("Ready")
        assert ready is not None
        assert ready["reason"] == "Erasing"
        await cluster_world.release_claims()
        await cluster_world.reconcile(3)
        new = await cluster_world.get("Lease", "orders")
        assert old is not None
        assert new is not None
        assert new["metadata"]["uid"] != old["metadata"]["uid"]
        assert {k for k, _ in await cluster_world.objects()} >= {"Pod", "PersistentVolumeClaim"}

    async def test_a_lost_lease_needs_a_person(self, cluster_world: ClusterWorld) -> None:
        await cluster_world.create()
        await cluster_world.reconcile(2)
        await cluster_world.kube.delete("Lease", cluster_world.namespace, "orders")
        await cluster_world.reconcile(2)
        assert await cluster_world.get("Lease", "orders") is None
        ready = await cluster_world.condition("Ready")
        assert ready is not None
        assert ready["reason"] == "LeaseLost"
        assert "not answer" in ready["message"]

    async def test_kept_volumes_do_not_shrink(self, cluster_world: ClusterWorld) -> None:
        await cluster_world.create(storage={"size": "2Gi"})
        await cluster_world.reconcile()
        await cluster_world.kube.delete("DatabaseCluster", cluster_world.namespace, "orders")
        await cluster_world.reconcile()
        await cluster_world.create(storage={"size": "1Gi"})
        await cluster_world.reconcile()
        stalled = await cluster_world.condition("Stalled")
        assert stalled is not None
        assert "cannot shrink" in stalled["message"]

    async def test_nothing_is_swept_while_the_definition_is_away(
        self, cluster_world: ClusterWorld, kubectl: Kubectl
    ) -> None:
        """Uninstalling the definitions must not stop databases, and a definition that is being replaced neither."""
        await cluster_world.create()
        await cluster_world.reconcile()
        kubectl.run("delete", "crd", "databaseclusters.matriarch.dev")
        try:
            with pytest.raises(Unavailable, match="definition"):
                await cluster_world.reconcile()
            assert len(await cluster_world.kube.list("Pod", cluster_world.namespace)) == 3
        finally:
            install(kubectl)


async def test_scaling_before_birth_moves_who_initialises(cluster_world: ClusterWorld) -> None:
    await cluster_world.create(primary="orders-3")
    await cluster_world.reconcile()
    await cluster_world.change(instances=1, primary=None)
    await cluster_world.reconcile(4)
    await cluster_world.release_claims()
    await cluster_world.reconcile(4)
    lease = await cluster_world.get("Lease", "orders")
    assert lease is not None
    assert from_manifest(lease).state.bootstrap == "orders-1"
    objects = await cluster_world.objects()
    assert {n for k, n in objects if k in {"Pod", "PersistentVolumeClaim"}} == {"orders-1"}
    assert ("EndpointSlice", "orders-3") not in objects
    assert ("Secret", "orders-3-tls") not in objects
    assert ("PodDisruptionBudget", "orders") not in objects


async def test_superuser_access_comes_and_goes(cluster_world: ClusterWorld) -> None:
    await cluster_world.create(superuserAccess=True)
    await cluster_world.reconcile(2)
    secret = await cluster_world.get("Secret", "orders-superuser")
    assert pki.text(secret, "username") == "postgres"
    await cluster_world.change(superuserAccess=False)
    await cluster_world.reconcile()
    assert await cluster_world.get("Secret", "orders-superuser") is None


async def test_volumes_grow_once_they_are_bound(cluster_world: ClusterWorld) -> None:
    await cluster_world.create()
    await cluster_world.reconcile()
    await cluster_world.change(storage={"size": "3Gi"})
    await cluster_world.reconcile()
    claim = await cluster_world.get("PersistentVolumeClaim", "orders-1")
    assert claim is not None
    assert claim["spec"]["resources"]["requests"]["storage"] == "1Gi"

    await cluster_world.bind("orders-1")
    with pytest.raises(Forbidden, match="dynamically provisioned"):  # there is no storage class here that could
        await cluster_world.reconcile()
    ready = await cluster_world.condition("Ready")
    assert ready is not None
    assert ready["reason"] == "Forbidden"
    assert "resize" in ready["message"]


class TestRights:
    """What an agent may do in its namespace, as the API server answers."""

    @pytest.mark.parametrize(
        ("verb", "what", "allowed"),
        [
            ("update", "lease/orders", True),
            ("update", "lease/other", False),
            ("delete", "lease/orders", False),
            ("get", "configmap/orders-config", True),
            ("update", "configmap/orders-config", False),
            ("patch", "endpointslice/orders-rw", True),
            ("patch", "endpointslice/orders-2", True),
            ("patch", "endpointslice/other", False),
            ("patch", "pod/orders-3", True),
            ("patch", "pod/other", False),
            ("delete", "pod/orders-1", False),
            ("get", "secret/orders-ca", False),
            ("list", "secrets", False),
            ("list", "endpointslices", True),
            ("create", "events", True),
        ],
    )
    async def test_agents(
        self, cluster_world: ClusterWorld, kubectl: Kubectl, verb: str, what: str, *, allowed: bool
    ) -> None:
        await cluster_world.create()
        await cluster_world.reconcile()
        who = f"system:serviceaccount:{cluster_world.namespace}:orders"
        try:
            answer = kubectl.run("auth", "can-i", verb, what, "-n", cluster_world.namespace, f"--as={who}")
        except KubectlError as e:
            answer = e.said or "no"
        assert answer.strip().startswith("yes") == allowed
