"""What absent fields stand for."""

from __future__ import annotations

from typing import Any

import pytest

from matriarch.api.backup_schedule import BackupSchedule
from matriarch.api.database_cluster import DatabaseCluster
from matriarch.api.defaults import SyncRule, fill, retention, sync_rule
from tests.api_cases import S3, manifest


def _spec(**change: Any) -> Any:
    return DatabaseCluster.model_validate(manifest("DatabaseCluster", change)).spec


@pytest.mark.parametrize(
    ("instances", "sync", "rule"),
    [
        (1, {}, SyncRule("alone", 0, "preferred")),
        (2, {}, SyncRule("quorum", 1, "preferred")),
        (3, {}, SyncRule("quorum", 1, "required")),
        (4, {}, SyncRule("quorum", 2, "required")),
        (5, {}, SyncRule("quorum", 2, "required")),
        (9, {}, SyncRule("quorum", 4, "required")),
        (2, {"durability": "required"}, SyncRule("quorum", 1, "required")),
        (3, {"durability": "preferred"}, SyncRule("quorum", 1, "preferred")),
        (5, {"number": 4}, SyncRule("quorum", 4, "required")),
    ],
)
def test_the_sync_rule_by_size(instances: int, sync: dict[str, Any], rule: SyncRule) -> None:
    assert sync_rule(_spec(instances=instances, replication={"sync": sync})) == rule
    if not sync:
        assert sync_rule(_spec(instances=instances)) == rule


def test_delayed_replicas_do_not_count() -> None:
    late = [{"instance": "orders-4", "delaySeconds": 60}]
    spec = _spec(instances=4, replication={"delayed": late})
    assert sync_rule(spec) == SyncRule("quorum", 1, "required")
    assert fill("orders", spec).delays == {"orders-4": 60}
    assert sync_rule(_spec(instances=2, replication={"delayed": late})) == SyncRule("alone", 0, "preferred")


def test_the_smallest_spec_has_everything() -> None:
    made = fill("orders", _spec())
    assert (made.engine, made.version, made.mode, made.reads) == ("postgresql", "17", "primary-replica", "strict")
    assert (made.health_interval_milliseconds, made.health_timeout_milliseconds) == (10_000, 5_000)
    assert made.sync_interval_milliseconds == 30_000
    assert (made.database, made.owner, made.superuser_access) == ("app", "app", False)
    assert (made.deletion_policy, made.backup_store, made.compression) == ("Retain", None, "gzip")
    assert made.backup_key_secret == "orders-backup-key"


def test_the_older_word_for_the_mode_means_the_same() -> None:
    assert fill("orders", _spec(replication={"mode": "master-slave"})).mode == "primary-replica"


def test_the_first_store_is_the_default_and_encryption_can_be_told_off() -> None:
    stores = [{"name": "b", "s3": S3}, {"name": "a", "s3": S3}]
    assert fill("orders", _spec(backup={"stores": stores})).backup_store == "b"
    own = {"stores": stores, "encryption": {"keySecret": {"name": "mine"}}}
    assert (fill("o", _spec(backup=own)).backup_key_secret, fill("o", _spec(backup=own)).backup_key) == ("mine", "key")
    plain = {"stores": stores, "encryption": {"disabled": "i-accept-plaintext-backups"}}
    assert fill("orders", _spec(backup=plain)).backup_key_secret is None


def test_numbers_and_words_in_manifests_are_text_to_the_operator() -> None:
    spec = _spec(
        version=17, parameters={"max_connections": 200, "work_mem": "64MB"}, resources={"requests": {"cpu": 2}}
    )
    assert spec.version == "17"
    assert spec.parameters == {"max_connections": "200", "work_mem": "64MB"}
    assert spec.resources.requests == {"cpu": "2"}


@pytest.mark.parametrize(
    ("asked", "days", "count"),
    [
        (None, 30, None),
        ({}, 30, None),
        ({"days": 7}, 7, None),
        ({"count": 3}, None, 3),
        ({"days": 7, "count": 3}, 7, 3),
        ({"yearly": 3}, None, None),
        ({"graceHours": 24, "dryRun": True}, 30, None),
    ],
)
def test_retention(asked: dict[str, int] | None, days: int | None, count: int | None) -> None:
    spec = BackupSchedule.model_validate(
        manifest("BackupSchedule", {"retention": asked} if asked is not None else {})
    ).spec
    rules = retention(spec)
    assert (rules.days, rules.count) == (days, count)
