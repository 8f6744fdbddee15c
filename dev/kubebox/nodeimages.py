"""Puts image archives into nodes: only where a tag is missing, only the layers that a node lacks, all nodes at once.

An archive as `docker save` and buildah write it holds every layer. A node that has an older tag already has most of
them, and reading and hashing them again is what an import costs. So what is sent is an OCI archive that has the
image's manifest, its configuration and the missing layers.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dev.host import CACHE, DevError, run, succeeds
from dev.kubebox.names import Cluster
from dev.kubebox.node import PAUSE

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, slots=True)
class Packed:
    """One image of an archive: where its parts are in the file, and what their content is called."""

    archive: Path
    name: str
    config: bytes
    layers: tuple[tuple[str, str, int], ...]  # member of the archive, sha256:… of its content, size

    def manifest(self) -> bytes:
        """The image's manifest in OCI's form."""
        config = {"mediaType": _CONFIG, "digest": _digest(self.config), "size": len(self.config)}
        layers = [{"mediaType": _LAYER, "digest": digest, "size": size} for _, digest, size in self.layers]
        document = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": layers}
        return json.dumps(document, separators=(",", ":")).encode()

    def write(self, out: IO[bytes], present: set[str]) -> None:
        """Write an OCI archive without the layers whose digests are `present`."""
        manifest = self.manifest()
        descriptor = {
            "mediaType": _MANIFEST,
            "digest": _digest(manifest),
            "size": len(manifest),
            "annotations": {"io.containerd.image.name": self.name},
        }
        small = {
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
            "index.json": json.dumps({"schemaVersion": 2, "manifests": [descriptor]}).encode(),
            _blob(_digest(manifest)): manifest,
            _blob(_digest(self.config)): self.config,
        }
        with tarfile.open(fileobj=out, mode="w|") as tar, tarfile.open(self.archive) as source:
            for name, content in small.items():
                _add(tar, name, io.BytesIO(content), len(content))
            for digest, (member, size) in {d: (m, s) for m, d, s in self.layers}.items():
                if digest not in present:
                    layer = source.extractfile(member)
                    assert layer is not None
                    _add(tar, _blob(digest), layer, size)


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _add(tar: tarfile.TarFile, name: str, content: IO[bytes], size: int, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, mode
    tar.addfile(entry, content)


def unpack(archive: Path) -> list[Packed]:
    """The images of an archive; its layers must not be compressed (neither buildah nor Docker does that here)."""
    found = []
    with tarfile.open(archive) as tar:

        def read(member: str) -> bytes:
            content = tar.extractfile(member)
            assert content is not None
            return content.read()

        for entry in json.loads(read("manifest.json")):
            config = read(entry["Config"])
            digests = json.loads(config)["rootfs"]["diff_ids"]
            layers = []
            for member, digest in zip(entry["Layers"], digests, strict=True):
                info = tar.getmember(member)
                while info.issym() or info.islnk():  # the same layer twice
                    target = Path(member).parent / info.linkname if info.issym() else Path(info.linkname)
                    info = tar.getmember(str(target.as_posix()).removeprefix("../"))
                content = tar.extractfile(info)
                assert content is not None
                if content.read(2) == b"\x1f\x8b":
                    raise DevError(f"{archive}: layer {member} is compressed; save the image without compression")
                layers.append((info.name, digest, info.size))
            found += [Packed(archive, name, config, tuple(layers)) for name in entry["RepoTags"] or []]
    return found


def _ctr(socket: Path) -> list[str]:
    return ["ctr", "--address", str(socket), "--namespace", "k8s.io"]


def answers(socket: Path) -> bool:
    """Whether a containerd listens there and answers."""
    return succeeds(*_ctr(socket), "version")


def present(socket: Path) -> set[str]:
    """The names of the images that a containerd has."""
    return set(run(*_ctr(socket), "images", "list", "--quiet").split())


def load(cluster: Cluster, archives: Sequence[Path]) -> int:
    """Import archives into every node that runs and lacks one of their images; how many imports there were."""
    images = [image for archive in archives for image in unpack(archive)]
    running = [node.containerd for node in cluster.nodes if node.containerd.exists()]
    with ThreadPoolExecutor() as pool:
        return sum(pool.map(lambda socket: load_into(socket, images), running))


def load_into(socket: Path, images: Sequence[Packed]) -> int:
    """Import the images that a containerd lacks; how many there were."""
    there = present(socket)
    missing = [i for i in images if i.name not in there]
    for image in missing:
        # A layer's content may be kept for an image that is just being removed: then a second, whole import is due.
        layers = set(run(*_ctr(socket), "content", "list", "--quiet").split())
        try:
            _import(socket, image, layers)
        except DevError:
            _import(socket, image, set())
    return len(missing)


def _import(socket: Path, image: Packed, present_layers: set[str]) -> None:
    words = [*_ctr(socket), "images", "import", "-"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
        assert child.stdin is not None
        try:
            image.write(child.stdin, present_layers)
            said = child.communicate(timeout=600)[0].decode(errors="replace")
        except BrokenPipeError:
            said = child.communicate(timeout=60)[0].decode(errors="replace")
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        raise DevError(f"importing {image.name} by {socket} failed: {said.strip()[-500:]}")


def pause_archive(binary: Path) -> Path:
    """The image of the program that holds a pod's namespaces; made without any builder."""
    path = CACHE / "images" / f"{binary.name}.tar"
    if path.exists():
        return path
    layer = _tar({"pause": binary.read_bytes()}, 0o755)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [PAUSE], "Layers": ["layer.tar"]}]
    files = {
        "manifest.json": json.dumps(manifest).encode(),
        "config.json": json.dumps(config).encode(),
        "layer.tar": layer,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half")
    half.write_bytes(_tar(files))
    half.rename(path)
    return path


def _tar(files: dict[str, bytes], mode: int = 0o644) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            _add(tar, name, io.BytesIO(content), len(content), mode)
    return buffer.getvalue()
