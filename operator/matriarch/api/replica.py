"""A cluster that is a copy of another one, somewhere else: the part `spec.replica`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from matriarch.api.model import Model, ObjectName, Rule
from matriarch.api.rules import REPLICA


class SourceSecret(Model):
    """A Secret in the same namespace."""

    name: ObjectName
    """The Secret's name."""


class Source(Model):
    """The server that is followed: a cluster of Matriarch's, or any PostgreSQL of the same version."""

    host: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-zA-Z0-9]([-.:a-zA-Z0-9]*[a-zA-Z0-9])?$")]
    """Name or address, as the instances reach it: `orders-rw.prod.svc`, or a load balancer in another place."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """5432 if absent."""
    user: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-zA-Z_][-a-zA-Z0-9_]*$")] | None = None
    """A role that may replicate; `matriarch_replica` if absent, which every cluster of Matriarch's has."""
    ssl_mode: Literal["require", "verify-ca", "verify-full"] | None = None
    """`verify-full` if absent: the certificate must name the host. `verify-ca` where it is reached by another name."""
    secret: SourceSecret
    """Holds `ca.crt` and either `tls.crt` and `tls.key` or `password`. A cluster of Matriarch's has it ready as
    `<cluster>-replica-tls`: copy that."""


class Replica(Model):
    """Makes this a replica cluster, which follows another one by streaming and takes no writes; or ends that."""

    enabled: bool
    """true: follow the source. A cluster that takes writes is demoted by it. false: be a cluster of its own; one that
    follows is promoted by it, with `promotionToken` or `promotion`."""
    source: Source
    promotion_token: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """`status.demotionToken` of the cluster that was primary: this one is promoted when it holds all of its writes."""
    promotion: Literal["forced"] | None = None
    """`forced`: promote without a token, because the source is gone for good. What it wrote last may be lost, and if
    it lives on, there are two primaries."""

    rules: ClassVar[tuple[Rule, ...]] = REPLICA
