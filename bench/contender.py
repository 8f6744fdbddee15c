"""What a benchmark must know of a cluster to strike it: the same for ours and for the peer's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dev.kubectl import Kubectl, Object
    from dev.product import Database


class Contender(Protocol):
    """A cluster of one primary and its replicas, each in a pod of its own."""

    @property
    def kubectl(self) -> Kubectl: ...
    @property
    def namespace(self) -> str: ...
    @property
    def primary(self) -> str:
        """The pod that takes writes. Raises DevError while there is none."""

    @property
    def agent(self) -> str:
        """A part of the command line of the process that decides beside the database."""

    @property
    def volume(self) -> str:
        """Where the data volume is mounted inside the container."""

    def instances(self) -> Sequence[str]:
        """Every pod's name."""

    def pod(self, instance: str) -> Object: ...
    def node_of(self, instance: str) -> str: ...

    def database(self) -> Database:
        """How a client outside of the cluster reaches the primary."""

    def wait_ready(self, *, timeout: float = 180) -> Object:
        """Until every instance is whole. Raises DevError when it is not after `timeout` seconds."""

    def hand_over(self, instance: str) -> None:
        """Asks for a planned switchover to this instance, and does not wait for it."""

    def wait_primary(self, instance: str, *, timeout: float = 60) -> None: ...
    def describe(self) -> str: ...
