"""Who may log in, as text; tests/postgres/test_pg_stream.py asks PostgreSQL."""

from __future__ import annotations

import re

import pytest

from matriarch.postgres.hba import render_hba, render_ident

_RESERVED = ("matriarch_stream", "matriarch_clone", "matriarch_rewind", "matriarch_backup", "postgres")


def _rules(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("access", [False, True])
def test_passwords_are_taken_over_tls_alone(*, access: bool) -> None:
    for rule in _rules(render_hba(superuser_access=access)):
        if "scram-sha-256" in rule:
            assert rule[0] == "hostssl"
        assert not {"trust", "password", "md5"} & set(rule)


def test_internal_roles_never_reach_the_rule_for_everybody() -> None:
    rules = _rules(render_hba())
    everybody = next(i for i, r in enumerate(rules) if r[:3] == ["hostssl", "all", "all"])
    rejected = [r for r in rules[:everybody] if r[0] == "host" and r[-1] == "reject"]
    assert any('"/^matriarch_"' in r[2] and "postgres" in r[2].split(",")[0] for r in rejected)
    assert any(r[1] == "replication" and r[2] == "all" for r in rejected)
    assert rules[-1][-1] == "reject"
    for role in _RESERVED:
        methods = {r[4] for r in rules[:everybody] if role in r[2].split(",") and r[0] == "hostssl"}
        assert methods == {"cert"}


def test_superuser_access_is_asked_for() -> None:
    def method(text: str) -> str:
        return next(r[4] for r in _rules(text) if r[:3] == ["hostssl", "all", "postgres"])

    assert method(render_hba()) == "cert"
    assert method(render_hba(superuser_access=True)) == "scram-sha-256"


@pytest.mark.parametrize(
    ("cluster", "name", "expected"),
    [
        ("orders", "orders-1", True),
        ("orders", "orders-9", True),
        ("orders", "orders-10", False),
        ("orders", "xorders-1", False),
        ("orders", "orders-1x", False),
        ("orders", "orders-eu-1", False),
        ("a.b", "a.b-1", True),
        ("a.b", "axb-1", False),
    ],
)
def test_only_this_clusters_instances_are_let_in(cluster: str, name: str, *, expected: bool) -> None:
    patterns = re.findall(r'"/(\S+)"\s+matriarch_stream', render_ident(cluster, "postgres"))
    assert [bool(re.search(p, name)) for p in patterns] == [expected]


@pytest.mark.parametrize(
    ("cluster", "user"), [("or ders", "postgres"), ("orders\nx", "postgres"), ("o", "a b"), ("o", "")]
)
def test_names_that_mean_more_than_themselves_are_refused(cluster: str, user: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        render_ident(cluster, user)
