"""Bad input is refused before anything changes, in one sentence that says what, why and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from dev.kubectl import Kubectl, KubectlError, condition, wait
from dev.product import Cluster, cluster_manifest, resource


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"replication": {"sync": {"number": 3}}}, "sync.number must be below instances"),
        ({"replication": {"sync": {"mode": "async", "number": 1}}}, "sync.mode async waits for no replica"),
        ({"version": "9.6"}, "version 9.6 is not known"),
        ({"engine": "sqlite"}, "engine sqlite is not yet supported"),
        ({"replication": {"mode": "master-master"}}, "not yet supported"),
        ({"replication": {"mode": "cluster"}}, "not yet supported"),
        ({"parameters": {"synchronous_standby_names": ""}}, "parameter synchronous_standby_names belongs to Matriarch"),
        ({"parameters": {"fsync": "off"}}, "parameter fsync belongs to Matriarch"),
        ({"instances": 10}, "should be less than or equal to 9"),
        ({"instances": 0}, "should be greater than or equal to 1"),
        ({"storage": {"size": "1Mi"}}, "size must be"),
        ({"primary": "wrong-7"}, "is not an instance of this cluster"),
        ({"replcation": {}}, "unknown field"),
    ],
)
def test_a_bad_cluster_is_refused_by_the_api_server(
    kubectl: Kubectl, namespace: str, spec: dict[str, Any], said: str
) -> None:
    with pytest.raises(KubectlError) as refused:
        kubectl.apply(cluster_manifest("bad", **spec), namespace=namespace)
    assert said in refused.value.said
    assert kubectl.get("databasecluster", "bad", namespace) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"storage": {"size": "512Mi"}}, "size cannot shrink from 1Gi to 512Mi"),
        ({"bootstrap": {"database": "other"}}, "cannot change"),
        ({"version": "16"}, "version 16 is not known"),
    ],
)
def test_a_bad_change_is_refused_and_the_cluster_goes_on(orders: Cluster, change: dict[str, Any], said: str) -> None:
    before = orders.wait_ready()["spec"]
    with pytest.raises(KubectlError) as refused:
        orders.patch(change)
    assert said in refused.value.said
    assert (orders.get() or {})["spec"] == before
    assert orders.database().value("SELECT 1") == 1


def test_a_misspelt_parameter_is_told_in_the_status_and_nothing_restarts(orders: Cluster) -> None:
    orders.wait_ready()
    started = orders.database().value("SELECT pg_postmaster_start_time()")
    orders.patch({"parameters": {"work_memm": "8MB"}})
    try:
        found = wait(
            "a condition that names the parameter",
            lambda: _stalled(orders.get(), "work_memm"),
            timeout=60,
            show=orders.describe,
        )
        assert condition(found, "Ready")["status"] == "False"
        assert "work_mem" in condition(found, "Stalled")["message"].replace("work_memm", "")
        assert orders.database().value("SELECT pg_postmaster_start_time()") == started
    finally:
        orders.patch({"parameters": {"work_memm": None}})
    orders.wait_ready()


def _stalled(found: dict[str, Any] | None, word: str) -> dict[str, Any] | None:
    stalled = condition(found, "Stalled")
    return found if stalled.get("status") == "True" and word in stalled.get("message", "") else None


@pytest.mark.parametrize(
    ("kind", "spec", "said"),
    [
        ("BackupSchedule", {"cluster": "x", "cron": "0 2 30 2 *"}, "never fires"),
        ("BackupSchedule", {"cluster": "x", "cron": "often"}, "cron"),
        ("BackupSchedule", {"cluster": "x", "cron": "0 2 * * *", "timeZone": "not a zone"}, "timeZone"),
        ("Backup", {"cluster": "x", "method": "binary"}, "Unsupported value"),
        ("Restore", {"source": {}, "target": {"cluster": "x"}}, "set exactly one of backup"),
        (
            "Restore",
            {"source": {"backup": {"name": "b"}}, "target": {"cluster": "x"}, "inPlace": {"confirm": "y"}},
            "inPlace.confirm must be x",
        ),
    ],
)
def test_a_bad_backup_or_restore_is_refused_by_the_api_server(
    kubectl: Kubectl, namespace: str, kind: str, spec: dict[str, Any], said: str
) -> None:
    with pytest.raises(KubectlError) as refused:
        kubectl.apply(resource(kind, "bad", spec), namespace=namespace)
    assert said in refused.value.said


def test_a_restore_onto_a_running_cluster_without_a_word_is_refused(orders: Cluster) -> None:
    orders.wait_ready()
    manifest = resource(
        "Restore", "rash", {"source": {"backup": {"name": "nothing"}}, "target": {"cluster": orders.name}}
    )
    orders.kubectl.apply(manifest, namespace=orders.namespace)
    try:
        found = wait(
            "the restore's end",
            lambda: _failed(orders.kubectl.get("restore", "rash", orders.namespace)),
            timeout=60,
        )
        assert condition(found, "Failed")["message"]
        assert orders.database().value("SELECT 1") == 1
    finally:
        orders.kubectl.delete("restore", "rash", orders.namespace)


def _failed(found: dict[str, Any] | None) -> dict[str, Any] | None:
    return found if condition(found, "Failed").get("status") == "True" else None
