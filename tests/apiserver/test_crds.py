"""The definitions in a real API server: accepted, enforced word for word, and without drift."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dev.host import PROJECT
from dev.kubectl import Kubectl, KubectlError
from matriarch.api.backup import Backup
from matriarch.api.backup_schedule import BackupSchedule
from matriarch.api.database_cluster import DatabaseCluster
from matriarch.api.model import Resource
from matriarch.api.restore import Restore
from tests.api_cases import API_VERSION, BAD, GOOD, Bad, manifest
from tests.apiserver.http import Http

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dev.apiserver import ApiServer

MODELS: dict[str, type[Resource]] = {m.__name__: m for m in (DatabaseCluster, Backup, BackupSchedule, Restore)}
SAMPLES = sorted((PROJECT / "manifests/samples").glob("*.yaml"))


@pytest.fixture(scope="module")
def crds(kubectl: Kubectl) -> Kubectl:
    """An API server with our definitions, accepted with strict validation and established."""
    kubectl.run("apply", "--server-side", "--force-conflicts", "--validate=strict", "-f", PROJECT / "crds")
    kubectl.run("wait", "--for=condition=Established", "--timeout=60s", "-f", PROJECT / "crds")
    return kubectl


@pytest.fixture(scope="module")
def http(api_server: ApiServer, crds: Kubectl) -> Iterator[Http]:
    """The same without kubectl."""
    del crds  # only that they are there
    connection = Http(api_server)
    yield connection
    connection.close()


@pytest.fixture
def namespace(http: Http) -> str:
    """A namespace of its own for each test; the server is thrown away with all of them."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    made = http.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    assert made.code == 201, made.body
    return name


@pytest.mark.parametrize("case", BAD, ids=lambda b: b.what)
def test_a_bad_spec_is_refused_in_these_words(http: Http, namespace: str, case: Bad) -> None:
    if case.old is not None:
        assert http.create(manifest(case.kind, case.old, case.name), namespace).code == 201
        changed = manifest(case.kind, case.change, case.name)
        changed["spec"] |= dict.fromkeys(case.removed)
        answer = http.merge(changed, namespace)
    else:
        answer = http.create(manifest(case.kind, case.change, case.name), namespace)
    assert answer.code == 422, answer.body
    assert [(field, message.split(": ", 2)[2]) for field, message in answer.causes] == [(case.field, case.message)]


def test_kubectl_shows_those_words(crds: Kubectl, namespace: str) -> None:
    with pytest.raises(KubectlError) as refused:
        _apply(crds, namespace, manifest("DatabaseCluster", {"parameters": {"fsync": "off"}}))
    assert refused.value.said == (
        'The DatabaseCluster "orders" is invalid: spec.parameters: Invalid value: "object": parameter fsync belongs to'
        " Matriarch: it stays on, because an acknowledged write must be on disk. Remove it from parameters"
    )


@pytest.mark.parametrize(("what", "kind", "change"), GOOD, ids=lambda v: v if isinstance(v, str) else "")
def test_a_good_spec_is_stored_as_it_was_written(
    http: Http, namespace: str, what: str, kind: str, change: dict[str, Any]
) -> None:
    del what
    obj = manifest(kind, change)
    assert http.create(obj, namespace).code == 201
    stored = http.get(kind, namespace, "orders")
    assert stored["spec"] == obj["spec"], "the API server must add nothing: Git would see a difference"
    assert stored["status"] == {"observedGeneration": -1}
    read, asked = MODELS[kind].model_validate(stored), MODELS[kind].model_validate(obj)
    assert read.spec == asked.spec  # type: ignore[attr-defined]  # every kind has one
    again = http.apply(obj, namespace, "git")
    assert again.code == 200
    assert again.body["metadata"]["generation"] == 1


def test_kubectl_diff_of_what_was_applied_is_empty(crds: Kubectl, namespace: str) -> None:
    every = [
        manifest(kind, change, f"o{i}") for i, (_, kind, change) in enumerate(GOOD) if "orders-" not in str(change)
    ]
    objects = {"apiVersion": "v1", "kind": "List", "items": every}
    for flags in ([], ["--server-side", "--force-conflicts"]):
        _apply(crds, namespace, objects, *flags)
        assert crds.run("diff", "-n", namespace, *flags, "-f", "-", stdin=json.dumps(objects)) == ""


def test_a_misspelt_field_is_refused_with_its_name(crds: Kubectl, namespace: str) -> None:
    with pytest.raises(KubectlError, match=r'strict decoding error: unknown field "spec.instnces"'):
        _apply(crds, namespace, manifest("DatabaseCluster", {"instnces": 3}))


def test_kubectl_scale_and_its_limits(crds: Kubectl, http: Http, namespace: str) -> None:
    http.create(manifest("DatabaseCluster", {"replication": {"sync": {"number": 2}}}), namespace)
    crds.run("scale", "-n", namespace, "dbc/orders", "--replicas=5")
    assert http.get("DatabaseCluster", namespace, "orders")["spec"]["instances"] == 5
    with pytest.raises(KubectlError, match=r"sync\.number must be below instances"):
        crds.run("scale", "-n", namespace, "dbc/orders", "--replicas=2")
    with pytest.raises(KubectlError, match="should be less than or equal to 9"):
        crds.run("scale", "-n", namespace, "dbc/orders", "--replicas=10")
    assert http.get("DatabaseCluster", namespace, "orders")["spec"]["instances"] == 5


def test_storage_can_grow(http: Http, namespace: str) -> None:
    http.create(manifest("DatabaseCluster"), namespace)
    assert http.merge(manifest("DatabaseCluster", {"storage": {"size": "0.02Ti"}}), namespace).code == 200


def test_status_is_a_subresource_with_a_map_of_conditions(crds: Kubectl, http: Http, namespace: str) -> None:
    http.create({**manifest("DatabaseCluster"), "status": {"phase": "Healthy"}}, namespace)
    status = http.get("DatabaseCluster", namespace, "orders")["status"]
    assert status == {"observedGeneration": -1}, "who writes the spec cannot write the status"
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "Ok",
        "message": "",
        "lastTransitionTime": "2026-11-23T00:00:00Z",
    }
    made = _status(http, namespace, {"observedGeneration": 1, "conditions": [ready]}, "matriarch-controller")
    assert made == (200, "")
    assert _status(http, namespace, {"conditions": [{**ready, "type": "BackupHealthy"}]}, "matriarch-backup") == (
        200,
        "",
    )
    status = http.get("DatabaseCluster", namespace, "orders")["status"]
    assert [c["type"] for c in status["conditions"]] == ["Ready", "BackupHealthy"], "one writer must not drop another's"
    assert status["observedGeneration"] == 1
    crds.run("wait", "-n", namespace, "dbc/orders", "--for=condition=Ready", "--timeout=5s")
    code, message = _status(http, namespace, {"conditions": [ready, ready]}, "other")
    assert code >= 400
    assert "duplicate entries for key" in message


def _status(http: Http, namespace: str, status: Any, manager: str) -> tuple[int, str]:
    obj = {"apiVersion": API_VERSION, "kind": "DatabaseCluster", "metadata": {"name": "orders"}, "status": status}
    answer = http.apply(obj, namespace, manager, status=True)
    return answer.code, "" if answer.code == 200 else answer.body["message"]


def test_the_table_of_kubectl_get(crds: Kubectl, http: Http, namespace: str) -> None:
    for kind in MODELS:
        http.create(manifest(kind), namespace)
    heads = {kind: crds.run("get", "-n", namespace, kind).splitlines()[0].split("  ") for kind in MODELS}
    titles = {kind: [word.strip() for word in head if word.strip()] for kind, head in heads.items()}
    assert titles["DatabaseCluster"] == ["NAME", "READY", "STATUS", "PRIMARY", "INSTANCES", "LAST BACKUP", "AGE"]
    assert titles["Backup"] == ["NAME", "CLUSTER", "STATUS", "FINISHED", "SIZE", "AGE"]
    assert titles["BackupSchedule"] == ["NAME", "READY", "CLUSTER", "CRON", "NEXT", "LAST SUCCESS", "AGE"]
    assert titles["Restore"] == ["NAME", "CLUSTER", "STATUS", "STEP", "PERCENT", "FINISHED", "AGE"]
    everything = crds.run("get", "-n", namespace, "database,dbc,bak,bks,rst", "-o", "name").split()
    assert set(everything) == {f"{m.__name__.lower()}.matriarch.dev/orders" for m in MODELS.values()}


def test_explain_shows_what_a_field_means(crds: Kubectl) -> None:
    assert "planned switchover" in crds.run("explain", "databasecluster.spec.primary")


def _apply(kubectl: Kubectl, namespace: str, obj: Any, *flags: str) -> str:
    return kubectl.run("apply", "-n", namespace, "--validate=strict", *flags, "-f", "-", stdin=json.dumps(obj))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.name)
def test_every_sample_is_accepted_and_applied_twice_changes_nothing(crds: Kubectl, namespace: str, path: Path) -> None:
    crds.run("apply", "-n", namespace, "--validate=strict", "-f", path)
    assert crds.run("diff", "-n", namespace, "-f", path) == ""


def test_there_are_samples() -> None:
    assert len(SAMPLES) >= 8
