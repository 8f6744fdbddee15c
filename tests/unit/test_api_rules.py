"""The Python twins of the rules: the controller says what the API server says, word for word."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.api.backup import Backup
from matriarch.api.backup_schedule import BackupSchedule
from matriarch.api.database_cluster import DatabaseCluster
from matriarch.api.generate import KINDS
from matriarch.api.model import Model, Resource, refusals
from matriarch.api.restore import Restore
from matriarch.api.rules import quantity
from matriarch.postgres.owned import OWNED, refusal
from tests.api_cases import BAD, GOOD, Bad, manifest

MODELS: dict[str, type[Resource]] = {m.__name__: m for m in (DatabaseCluster, Backup, BackupSchedule, Restore)}


@pytest.mark.parametrize("case", [b for b in BAD if b.twin], ids=lambda b: b.what)
def test_a_bad_spec_is_refused_in_the_api_servers_words(case: Bad) -> None:
    found = refusals(MODELS[case.kind].model_validate(manifest(case.kind, case.change, case.name)))
    assert found == [f"{case.field}: {case.message}"]


@pytest.mark.parametrize(("what", "kind", "change"), GOOD, ids=lambda v: v if isinstance(v, str) else "")
def test_a_good_spec_is_not(what: str, kind: str, change: dict[str, Any]) -> None:
    del what
    assert refusals(MODELS[kind].model_validate(manifest(kind, change))) == []


@pytest.mark.parametrize("name", sorted(OWNED))
def test_every_owned_parameter_is_refused_by_name(name: str) -> None:
    cluster = DatabaseCluster.model_validate(manifest("DatabaseCluster", {"parameters": {name: "x"}}))
    assert refusals(cluster) == [f"spec.parameters: {refusal(name)}"]


def _rules(model: type[Model], seen: set[type[Model]]) -> list[Any]:
    if model in seen:
        return []
    seen.add(model)
    found = list(model.rules)
    for info in model.model_fields.values():
        for part in _models(info.annotation):
            found += _rules(part, seen)
    return found


def _models(annotation: Any) -> list[type[Model]]:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return [annotation]
    return [m for inner in getattr(annotation, "__args__", ()) for m in _models(inner)]


def test_every_rule_has_a_twin_or_looks_at_the_old_object() -> None:
    rules = [rule for kind in KINDS for rule in _rules(kind, set())]
    assert len(rules) > 120
    for rule in rules:
        assert (rule.broken is None) == ("oldSelf" in rule.cel), rule.cel


def test_every_rule_that_is_not_an_owned_parameter_is_in_the_table() -> None:
    messages = [b.message for b in BAD]
    for kind in KINDS:
        for rule in _rules(kind, set()):
            if "belongs to Matriarch" in rule.message or rule.message in messages:
                continue
            dynamic = rule.message_cel is not None and any(m.startswith(rule.message.split()[0]) for m in messages)
            engine = rule.message.startswith("engine cannot change")  # no second engine to change to exists yet
            assert dynamic or engine, rule.message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10Gi", 10 * 1024**3),
        ("1.5Gi", 3 * 1024**3 // 2),
        ("500m", Decimal("0.5")),
        ("2", 2),
        ("1e3", 1000),
        ("1k", 1000),
        (".5M", 500_000),
    ],
)
def test_quantities(text: str, value: object) -> None:
    assert quantity(text) == value


@pytest.mark.parametrize("text", ["", "10GB", "Gi", "1..5", "-1", "1 Gi", "ten", "1Gi\n"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        quantity(text)


@given(st.integers(1, 9), st.integers(1, 8))
def test_sync_number_is_below_instances_or_refused(instances: int, number: int) -> None:
    change = {"instances": instances, "replication": {"sync": {"number": number}}}
    cluster = DatabaseCluster.model_validate(manifest("DatabaseCluster", change))
    assert bool(refusals(cluster)) == (number >= instances)
