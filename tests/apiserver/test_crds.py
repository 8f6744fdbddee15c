"""The definitions in a real API server: accepted, enforced word for word, and without drift."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dev.host import PROJECT
from dev.kubectl import Kubectl, KubectlError
from tests.api_cases import BAD, GOOD, Bad, manifest

from matriarch.api.backup import Backup
from matriarch.api.backup_schedule import BackupSchedule
from matriarch.api.database_cluster import DatabaseCluster
from matriarch.api.model import Resource
from matriarch.api.restore import Restore

MODELS: dict[str, type[Resource]] = {m.__name__: m for m in (DatabaseCluster, Backup, BackupSchedule, Restore)}
SAMPLES = sorted((PROJECT / "manifests/samples").glob("*.yaml"))


@pytest.fixture(scope="module")
def crds(kubectl: Kubectl) -> Kubectl:
    """An API server with our definitions, accepted with strict validation and established."""
    kubectl.run("apply", "--server-side", "--force-conflicts", "--validate=strict", "-f", PROJECT / "crds")
    kubectl.run("wait", "--for=condition=Established", "--timeout=60s", "-f", PROJECT / "crds")
    return kubectl


@pytest.fixture(scope="module")
def shared(crds: Kubectl) -> str:
    """One namespace for tests that leave nothing behind."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    crds.run("create", "namespace", name)
    return name


@pytest.fixture
def namespace(crds: Kubectl) -> Iterator[str]:
    """A namespace of its own for each test."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    crds.run("create", "namespace", name)
    yield name
    crds.run("delete", "namespace", name, "--wait=false")


def _apply(kubectl: Kubectl, namespace: str, obj: Any, *flags: str) -> str:
    return kubectl.run("apply", "-n", namespace, "--validate=strict", *flags, "-f", "-", stdin=json.dumps(obj))


@pytest.mark.parametrize("case", BAD, ids=lambda b: b.what)
def test_a_bad_spec_is_refused_in_these_words(crds: Kubectl, shared: str, case: Bad) -> None:
    obj = manifest(case.kind, case.change, case.name)
    if case.old is not None:
        obj["metadata"]["name"] = name = f"old-{uuid.uuid4().hex[:12]}"
        _apply(crds, shared, {**manifest(case.kind, case.old), "metadata": {"name": name}})
    with pytest.raises(KubectlError) as refused:
        _apply(crds, shared, obj, "--dry-run=server")
    where = f'The {case.kind} "{obj["metadata"]["name"]}" is invalid: {case.field}: Invalid value: '
    said = re.fullmatch(re.escape(where) + r'"[^"]*": (.*)', refused.value.said)
    assert said is not None, refused.value.said
    assert said[1] == case.message


@pytest.mark.parametrize(("what", "kind", "change"), GOOD, ids=lambda v: v if isinstance(v, str) else "")
def test_a_good_spec_is_stored_as_it_was_written(
    crds: Kubectl, namespace: str, what: str, kind: str, change: dict[str, Any]
) -> None:
    del what
    obj = manifest(kind, change)
    _apply(crds, namespace, obj)
    stored = crds.need(kind, "orders", namespace)
    assert stored["spec"] == obj["spec"], "the API server must add nothing: Git would see a difference"
    assert stored["status"] == {"observedGeneration": -1}
    read = MODELS[kind].model_validate(stored)
    asked = MODELS[kind].model_validate(obj)
    assert read.spec == asked.spec  # type: ignore[attr-defined]  # every kind has one
    assert read.metadata.generation == 1
    assert crds.run("diff", "-n", namespace, "-f", "-", stdin=json.dumps(obj)) == ""
    again = _apply(crds, namespace, obj, "--server-side", "--field-manager=git", "--force-conflicts")
    assert again.strip().endswith("serverside-applied")
    assert crds.need(kind, "orders", namespace)["metadata"]["generation"] == 1


def test_a_misspelt_field_is_refused_with_its_name(crds: Kubectl, namespace: str) -> None:
    with pytest.raises(KubectlError, match=r'strict decoding error: unknown field "spec.instnces"'):
        _apply(crds, namespace, manifest("DatabaseCluster", {"instnces": 3}))


def test_kubectl_scale_and_its_limits(crds: Kubectl, namespace: str) -> None:
    _apply(crds, namespace, manifest("DatabaseCluster", {"replication": {"sync": {"number": 2}}}))
    crds.run("scale", "-n", namespace, "dbc/orders", "--replicas=5")
    assert crds.need("dbc", "orders", namespace)["spec"]["instances"] == 5
    with pytest.raises(KubectlError, match=r"sync\.number must be below instances"):
        crds.run("scale", "-n", namespace, "dbc/orders", "--replicas=2")
    with pytest.raises(KubectlError, match="should be less than or equal to 9"):
        crds.run("scale", "-n", namespace, "dbc/orders", "--replicas=10")
    assert crds.need("dbc", "orders", namespace)["spec"]["instances"] == 5


def test_storage_can_grow(crds: Kubectl, namespace: str) -> None:
    _apply(crds, namespace, manifest("DatabaseCluster"))
    _apply(crds, namespace, manifest("DatabaseCluster", {"storage": {"size": "0.02Ti"}}))
    assert crds.need("dbc", "orders", namespace)["spec"]["storage"]["size"] == "0.02Ti"


def test_status_is_a_subresource_with_a_map_of_conditions(crds: Kubectl, namespace: str) -> None:
    _apply(crds, namespace, manifest("DatabaseCluster"))
    change = {"status": {"phase": "Healthy", "observedGeneration": 1}}
    crds.run("patch", "-n", namespace, "dbc", "orders", "--type=merge", "-p", json.dumps(change))
    assert crds.need("dbc", "orders", namespace)["status"] == {"observedGeneration": -1}, "spec writers cannot"
    one = {
        "type": "Ready",
        "status": "True",
        "reason": "Ok",
        "message": "",
        "lastTransitionTime": "2026-11-23T00:00:00Z",
    }
    _status(crds, namespace, "orders", {"observedGeneration": 1, "conditions": [one]}, "matriarch-controller")
    _status(crds, namespace, "orders", {"conditions": [{**one, "type": "BackupHealthy"}]}, "matriarch-backup")
    status = crds.need("dbc", "orders", namespace)["status"]
    assert [c["type"] for c in status["conditions"]] == ["Ready", "BackupHealthy"]
    assert status["observedGeneration"] == 1
    crds.run("wait", "-n", namespace, "dbc/orders", "--for=condition=Ready", "--timeout=5s")
    with pytest.raises(KubectlError, match="duplicate entries for key"):
        _status(crds, namespace, "orders", {"conditions": [one, one]}, "other")


def _status(kubectl: Kubectl, namespace: str, name: str, status: Any, manager: str) -> None:
    obj = {
        "apiVersion": "matriarch.dev/v1alpha1",
        "kind": "DatabaseCluster",
        "metadata": {"name": name},
        "status": status,
    }
    kubectl.run(
        *("apply", "-n", namespace, "--server-side", "--force-conflicts", "--subresource=status"),
        *(f"--field-manager={manager}", "-f", "-"),
        stdin=json.dumps(obj),
    )


def test_the_table_of_kubectl_get(crds: Kubectl, namespace: str) -> None:
    for kind in MODELS:
        _apply(crds, namespace, manifest(kind))
    heads = {kind: crds.run("get", "-n", namespace, kind).splitlines()[0].split("  ") for kind in MODELS}
    titles = {kind: [word.strip() for word in head if word.strip()] for kind, head in heads.items()}
    assert titles["DatabaseCluster"] == ["NAME", "READY", "STATUS", "PRIMARY", "INSTANCES", "LAST BACKUP", "AGE"]
    assert titles["Backup"] == ["NAME", "CLUSTER", "STATUS", "FINISHED", "SIZE", "AGE"]
    assert titles["BackupSchedule"] == ["NAME", "READY", "CLUSTER", "CRON", "NEXT", "LAST SUCCESS", "AGE"]
    assert titles["Restore"] == ["NAME", "CLUSTER", "STATUS", "STEP", "PERCENT", "FINISHED", "AGE"]
    everything = crds.run("get", "-n", namespace, "database", "-o", "name").split()
    assert len(everything) == len(MODELS)
    for short in ("dbc", "bak", "bks", "rst"):
        assert crds.run("get", "-n", namespace, short, "-o", "name").strip().endswith("/orders")


def test_explain_shows_what_a_field_means(crds: Kubectl) -> None:
    assert "planned switchover" in crds.run("explain", "databasecluster.spec.primary")


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.name)
def test_every_sample_is_accepted(crds: Kubectl, path: Path) -> None:
    crds.run("apply", "--dry-run=server", "--validate=strict", "-f", path)


def test_there_are_samples() -> None:
    assert len(SAMPLES) >= 8
