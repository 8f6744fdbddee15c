"""What is sent to a node is a whole OCI image, less the layers that the node has."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING

import pytest

from dev.host import DevError
from dev.kubebox import nodeimages

if TYPE_CHECKING:
    from pathlib import Path


def _sha(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _archive(path: Path, layers: list[bytes]) -> Path:
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [_sha(layer) for layer in layers]}}).encode()
    members = {f"layer{i}.tar": layer for i, layer in enumerate(layers)}
    manifest = [{"Config": "c.json", "RepoTags": ["localhost/x:1"], "Layers": list(members)}]
    with tarfile.open(path, "w") as tar:
        for name, content in {"c.json": config, **members, "manifest.json": json.dumps(manifest).encode()}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def _written(image: nodeimages.Packed, present: set[str]) -> dict[str, bytes]:
    out = io.BytesIO()
    image.write(out, present)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        files = {}
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            files[member.name] = content.read()
        return files


def test_every_blob_is_what_its_name_says_and_the_index_leads_to_all(tmp_path: Path) -> None:
    layers = [b"base", b"python", b"code"]
    (image,) = nodeimages.unpack(_archive(tmp_path / "a.tar", layers))
    files = _written(image, set())
    blobs = {f"sha256:{name.rsplit('/', 1)[1]}": content for name, content in files.items() if "sha256" in name}
    assert all(_sha(content) == digest for digest, content in blobs.items())
    (entry,) = json.loads(files["index.json"])["manifests"]
    assert entry["annotations"] == {"io.containerd.image.name": "localhost/x:1"}
    manifest = json.loads(blobs[entry["digest"]])
    assert [blobs[layer["digest"]] for layer in manifest["layers"]] == layers
    assert all(len(blobs[d["digest"]]) == d["size"] for d in [*manifest["layers"], manifest["config"]])


def test_layers_that_are_there_are_left_out_and_still_named(tmp_path: Path) -> None:
    (image,) = nodeimages.unpack(_archive(tmp_path / "a.tar", [b"base", b"code"]))
    whole, thin = _written(image, set()), _written(image, {_sha(b"base")})
    assert set(whole) - set(thin) == {f"blobs/sha256/{hashlib.sha256(b'base').hexdigest()}"}
    assert whole["index.json"] == thin["index.json"]


def test_a_layer_that_occurs_twice_is_sent_once(tmp_path: Path) -> None:
    (image,) = nodeimages.unpack(_archive(tmp_path / "a.tar", [b"same", b"same"]))
    out = io.BytesIO()
    image.write(out, set())
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        names = tar.getnames()
    assert len(names) == len(set(names))


def test_compressed_layers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DevError, match="is compressed"):
        nodeimages.unpack(_archive(tmp_path / "a.tar", [b"\x1f\x8b..."]))
