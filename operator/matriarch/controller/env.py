"""What every reconciler is given: the API server, the agents, the recorder, the queue and the settings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from matriarch.controller.agents import Agents
from matriarch.controller.queue import Key, WorkQueue
from matriarch.controller.settings import Settings
from matriarch.kube.client import Kube
from matriarch.kube.events import Recorder

MANAGER = "matriarch-controller"


@dataclass(frozen=True, slots=True)
class Env:
    """One per process. Reconcilers hold no state of their own: they may be run on another replica next time."""

    kube: Kube
    agents: Agents
    recorder: Recorder
    queue: WorkQueue
    settings: Settings

    def enqueue(self, kind: str, namespace: str, name: str) -> None:
        """Have another object looked at, for example the owner of this one."""
        self.queue.add(Key(kind, namespace, name))

    def now(self) -> datetime:
        """The wall clock, UTC; asked once per reconcile, while gathering."""
        return datetime.now(UTC)
