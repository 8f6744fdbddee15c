"""Images that a new node finds unpacked: a containerd folder made once, whose files new nodes share by hard links.

Unpacking the images costs seconds of work for every node of every new cluster. Layers never change once they are
unpacked (containers write above them), so all nodes can share them; only containerd's two small databases are copied.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dev.host import CACHE, DevError, lock, run, say
from dev.kubebox import nodeimages
from dev.kubebox.names import RUN
from dev.kubebox.processes import Processes

FOLDER = CACHE / "seeds"
_KEPT = 2
_SHARED = ("io.containerd.content.v1.content/blobs", "io.containerd.snapshotter.v1.overlayfs/snapshots")
_COPIED = ("io.containerd.metadata.v1.bolt/meta.db", "io.containerd.snapshotter.v1.overlayfs/metadata.db")

_SETTINGS = """\
version = 2
root = "{root}"
state = "{run}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{socket}"
[ttrpc]
  address = "{socket}.ttrpc"
"""


def ensure(key: str, archives: Sequence[Path]) -> None:
    """Make the seed `key` of these images, unless it is there. Old seeds go; what nodes share stays with them."""
    path = FOLDER / key
    if path.exists():
        return
    with lock(CACHE / "seed.lock"):
        if path.exists():
            return
        say("unpacking the images once for all new nodes")
        half = FOLDER / f".{key}"
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        _fill(half, archives)
        half.rename(path)
        newest = sorted(_all(), key=lambda p: p.stat().st_mtime, reverse=True)
        for old in newest[_KEPT:]:
            shutil.rmtree(old, ignore_errors=True)


def _all() -> list[Path]:
    return [p for p in FOLDER.glob("*") if not p.name.startswith(".")]


def _fill(root: Path, archives: Sequence[Path]) -> None:
    folder = RUN / f"seed-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    socket, settings = folder / "containerd.sock", folder / "containerd.toml"
    settings.write_text(_SETTINGS.format(root=root, run=folder, socket=socket))
    processes = Processes(folder)
    try:
        processes.start("containerd", ["containerd", "--config", settings])
        processes.wait("containerd", lambda: nodeimages.answers(socket), 60, "containerd's answer")
        nodeimages.load_into(socket, [image for archive in archives for image in nodeimages.unpack(archive)])
    finally:
        processes.stop("containerd", number=signal.SIGTERM)
        shutil.rmtree(folder, ignore_errors=True)


def plant(root: Path) -> bool:
    """Give a node's containerd, which has never run, the newest seed; False when there is none that can be shared."""
    seeds = sorted(_all(), key=lambda p: p.stat().st_mtime)
    if not seeds or root.exists():
        return False
    half = root.with_name(f"{root.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    try:
        for name in _SHARED:
            (half / name).parent.mkdir(parents=True, exist_ok=True)
            run("cp", "--archive", "--link", seeds[-1] / name, half / name)
        for name in _COPIED:
            (half / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(seeds[-1] / name, half / name)
    except (DevError, OSError) as e:  # another file system, or a seed that is being removed: it is only a short cut
        say(f"nodes start without unpacked images: {e}")
        with suppress(OSError):
            shutil.rmtree(half)
        return False
    half.rename(root)
    return True
