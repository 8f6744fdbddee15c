"""Puts image archives into nodes: only where a tag is missing, all nodes at once."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dev.host import CACHE, run
from dev.kubebox.names import Cluster, Node
from dev.kubebox.node import PAUSE


def names_in(archive: Path) -> list[str]:
    """The image names that an archive (as `docker save` writes them) holds."""
    with tarfile.open(archive) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        return [name for entry in json.load(manifest) for name in entry["RepoTags"] or []]


def present(node: Node) -> set[str]:
    """The names of the images that a node has."""
    return set(_ctr(node, "images", "list", "--quiet").split())


def _ctr(node: Node, *words: object) -> str:
    return run("ctr", "--address", node.containerd, "--namespace", "k8s.io", *words)


def load(cluster: Cluster, archives: Sequence[Path]) -> int:
    """Import archives into every node that runs and lacks one of their images; how many imports there were."""
    running = [node for node in cluster.nodes if node.containerd.exists()]
    with ThreadPoolExecutor() as pool:
        return sum(pool.map(lambda node: load_into(node, archives), running))


def load_into(node: Node, archives: Sequence[Path]) -> int:
    """Import the archives whose images a node lacks; how many there were."""
    there = present(node)
    missing = [a for a in archives if not there.issuperset(names_in(a))]
    for archive in missing:
        _ctr(node, "images", "import", archive)
    return len(missing)


def pause_archive(binary: Path) -> Path:
    """The image of the program that holds a pod's namespaces; made without any builder."""
    path = CACHE / "images" / f"{binary.name}.tar"
    if path.exists():
        return path
    layer = _tar({"pause": binary.read_bytes()}, 0o755)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    manifest = [{"Config": "config.json", "RepoTags": [PAUSE], "Layers": ["layer.tar"]}]
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half")
    half.write_bytes(_tar({"manifest.json": json.dumps(manifest).encode(), "config.json": config, "layer.tar": layer}))
    half.rename(path)
    return path


def _tar(files: dict[str, bytes], mode: int = 0o644) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
