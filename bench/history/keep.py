"""What is kept of a piece that went wrong: all that tells why, also from pods that are gone by then."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from pathlib import Path

from dev.dump import dump
from dev.host import DevError
from dev.install import NAMESPACE
from dev.product import Cluster


class PodLogs:
    """Holds on to the logs of a namespace's containers while a piece runs.

    The kubelet deletes the log of a container that was replaced twice, and all of a deleted pod. A second name for the
    same file keeps it.
    """

    def __init__(self, state: Path, namespace: str, folder: Path) -> None:
        self._state = state
        self._namespace = namespace
        self._folder = folder
        self._seen: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> PodLogs:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stop.wait(1.0):
            for path in self._state.glob(f"*/podlogs/{self._namespace}_*/*/*.log"):
                with contextlib.suppress(OSError):
                    self._take(path)

    def _take(self, path: Path) -> None:
        number = path.stat().st_ino
        if number in self._seen:
            return
        self._seen.add(number)
        pod = path.parent.parent.name.removeprefix(f"{self._namespace}_")
        target = self._folder / f"{pod}-{path.stem}-{number}.log"
        try:
            os.link(path, target)
        except OSError:  # another file system: what is there now, at least
            shutil.copyfile(path, target)


def evidence(cluster: Cluster, folder: Path) -> None:
    """The resources, the Lease, events, and logs of now, beside the history that is in the folder already."""
    try:
        dump(cluster.kubectl, [cluster.namespace, NAMESPACE], folder)
    except DevError as e:
        (folder / "dump-failed.txt").write_text(f"{e}\n")
