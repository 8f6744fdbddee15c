"""Helm and kustomize install the same, least rights and all, and what they install is accepted and stays as it is."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev import programs
from dev.host import PROJECT
from dev.kubectl import Kubectl, KubectlError, kubectl_command
from matriarch.api.database_cluster import DatabaseCluster
from matriarch.api.defaults import fill
from matriarch.controller.watches import OWNED
from matriarch.kube.kinds import KINDS
from matriarch.resources.access import access
from matriarch.resources.blueprint import Blueprint
from tests.api_cases import manifest

CHART = PROJECT / "helm/matriarch"
NAMESPACE = "matriarch-system"
Object = dict[str, Any]


def _helm(*arguments: object) -> subprocess.CompletedProcess[str]:
    helm = shutil.which("helm") or str(programs.ensure("helm"))
    return subprocess.run([helm, *map(str, arguments)], text=True, capture_output=True, check=False)


def _template(*arguments: str, release: str = "matriarch") -> list[Object]:
    done = _helm("template", release, CHART, "--namespace", NAMESPACE, *arguments)
    assert done.returncode == 0, done.stderr
    return [obj for obj in yaml.safe_load_all(done.stdout) if obj]


def _kustomize(folder: str) -> list[Object]:
    done = subprocess.run(
        [*kubectl_command(), "kustomize", str(PROJECT / "manifests" / folder)],
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [obj for obj in yaml.safe_load_all(done.stdout) if obj]


def _plain(obj: Object) -> Object:
    """Without what only says which tool made it."""
    obj = json.loads(json.dumps(obj))
    labels = obj["metadata"].get("labels", {})
    for name in ("helm.sh/chart", "app.kubernetes.io/managed-by"):
        labels.pop(name, None)
    annotations = obj["metadata"].get("annotations", {})
    annotations.pop("helm.sh/resource-policy", None)
    if not annotations:
        obj["metadata"].pop("annotations", None)
    return dict(obj)


def _by_name(objects: list[Object]) -> dict[tuple[str, str, str], Object]:
    return {(o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"]): _plain(o) for o in objects}


@pytest.mark.parametrize(
    ("folder", "values"),
    [("base", []), ("namespaced", [f"--set=watchNamespace={NAMESPACE}", "--set=rbac.aggregateClusterRoles=false"])],
)
def test_helm_and_kustomize_give_the_same_objects(folder: str, values: list[str]) -> None:
    by_helm, by_kustomize = _by_name(_template(*values)), _by_name(_kustomize(folder))
    # Helm makes the namespace by --create-namespace.
    assert by_kustomize.pop(("Namespace", "", NAMESPACE))
    assert set(by_helm) == set(by_kustomize)
    for key, obj in by_helm.items():
        assert obj == by_kustomize[key], key
    assert len(by_helm) >= 9


@pytest.mark.parametrize("release", ["matriarch", "other"])
def test_the_podmonitor_finds_the_operators_pods_and_port(release: str) -> None:
    monitor = yaml.safe_load((PROJECT / "manifests/monitoring/podmonitor.yaml").read_text())["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    for objects in (_template(release=release), _kustomize("base")):
        (pod,) = [o["spec"]["template"] for o in objects if o["kind"] == "Deployment"]
        assert monitor["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        (container,) = pod["spec"]["containers"]
        assert endpoint["port"] in {port["name"] for port in container["ports"]}
    # Without it `namespace` would be the operator's, and clusters of one name would be one.
    assert (endpoint["path"], endpoint["honorLabels"]) == ("/metrics", True)


def test_helm_lint_is_strict_and_silent() -> None:
    done = _helm("lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("replica=2", "additional properties 'replica' not allowed"),
        ("image.tagg=1", "additional properties 'tagg' not allowed"),
        ("replicas=0", "minimum: got 0, want 1"),
        ("image.pullPolicy=Sometimes", "value must be one of"),
        ("image.digest=abc", "does not match pattern"),
        ("watchNamespace=Not_A_Name", "does not match pattern"),
        ("postgres.images.12=x", "additional properties '12' not allowed"),
        ("crds.enabled=maybe", "got string, want boolean"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(value: str, said: str) -> None:
    done = _helm("template", "matriarch", CHART, "--set", value)
    assert done.returncode != 0
    assert said in done.stderr


def test_values_reach_the_objects() -> None:
    digest = "sha256:" + "0" * 64
    objects = _by_name(
        _template(
            f"--set=image.repository=example.com/op,image.digest={digest},postgres.images.17=example.com/pg:17",
            "--set=replicas=1,crds.enabled=false,serviceAccount.create=false,serviceAccount.name=mine",
            "--set=imagePullSecrets[0].name=registry",
            release="other",
        )
    )
    assert not [
        key for key in objects if key[0] in {"CustomResourceDefinition", "ServiceAccount", "PodDisruptionBudget"}
    ]
    pod = objects["Deployment", NAMESPACE, "other-matriarch"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == f"example.com/op@{digest}"
    env = {e["name"]: e.get("value") for e in pod["containers"][0]["env"]}
    assert json.loads(env["MATRIARCH_POSTGRES_IMAGES"]) == {"17": "example.com/pg:17"}
    assert (pod["serviceAccountName"], pod["imagePullSecrets"]) == ("mine", [{"name": "registry"}])


def test_the_chart_renders_the_same_everywhere() -> None:
    """Argo CD only renders templates: whatever asks the cluster, rolls dice or knows of upgrades would drift."""
    text = "".join(p.read_text(encoding="utf-8") for p in (CHART / "templates").rglob("*") if p.is_file())
    assert not re.search(
        r"\blookup\b|\brand(Alpha|Numeric|Ascii|Bytes|Int)|uuidv4|genCA|IsUpgrade|IsInstall|\{\{-? *now\b", text
    )
    assert _template() == _template("--is-upgrade")


def test_definitions_stay_when_the_release_goes() -> None:
    crds = [o for o in _template() if o["kind"] == "CustomResourceDefinition"]
    assert {o["metadata"]["annotations"]["helm.sh/resource-policy"] for o in crds} == {"keep"}
    assert len(crds) == 4
    assert not any("annotations" in o["metadata"] for o in _template("--set=crds.keep=false") if o in crds)


@pytest.fixture(scope="module")
def installed(kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Helm renders, applied by kubectl."""
    path = tmp_path_factory.mktemp("install") / "all.yaml"
    path.write_text(yaml.safe_dump_all(_template()))
    labels = "pod-security.kubernetes.io/enforce=restricted"
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    kubectl.run("apply", "-f", "-", stdin=json.dumps(namespace))
    kubectl.run("label", "namespace", NAMESPACE, labels, "--overwrite")
    kubectl.run("apply", "--server-side", "--force-conflicts", "--validate=strict", "-f", path)
    return path


def test_a_second_apply_changes_nothing(kubectl: Kubectl, installed: Path) -> None:
    assert kubectl.run("diff", "--server-side", "--force-conflicts", "-f", installed) == ""


def test_the_operators_pod_passes_the_restricted_standard(kubectl: Kubectl, installed: Path) -> None:
    del installed
    template = next(o for o in _template() if o["kind"] == "Deployment")["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    pod["metadata"] = {**template["metadata"], "name": "probe"}
    kubectl.run("create", "-n", NAMESPACE, "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(KubectlError, match="violates PodSecurity"):
        kubectl.run("create", "-n", NAMESPACE, "--dry-run=server", "-f", "-", stdin=json.dumps(pod))


# --- rights -------------------------------------------------------------------------------------------------------

VERBS = {
    "get": {"get"},
    "list": {"list"},
    "watch": {"list", "watch"},
    "create": {"create"},
    "replace": {"update"},
    "apply": {"create", "patch"},
    "apply_status": {"patch"},
    "patch": {"patch"},
    "delete": {"delete"},
}


def _granted(rules: list[Object]) -> set[tuple[str, str, str]]:
    return {(g, r, v) for rule in rules for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]}


@pytest.fixture(scope="module")
def rights() -> set[tuple[str, str, str]]:
    """(group, resource, verb) of the operator."""
    role = next(o for o in _template() if o["kind"] == "ClusterRole" and o["metadata"]["name"] == "matriarch")
    return _granted(role["rules"])


def _calls() -> set[tuple[str, str]]:
    """(method, kind) of every call of the API in the controller's sources whose kind stands there as a word."""
    found = set()
    source = PROJECT / "operator/matriarch"
    for path in [*source.glob("controller/*.py"), source / "kube/events.py", source / "kube/lease.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            first = node.args[0]
            if node.func.attr not in VERBS:
                continue
            if isinstance(first, ast.Dict):
                pairs = zip(first.keys, first.values, strict=True)
                first = next((v for k, v in pairs if isinstance(k, ast.Constant) and k.value == "kind"), first)
            if isinstance(first, ast.Constant) and first.value in KINDS:
                found.add((node.func.attr, str(first.value)))
    return found


def _right(kind: str, verb: str, subresource: str = "") -> tuple[str, str, str]:
    return KINDS[kind].group, KINDS[kind].plural + subresource, verb


def test_the_operator_may_do_what_its_sources_do(rights: set[tuple[str, str, str]]) -> None:
    calls = _calls()
    assert len(calls) > 30
    for method, kind in calls:
        subresource = "/status" if method == "apply_status" else ""
        for verb in VERBS[method]:
            assert _right(kind, verb, subresource) in rights, f"{method} of {kind}"


def test_the_operator_may_watch_and_write_everything_that_a_cluster_is_made_of(
    rights: set[tuple[str, str, str]],
) -> None:
    for kind in OWNED:
        for verb in ("list", "watch", "create", "patch", "delete"):
            assert _right(kind, verb) in rights, f"{verb} of {kind}"


def _grants() -> list[list[Object]]:
    cluster = DatabaseCluster.model_validate(manifest("DatabaseCluster"))
    blueprint = Blueprint(cluster, fill("orders", cluster.spec), "image")
    return [o["rules"] for o in access(blueprint, blueprint.instances) if o["kind"] == "Role"]


def test_the_operator_holds_what_it_grants(rights: set[tuple[str, str, str]]) -> None:
    """The API server lets nobody grant what he does not hold."""
    assert len(_grants()) >= 2
    for rules in _grants():
        assert _granted(rules) <= rights


def test_no_right_is_a_wildcard_or_reaches_beyond_the_namespaces(rights: set[tuple[str, str, str]]) -> None:
    assert not [right for right in rights if "*" in right]
    namespaced = {(k.group, k.plural) for k in KINDS.values() if k.namespaced}
    assert {(group, resource.split("/")[0]) for group, resource, _ in rights} <= namespaced


# Calls whose kind does not stand there as a word.
BUILT = {
    ("replace", "Lease"),  # kube/lease.py, execute.py
    ("replace", "Secret"),  # certify.py
    ("create", "DatabaseCluster"),  # restore_reconcile.py: the new cluster
    ("create", "Backup"),  # restore_reconcile.py: the safety backup
    ("create", "Event"),  # kube/events.py
    ("apply_status", "DatabaseCluster"),  # status.py
    ("get", "StatefulSet"),  # application.py
    ("list", "StatefulSet"),  # application.py
    ("patch", "StatefulSet"),  # application.py
}


def test_no_right_is_more_than_is_needed(rights: set[tuple[str, str, str]]) -> None:
    roots = ("DatabaseCluster", "Backup", "BackupSchedule", "Restore")
    needed = {_right(kind, verb) for kind in OWNED for verb in ("get", "list", "watch", "create", "patch", "delete")}
    needed |= {_right(kind, verb) for kind in roots for verb in ("get", "list", "watch")}
    needed |= {_right(kind, "update", "/finalizers") for kind in roots}  # owner references that block deletion
    needed |= {_right(kind, "get", "/status") for kind in roots}
    for method, kind in _calls() | BUILT:
        needed |= {_right(kind, verb, "/status" if method == "apply_status" else "") for verb in VERBS[method]}
    for rules in _grants():
        needed |= _granted(rules)
    assert rights - needed == set()


def test_the_real_authorizer_agrees(kubectl: Kubectl, installed: Path) -> None:
    del installed
    who = f"--as=system:serviceaccount:{NAMESPACE}:matriarch"
    kubectl.run("auth", "can-i", "create", "pods", "-n", "any", who)
    kubectl.run("auth", "can-i", "patch", "databaseclusters.matriarch.dev/x", "--subresource=status", "-n", "any", who)
    beyond = (
        ["get", "nodes"],
        ["create", "clusterroles"],
        ["create", "pods", "--subresource=exec", "-n", "any"],
        ["list", "namespaces"],
    )
    for refused in beyond:
        with pytest.raises(KubectlError):
            kubectl.run("auth", "can-i", *refused, who)
