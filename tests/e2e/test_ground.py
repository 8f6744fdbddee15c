"""The local Kubernetes itself: what every other end-to-end test takes for granted."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
import uuid
from typing import TYPE_CHECKING

import pytest

from dev.kubebox.volumes import Volume
from dev.kubectl import KubectlError, holds, wait

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dev.cluster import Ground, Nodes
    from dev.kubectl import Kubectl, Object

MIB = 2**20
SERVER = "import http.server as h; h.ThreadingHTTPServer(('', 8000), h.SimpleHTTPRequestHandler).serve_forever()"


@pytest.fixture(scope="module")
def image(ground: Ground) -> str:
    return ground.load_images()["postgres"]


@pytest.fixture
def space(kubectl: Kubectl) -> Iterator[str]:
    """A namespace of its own; these tests need no operator."""
    name = f"ground-{uuid.uuid4().hex[:6]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    # Pods are refused until the controller manager has made it, which takes a moment.
    kubectl.run("wait", "--for=create", "serviceaccount/default", "-n", name, "--timeout=60s")
    yield name
    kubectl.run("delete", "namespace", name, "--wait=false")


def _pod(name: str, image: str, node: str, claim: str = "") -> Object:
    """A small web server under the rules that the product's own pods keep."""
    volumes: list[Object] = [{"name": "tmp", "emptyDir": {"medium": "Memory"}}]
    mounts = [{"name": "tmp", "mountPath": "/tmp"}]
    if claim:
        volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": "data", "mountPath": "/var/lib/matriarch"})
    container = {
        "name": "web",
        "image": image,
        "command": ["python", "-c", SERVER],
        "workingDir": "/tmp",
        "volumeMounts": mounts,
        "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "containers": [container],
            "volumes": volumes,
            "nodeSelector": {"kubernetes.io/hostname": node},
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 999,
                "runAsGroup": 999,
                "fsGroup": 999,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        },
    }


def _service(name: str) -> Object:
    spec = {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8000}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def _claim(name: str, size: str) -> Object:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def _ready(kubectl: Kubectl, space: str, pod: str) -> None:
    kubectl.run("wait", "-n", space, "--for=condition=Ready", f"pod/{pod}", "--timeout=90s", timeout=100)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _sh(kubectl: Kubectl, space: str, pod: str, line: str) -> str:
    return kubectl.run("exec", "-n", space, pod, "--", "sh", "-c", line)


def test_a_volume_has_its_size_and_grows_in_use(kubectl: Kubectl, space: str, image: str, nodes: Nodes) -> None:
    kubectl.apply(_claim("data", "400Mi"), _pod("a", image, "node2", "data"), namespace=space)
    _ready(kubectl, space, "a")
    folder = "/var/lib/matriarch"
    with pytest.raises(KubectlError, match="No space left on device"):
        _sh(kubectl, space, "a", f"dd if=/dev/zero of={folder}/fill bs=1M count=1000")
    before = int(_sh(kubectl, space, "a", f"stat -c %s {folder}/fill"))
    assert 200 * MIB < before <= 400 * MIB
    kubectl.patch("persistentvolumeclaim", "data", space, {"spec": {"resources": {"requests": {"storage": "800Mi"}}}})
    wait(
        "the claim's new size",
        lambda: kubectl.need("pvc", "data", space)["status"]["capacity"]["storage"] == "800Mi" or None,
        timeout=60,
    )
    _sh(kubectl, space, "a", f"dd if=/dev/zero of={folder}/more bs=1M count=300 conv=fsync")
    assert int(_sh(kubectl, space, "a", f"stat -c %s {folder}/fill")) == before
    with pytest.raises(KubectlError):
        kubectl.patch(
            "persistentvolumeclaim", "data", space, {"spec": {"resources": {"requests": {"storage": "500Mi"}}}}
        )
    name = kubectl.need("pvc", "data", space)["spec"]["volumeName"]
    volume = Volume(nodes.cluster.folder / "volumes" / "node2" / name)
    assert volume.image.exists()
    kubectl.delete("pod", "a", space)
    kubectl.delete("pvc", "data", space)
    wait("the volume's removal", lambda: kubectl.get("pv", name) is None or None, timeout=60)
    assert not volume.folder.exists()


def test_names_of_services_and_pods_resolve(kubectl: Kubectl, space: str, image: str) -> None:
    kubectl.apply(_pod("a", image, "node1"), _pod("b", image, "node2"), _service("b"), namespace=space)
    for pod in ("a", "b"):
        _ready(kubectl, space, pod)
    wanted = kubectl.need("service", "b", space)["spec"]["clusterIP"]
    for name in ("b", f"b.{space}", f"b.{space}.svc.cluster.local"):
        assert _sh(kubectl, space, "a", f"getent hosts {name}").split()[0] == wanted
    # Ready is a moment earlier than the rules of the other node's kube-proxy.
    once = "curl -s -m 3 -o /dev/null -w '%{http_code}' http://b/"
    answer = wait("an answer of the Service", lambda: _sh(kubectl, space, "a", once) or None, timeout=20)
    assert answer == "200"
    with pytest.raises(KubectlError):
        _sh(kubectl, space, "a", "getent hosts no-such-service")


def test_services_are_reached_from_the_machine_whichever_node_is_lost(
    kubectl: Kubectl, space: str, image: str, nodes: Nodes
) -> None:
    names = [n.name for n in nodes.cluster.nodes]
    for node in names:
        kubectl.apply(
            _claim(node, "300Mi"), _pod(f"on-{node}", image, node, node), _service(f"on-{node}"), namespace=space
        )
    addresses = {}
    for node in names:
        _ready(kubectl, space, f"on-{node}")
        _sh(kubectl, space, f"on-{node}", f"echo {node} > /var/lib/matriarch/kept; sync")
        addresses[node] = f"http://{kubectl.need('service', f'on-{node}', space)['spec']['clusterIP']}/"
        wait(f"an answer from {node}", lambda url=addresses[node]: _answers(url) or None, timeout=20)  # type: ignore[misc]  # a default argument
    for lost in names:
        nodes.kill_node(lost)
        try:
            assert not _answers(addresses[lost])
            for other in names:
                assert other == lost or _answers(addresses[other]), f"{other} is out of reach without {lost}"
        finally:
            nodes.start_node(lost)
        wait(f"an answer from {lost}", lambda url=addresses[lost]: _answers(url) or None, timeout=90)  # type: ignore[misc]  # a default argument
        assert _kept(kubectl, space, f"on-{lost}") == lost


def _kept(kubectl: Kubectl, space: str, pod: str) -> str:
    """What the pod's volume holds, once its kubelet is back."""
    return wait("the pod's shell", lambda: _sh(kubectl, space, pod, "cat /var/lib/matriarch/kept").strip(), timeout=60)


@pytest.mark.parametrize("direction", ["both", "in", "out"])
def test_a_cut_cable_is_silent_and_heals(
    kubectl: Kubectl, space: str, image: str, nodes: Nodes, direction: str
) -> None:
    kubectl.apply(_pod("a", image, "node3"), _service("a"), namespace=space)
    _ready(kubectl, space, "a")
    url = f"http://{kubectl.need('service', 'a', space)['spec']['clusterIP']}/"
    wait("an answer", lambda: _answers(url) or None, timeout=20)
    nodes.cut("node3", direction)  # type: ignore[arg-type]  # one of the three words
    try:
        started = time.monotonic()
        assert not _answers(url)
        assert time.monotonic() - started >= 0.9, "the refusal came at once: somebody was told"
    finally:
        nodes.heal("node3")
        nodes.heal("node3")
    wait("an answer", lambda: _answers(url) or None, timeout=20)


def test_a_refusal_is_heard_at_once_and_the_node_stays_ready(
    kubectl: Kubectl, space: str, image: str, nodes: Nodes
) -> None:
    kubectl.apply(_pod("a", image, "node3"), _service("a"), namespace=space)
    _ready(kubectl, space, "a")
    url = f"http://{kubectl.need('service', 'a', space)['spec']['clusterIP']}/"
    wait("an answer", lambda: _answers(url) or None, timeout=20)
    nodes.refuse("node3")  # type: ignore[attr-defined]  # only the local Kubernetes' own nodes can
    try:
        nodes.refuse("node3")  # type: ignore[attr-defined]
        started = time.monotonic()
        assert not _answers(url)
        assert time.monotonic() - started < 0.9, "nobody was told"
        assert holds(kubectl.need("node", "node3"), "Ready")
    finally:
        nodes.heal("node3")
    wait("an answer", lambda: _answers(url) or None, timeout=20)


def test_the_api_server_stops_and_comes_back(kubectl: Kubectl, nodes: Nodes) -> None:
    nodes.stop_api()
    nodes.stop_api()
    with pytest.raises(KubectlError):
        kubectl.run("get", "--raw", "/readyz", timeout=10)
    nodes.start_api()
    nodes.start_api()
    assert kubectl.run("get", "--raw", "/readyz") == "ok"
    nodes.freeze_api()
    with pytest.raises(KubectlError):
        kubectl.run("get", "--raw", "/readyz", "--request-timeout=2s", timeout=10)
    nodes.start_api()
    assert kubectl.run("get", "--raw", "/readyz") == "ok"


def test_pods_and_the_machine_reach_the_same_s3_server(
    kubectl: Kubectl, space: str, image: str, ground: Ground, tmp_path: Path
) -> None:
    server = ground.s3()
    assert ground.s3() == server
    bucket = f"b-{uuid.uuid4().hex[:8]}"
    server.make_bucket(bucket)
    kubectl.apply(_pod("a", image, "node1"), namespace=space)
    _ready(kubectl, space, "a")
    code = (
        "import boto3, json, sys; c = json.load(sys.stdin);"
        "s = boto3.client('s3', endpoint_url=c['endpoint'], region_name='us-east-1',"
        " aws_access_key_id=c['access'], aws_secret_access_key=c['secret']);"
        "s.put_object(Bucket=c['bucket'], Key='from-a-pod', Body=b'hello')"
    )
    keys = {"endpoint": server.endpoint, "access": server.access_key, "secret": server.secret_key, "bucket": bucket}
    kubectl.run("exec", "-i", "-n", space, "a", "--", "python", "-c", code, stdin=json.dumps(keys))
    assert server.client().get_object(Bucket=bucket, Key="from-a-pod")["Body"].read() == b"hello"


def test_pod_security_is_enforced(kubectl: Kubectl, space: str, image: str) -> None:
    pod = _pod("root", image, "node1")
    pod["spec"]["securityContext"] = {"runAsUser": 0}
    with pytest.raises(KubectlError, match="violates PodSecurity"):
        kubectl.apply(pod, namespace=space)
