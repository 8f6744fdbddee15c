"""The DatabaseCluster that a Restore makes: like the source, with what is wanted otherwise, and always acceptable."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.api.database_cluster import DatabaseCluster
from matriarch.api.model import refusals
from matriarch.api.restore import CheckedBackup, Restore
from matriarch.controller.restore_cluster import RESTORED_BY, wanted_cluster
from matriarch.controller.restore_source import major
from matriarch.errors import Refused

SOURCE: dict[str, Any] = {
    "version": "17",
    "instances": 3,
    "primary": "orders-2",
    "storage": {"size": "10Gi", "storageClassName": "fast"},
    "replication": {
        "sync": {"number": 2, "durability": "required"},
        "priorities": [{"instance": "orders-1", "priority": 200}, {"instance": "orders-3", "priority": 10}],
    },
    "parameters": {"work_mem": "64MB", "max_connections": "200"},
    "bootstrap": {"database": "shop", "owner": "keeper"},
    "backup": {"stores": [{"name": "a", "s3": {"bucket": "backups", "credentials": {"secretName": "s3"}}}]},
}
CHECKED = CheckedBackup(postgres_version="17.11", size_bytes=3_000_000_000, database="shop", owner="keeper")


def restore(**overrides: Any) -> Restore:
    target = {"cluster": "again", **({"overrides": overrides} if overrides else {})}
    spec = {"source": {"backup": {"name": "b"}}, "target": target}
    return Restore.model_validate({"metadata": {"name": "r", "namespace": "prod", "uid": "u1"}, "spec": spec})


def cluster(**spec: Any) -> DatabaseCluster:
    return DatabaseCluster.model_validate({"metadata": {"name": "orders"}, "spec": {**SOURCE, **spec}})


def test_it_is_like_the_source_without_the_source_s_life() -> None:
    made = wanted_cluster(restore(), cluster(), CHECKED)
    wanted = {k: v for k, v in SOURCE.items() if k not in ("primary", "replication")}
    assert {k: v for k, v in made["spec"].items() if k != "replication"} == wanted
    assert made["spec"]["replication"]["sync"] == {"number": 2, "durability": "required"}
    assert made["metadata"]["annotations"][RESTORED_BY] == "u1"


def test_priorities_name_the_new_cluster_s_instances() -> None:
    made = wanted_cluster(restore(), cluster(), CHECKED)
    assert [p["instance"] for p in made["spec"]["replication"]["priorities"]] == ["again-1", "again-3"]


def test_overrides_win_field_by_field() -> None:
    made = wanted_cluster(
        restore(instances=1, storage={"size": "20Gi"}, parameters={"work_mem": "8MB"}), cluster(), CHECKED
    )["spec"]
    assert made["instances"] == 1
    assert made["storage"] == {"size": "20Gi", "storageClassName": "fast"}
    assert made["parameters"] == {"work_mem": "8MB", "max_connections": "200"}
    assert "number" not in made.get("replication", {}).get("sync", {}), "a rule for three instances"


def test_without_the_source_the_backup_says_what_is_needed() -> None:
    assert wanted_cluster(restore(), None, CHECKED)["spec"] == {
        "version": "17",
        "instances": 1,
        "storage": {"size": "10Gi"},
        "bootstrap": {"database": "shop", "owner": "keeper"},
    }


def test_a_backup_that_does_not_say_its_version_is_refused() -> None:
    with pytest.raises(Refused, match="which version"):
        wanted_cluster(restore(), None, CheckedBackup())


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.none() | st.integers(1, 8),
    st.none() | st.sampled_from(["required", "preferred"]),
)
def test_whatever_is_overridden_the_result_keeps_the_rules(
    before: int, after: int, number: int | None, durability: str | None
) -> None:
    replication: dict[str, Any] = {"priorities": [{"instance": f"orders-{before}", "priority": 7}]}
    if number is not None and number < before:
        replication["sync"] = {"number": number}
    if durability is not None:
        replication.setdefault("sync", {})["durability"] = durability
    source = cluster(instances=before, replication=replication, primary=None)
    assert refusals(source) == []
    made = wanted_cluster(restore(instances=after), source, CHECKED)
    assert refusals(DatabaseCluster.model_validate(made)) == []


@pytest.mark.parametrize(
    ("text", "found"), [("17.11", "17"), ("17.11 (Debian 17.11-1)", "17"), (None, None), ("x", None)]
)
def test_major_versions(text: str | None, found: str | None) -> None:
    assert major(text) == found
