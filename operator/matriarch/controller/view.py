"""One DatabaseCluster as it was gathered: the facts that decisions are made of, and the objects behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from matriarch.controller import pki
from matriarch.controller.agents import Door
from matriarch.decide.facts import Facts, Ref
from matriarch.decide.leasetext import LeaseRead
from matriarch.kube.client import Object
from matriarch.resources import names
from matriarch.resources.blueprint import Blueprint

ERASING = "matriarch.dev/erasing"  # on the Lease: a deletion with its data has begun


@dataclass(slots=True)
class View:
    """The facts, and the objects behind them for those who act. `existing` grows while actions are carried out."""

    resource: Object
    now: datetime
    blueprint: Blueprint
    facts: Facts
    wanted: dict[Ref, Object]
    existing: dict[Ref, Object]
    lease: LeaseRead | None = None
    lease_object: Object | None = None  # as read, also where its state can't be
    answers: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    restore_name: str = ""  # of the Restore that holds this cluster up
    closed_by: str = ""  # uid of the Restore for which clients are refused

    @property
    def there(self) -> set[str]:
        """Names of the instances of which a Pod or a volume is there, wanted or not."""
        of_instances = {"Pod", "PersistentVolumeClaim"}
        cluster = self.blueprint.name
        return {n for kind, n in self.existing if kind in of_instances and names.is_instance(cluster, n)}

    @property
    def authority(self) -> Object | None:
        """The Secret of the certificate authority, if there is one."""
        return self.existing.get(Ref("Secret", names.authority(self.blueprint.name)))

    @property
    def door(self) -> Door | None:
        """How to reach the agents, if the cluster has an authority yet."""
        return door_of(self.blueprint.namespace, self.blueprint.name, self.authority)


def door_of(namespace: str, cluster: str, authority: Object | None) -> Door | None:
    """How to reach the agents of a cluster, given its authority's Secret."""
    certificate, key = pki.text(authority, "tls.crt"), pki.text(authority, "tls.key")
    if not certificate or not key:
        return None
    return Door(namespace, cluster, pki.Pair(certificate, key), pki.text(authority, "ca.crt") or certificate)
