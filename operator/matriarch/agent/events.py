"""What an agent does on its own account, told as Events of the DatabaseCluster: `kubectl describe` shows them."""

from __future__ import annotations

import logging

from matriarch.agent.instance import Instance
from matriarch.kube.client import Object
from matriarch.kube.events import Recorder

log = logging.getLogger(__name__)


class Notices:
    """Never fails its caller, and never waits longer than the API's own time limit."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._recorder = Recorder(instance.kube, "matriarch-agent", instance=instance.env.node)

    async def tell(self, reason: str, message: str) -> None:
        """Something that is well."""
        if (about := self._about()) is not None:
            await self._recorder.record(about, reason, message, kind="Normal")

    async def warn(self, reason: str, message: str) -> None:
        """Something that is not."""
        if (about := self._about()) is not None:
            await self._recorder.record(about, reason, message, kind="Warning")

    def _about(self) -> Object | None:
        config, env = self._instance.config, self._instance.env
        if config is None or not config.uid:
            return None
        metadata = {"name": env.cluster, "namespace": env.namespace, "uid": config.uid}
        return {"apiVersion": "matriarch.dev/v1alpha1", "kind": "DatabaseCluster", "metadata": metadata}
