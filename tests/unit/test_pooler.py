"""The pooler's objects and its settings."""

from __future__ import annotations

import base64
import configparser
from typing import Any

import pytest
import yaml

from matriarch.api.database_cluster import DatabaseCluster
from matriarch.api.defaults import fill
from matriarch.decide.conditions import of_cluster
from matriarch.decide.facts import Facts, Pooler, Wish
from matriarch.decide.verdict import Standing, Verdict
from matriarch.postgres.hba import render_hba
from matriarch.postgres.parameters import validate
from matriarch.postgres.preload import DOOR, SYNC_WAIT, split_by_presence
from matriarch.resources import names, secrets
from matriarch.resources.blueprint import Blueprint
from matriarch.resources.config import PRELOAD
from matriarch.resources.pooler import hosts, pooler


def blueprint(pooler: dict[str, Any] | None, **spec: Any) -> Blueprint:
    whole = {"version": "17", "instances": 3, "storage": {"size": "1Gi"}, **spec}
    if pooler is not None:
        whole["pooler"] = pooler
    cluster = DatabaseCluster.model_validate(
        {"metadata": {"name": "orders", "namespace": "prod", "uid": "u"}, "spec": whole}
    )
    return Blueprint(cluster, fill("orders", cluster.spec), "users/own:1", pooler_image="operators:1")


def made(**asked: Any) -> dict[tuple[str, str], dict[str, Any]]:
    return {(o["kind"], o["metadata"]["name"]): o for o in pooler(blueprint(asked))}


def settings(**asked: Any) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(made(**asked)["ConfigMap", "orders-pooler"]["data"]["pgbouncer-rw.ini"])
    assert parser["databases"]["*"] == "host=orders-rw.prod.svc port=5432"
    return parser["pgbouncer"]


def test_no_pooler_no_objects() -> None:
    assert pooler(blueprint(None)) == []


def test_the_defaults_are_those_of_the_requirements() -> None:
    found = settings()
    assert (found["min_pool_size"], found["default_pool_size"]) == ("2", "10")
    times = ("query_wait_timeout", "server_connect_timeout", "server_idle_timeout")
    assert {found[t] for t in times} == {"30"}
    assert (found["pool_mode"], found["max_client_conn"]) == ("transaction", "1000")


def test_everything_is_settable() -> None:
    found = settings(
        poolMode="session",
        minConnections=0,
        maxConnections=3,
        maxClients=7,
        acquireTimeoutMilliseconds=500,
        connectTimeoutMilliseconds=2500,
        idleTimeoutMilliseconds=1000,
        lifetimeMilliseconds=60_000,
    )
    assert (found["min_pool_size"], found["default_pool_size"], found["max_client_conn"]) == ("0", "3", "7")
    times = ("query_wait_timeout", "server_connect_timeout", "server_idle_timeout", "server_lifetime")
    assert [found[t] for t in times] == ["0.5", "2.5", "1", "60"]


def test_both_sides_are_encrypted_and_the_server_is_checked_by_name() -> None:
    found = settings()
    assert found["server_tls_sslmode"] == "verify-full"
    assert found["client_tls_sslmode"] == "require"
    assert found["auth_type"] == "scram-sha-256"
    assert "admin_users" not in found


@pytest.mark.parametrize(("mode", "doors"), [(None, {"rw"}), ("rw", {"rw"}), ("ro", {"ro"}), ("both", {"rw", "ro"})])
def test_a_door_is_a_deployment_a_service_and_a_budget(mode: str | None, doors: set[str]) -> None:
    found = made(**({"mode": mode} if mode else {}))
    for kind in ("Deployment", "Service", "PodDisruptionBudget"):
        assert {n for k, n in found if k == kind} == {f"orders-pooler-{d}" for d in doors}


def test_a_single_pod_has_no_budget_or_its_node_could_not_be_drained() -> None:
    assert not [k for k in made(instances=1) if k[0] == "PodDisruptionBudget"]


def test_pods_are_restricted_spread_and_never_taken_for_instances() -> None:
    template = made()["Deployment", "orders-pooler-rw"]["spec"]["template"]
    assert names.CLUSTER_LABEL not in template["metadata"]["labels"]
    assert not names.selector("orders").items() <= template["metadata"]["labels"].items()
    spec, (container,) = template["spec"], template["spec"]["containers"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["affinity"]["podAntiAffinity"]
    assert container["image"] == "operators:1", "a user's image need not have PgBouncer"


def test_the_account_may_watch_its_slices_alone() -> None:
    (rule,) = made(mode="both")["Role", "orders-pooler"]["rules"]
    assert rule["resourceNames"] == ["orders-rw", "orders-ro"]
    assert set(rule["verbs"]) == {"get", "list", "watch"}
    assert rule["resources"] == ["endpointslices"]


def test_another_template_is_seen_by_its_hash() -> None:
    def stamp(**asked: Any) -> str:
        return str(made(**asked)["Deployment", "orders-pooler-rw"]["metadata"]["annotations"][names.POD_HASH])

    assert stamp() == stamp(maxConnections=20), "settings are read again by a running pooler"
    assert stamp() != stamp(resources={"requests": {"cpu": "1"}})


def test_the_certificate_has_the_services_names() -> None:
    assert {"orders-pooler-rw.prod.svc", "orders-pooler-ro", "orders-pooler-rw.prod.svc.cluster.local"} <= hosts(
        blueprint({})
    )


def _secret(b: Blueprint, name: str = "orders-app") -> dict[str, str]:
    found = secrets.credentials(b, name, user="app", database="app", password="p/w", authority="CA")
    return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}


@pytest.mark.parametrize("field", ["uri-libpq", "service", "pooler-uri-libpq"])
def test_libpq_s_fields_notice_a_silent_loss(field: str) -> None:
    text = _secret(blueprint({}))[field]
    for setting in ("connect_timeout=2", "tcp_user_timeout=2000", "keepalives=1", "keepalives_idle=2"):
        assert setting in text


def test_jdbc_s_fields_do_what_its_driver_can() -> None:
    found = _secret(blueprint({}))
    for field in ("jdbc-uri", "pooler-jdbc-uri"):
        assert found[field].endswith("&sslmode=require&connectTimeout=2&tcpKeepAlive=true")


def test_the_secret_leads_through_the_pooler_where_there_is_one() -> None:
    both = _secret(blueprint({"mode": "both"}))
    assert both["pooler-uri"] == "postgresql://app:p%2Fw@orders-pooler-rw.prod.svc:5432/app"
    assert both["pooler-ro-host"] == "orders-pooler-ro.prod.svc"
    assert both["pgpass"].count("\n") == 3
    assert {"[orders]", "[orders-pooler-rw]", "[orders-pooler-ro]"} <= set(both["service"].split())
    assert not [k for k in _secret(blueprint(None)) if k.startswith("pooler")]
    assert not [k for k in _secret(blueprint({}), "orders-superuser") if k.startswith("pooler")]


def test_the_pooler_gets_in_when_clients_do() -> None:
    def rule(*, clients: bool) -> str:
        lines = render_hba(clients=clients).splitlines()
        return next(line.split()[-1] for line in lines if "matriarch_pooler" in line)

    assert (rule(clients=True), rule(clients=False)) == ("cert", "reject")


def _condition(*poolers: Pooler) -> tuple[str, str, str]:
    wish = Wish("orders", ("orders-1",), poolers=("orders-pooler-rw",))
    found = of_cluster(Facts(wish, (), poolers=poolers), Verdict(Standing.READY, "A", "b"))
    condition = next(c for c in found if c.type == "PoolerAvailable")
    return condition.status, condition.reason, condition.message


def test_the_condition_says_whether_clients_get_in() -> None:
    assert _condition()[:2] == ("False", "NoPod")
    assert _condition(Pooler("orders-pooler-rw", 2, 0, 2))[:2] == ("False", "NoPod")
    assert _condition(Pooler("orders-pooler-rw", 2, 1, 2)) == (
        "True",
        "PodsReady",
        "orders-pooler-rw: 1 of 2 Pods are ready",
    )
    assert _condition(Pooler("orders-pooler-rw", 2, 2, 2))[2] == "orders-pooler-rw let clients in."


def test_the_library_is_always_asked_for_and_a_users_image_may_lack_it() -> None:
    assert PRELOAD[0] == SYNC_WAIT
    assert split_by_presence(PRELOAD, ["pg_stat_statements.so", "x.so"]) == (("pg_stat_statements",), (SYNC_WAIT, DOOR))
    assert split_by_presence(PRELOAD, [f"{name}.so" for name in PRELOAD]) == (PRELOAD, ())


@pytest.mark.parametrize("level", ["error", "LOG", "fatal", "panic"])
def test_what_hides_a_cancelled_wait_is_refused(level: str) -> None:
    (found,) = validate({"log_min_messages": level}, "17")
    assert "hides cancelled waits for replication" in found.message
    assert validate({"log_min_messages": "warning"}, "17") == []


def test_the_objects_are_plain_data() -> None:
    for manifest in pooler(blueprint({"mode": "both"})):
        assert yaml.safe_load(yaml.safe_dump(manifest)) == manifest
