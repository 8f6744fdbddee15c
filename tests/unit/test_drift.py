"""An object is applied again when something that is wanted is not so, and for nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from matriarch.controller.drift import comparable, is_there, leads_nowhere

OWNER, OTHER = {"uid": "1", "kind": "DatabaseCluster"}, {"uid": "2", "kind": "Restore"}


@pytest.mark.parametrize(
    ("wanted", "found", "same"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, True),  # what others added does not matter
        ({"a": 1}, {"a": 2}, False),
        ({"a": 1}, {}, False),
        ({"a": {"b": 1}}, {"a": None}, False),
        ({"ports": [1, 2]}, {"ports": [1, 2]}, True),
        ({"ports": [1, 2]}, {"ports": [2, 1]}, False),
        ({"ports": [1]}, {"ports": [1, 2]}, False),  # a list is wanted as it is
        ({"ownerReferences": [OWNER]}, {"ownerReferences": [OTHER, OWNER]}, True),  # but for owners
        ({"ownerReferences": [OWNER]}, {"ownerReferences": [OTHER]}, False),
        ({"ownerReferences": [OWNER]}, {}, False),
    ],
)
def test_what_is_there(wanted: Any, found: Any, same: bool) -> None:
    assert is_there(wanted, found) is same


def test_amounts_of_a_deployment_are_told_by_its_hash_alone() -> None:
    container = {"name": "pooler", "resources": {"limits": {"cpu": "1000m"}}}
    wanted = {"kind": "Deployment", "spec": {"template": {"spec": {"containers": [container]}}}}
    assert comparable(wanted)["spec"]["template"]["spec"]["containers"] == [{"name": "pooler"}]
    assert "resources" in container, "what is wanted stays as it is"
    other = {"kind": "Service"}
    assert comparable(other) is other


def test_credentials_that_name_a_pooler_which_is_gone() -> None:
    wanted = {"kind": "Secret", "data": {"uri": "x"}}
    assert leads_nowhere(wanted, {"data": {"uri": "x", "pooler-uri": "y"}})
    assert not leads_nowhere(wanted, {"data": {"uri": "x", "mine": "y"}})
    assert not leads_nowhere(wanted, None)
    assert not leads_nowhere({"kind": "Service"}, {"data": {"pooler-uri": "y"}})
