"""What an agent is told: its environment, and the cluster's configuration (`cluster.json`)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from matriarch.decide import promotion
from matriarch.decide.voters import Wish
from matriarch.errors import Refused
from matriarch.postgres.conninfo import Upstream
from matriarch.postgres.outside import SOURCE_ROLE

CONFIG_KEY = "cluster.json"


@dataclass(frozen=True, slots=True)
class Environment:
    """This pod, from its environment variables."""

    cluster: str
    namespace: str
    instance: str
    pod_ip: str
    pod_uid: str
    node: str
    claim_uid: str

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None) -> Environment:
        """Raises Refused with the name of the variable that is missing."""
        env = os.environ if environ is None else environ

        def need(name: str) -> str:
            if not (value := env.get(f"MATRIARCH_{name}", "")):
                raise Refused(f"MATRIARCH_{name} is not set; this image runs in a Pod that the operator makes")
            return value

        return cls(
            cluster=need("CLUSTER"),
            namespace=need("NAMESPACE"),
            instance=need("INSTANCE"),
            pod_ip=need("POD_IP"),
            pod_uid=need("POD_UID"),
            node=env.get("MATRIARCH_NODE", ""),
            claim_uid=need("CLAIM_UID"),
        )

    @property
    def members_service(self) -> str:
        return f"{self.cluster}-members"

    def hostname(self, instance: str) -> str:
        """The name in the certificate of `instance`."""
        return f"{instance}.{self.members_service}.{self.namespace}.svc"

    @property
    def labels(self) -> dict[str, str]:
        return {
            "app.kubernetes.io/name": "postgresql",
            "app.kubernetes.io/instance": self.cluster,
            "app.kubernetes.io/managed-by": "matriarch",
            "app.kubernetes.io/component": "database",
            "matriarch.dev/cluster": self.cluster,
        }


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """The server that this cluster follows or could follow, and whether it should."""

    enabled: bool
    host: str
    port: int = 5432
    user: str = SOURCE_ROLE
    ssl_mode: str = "verify-full"
    token: str = ""
    forced: bool = False

    @property
    def wish(self) -> promotion.Wish:
        return promotion.Wish(self.enabled, self.token, self.forced)

    def upstream(self, env: Environment) -> Upstream:
        """The source as this instance reaches it."""
        return Upstream(
            instance="the source",
            address="",
            hostname=self.host,
            slot="",
            # No member's name, or a source whose cluster is called like this one would take it for a stray voter.
            application_name=f"replica {env.namespace}/{env.instance}"[:63],
            role=self.user,
            port=self.port,
            outside=True,
            ssl_mode=self.ssl_mode,
        )

    @classmethod
    def parse(cls, doc: Mapping[str, Any] | None) -> ReplicaConfig | None:
        """Raises KeyError, TypeError or ValueError."""
        if doc is None:
            return None
        return cls(
            enabled=bool(doc["enabled"]),
            host=str(doc["host"]),
            port=int(doc["port"]),
            user=str(doc["user"]),
            ssl_mode=str(doc["ssl_mode"]),
            token=str(doc.get("promotion_token") or ""),
            forced=doc.get("promotion") == "forced",
        )


@dataclass(frozen=True, slots=True)
class ArchiveWish:
    """Where finished WAL is stored."""

    bucket: str
    prefix: str
    region: str | None
    endpoint: str | None
    path_style: bool | None
    keys: tuple[str, ...]
    max_rate: int | None  # bytes a second
    lock: tuple[str, int] | None = None  # mode of S3's object lock, days
    kind: Literal["s3", "gcs"] = "s3"
    project: str | None = None  # of a gcs store

    @classmethod
    def parse(cls, doc: Mapping[str, Any] | None) -> ArchiveWish | None:
        """Raises KeyError, TypeError or ValueError."""
        if doc is None:
            return None
        return cls(
            bucket=str(doc["bucket"]),
            prefix=str(doc["prefix"]),
            region=doc.get("region"),
            endpoint=doc.get("endpoint"),
            path_style=doc.get("path_style"),
            keys=tuple(map(str, doc["keys"])),
            max_rate=int(doc["max_rate"]) if doc.get("max_rate") else None,
            lock=(str(doc["lock"]["mode"]), int(doc["lock"]["days"])) if doc.get("lock") else None,
            kind="gcs" if doc.get("kind") == "gcs" else "s3",
            project=doc.get("project"),
        )


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """The effective wishes of the spec; defaults were computed by the controller."""

    generation: int
    instances: tuple[str, ...]
    number: int
    required: bool
    priorities: Mapping[str, int] = field(default_factory=dict)
    delays: Mapping[str, int] = field(default_factory=dict)  # instance → seconds that its replay stays behind
    strict_reads: bool = True
    parameters: Mapping[str, str] = field(default_factory=dict)
    preload: tuple[str, ...] = ()
    database: str = "app"
    owner: str = "app"
    superuser_access: bool = False
    uid: str = ""  # of the DatabaseCluster
    asynchronous: bool = False  # sync.mode async
    pooler_pause: float | None = None
    """Seconds that a switchover waits for poolers to pause; None: there are none."""
    replica: ReplicaConfig | None = None
    archive: ArchiveWish | None = None
    closed_by: str = ""  # uid of the Restore in place for which clients are refused
    forget: tuple[str, ...] = ()  # Restores in place whose replaced data nobody needs any more, by uid

    @property
    def single(self) -> bool:
        return len(self.instances) == 1

    @property
    def wish(self) -> Wish:
        return Wish(self.instances, self.number, self.required, tuple(self.delays), self.asynchronous)

    @classmethod
    def parse(cls, doc: Mapping[str, Any]) -> ClusterConfig:
        """Raises ValueError when something that is needed is missing or of the wrong kind."""
        try:
            sync = doc["sync"]
            return cls(
                generation=int(doc["generation"]),
                instances=tuple(map(str, doc["instances"])),
                number=int(sync["number"]),
                required=sync["durability"] == "required",
                asynchronous=sync.get("mode") == "async",
                priorities={str(k): int(v) for k, v in (doc.get("priorities") or {}).items()},
                delays={str(k): int(v) for k, v in (doc.get("delays") or {}).items()},
                strict_reads=doc.get("reads", "strict") == "strict",
                parameters={str(k): str(v) for k, v in (doc.get("parameters") or {}).items()},
                preload=tuple(map(str, doc.get("extensions_preload") or ())),
                database=str(doc["database"]),
                owner=str(doc["owner"]),
                superuser_access=bool(doc.get("superuser_access", False)),
                uid=str(doc.get("uid") or ""),
                pooler_pause=doc["pooler_pause"] / 1000 if doc.get("pooler_pause") else None,
                replica=ReplicaConfig.parse(doc.get("replica")),
                archive=ArchiveWish.parse(doc.get("archive")),
                closed_by=str(doc.get("closed_by") or ""),
                forget=tuple(map(str, doc.get("forget_replaced") or ())),
            )
        except (KeyError, TypeError, AttributeError) as e:
            raise ValueError(f"the cluster's configuration can't be read: {e!r}") from e

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> tuple[ClusterConfig, dict[str, Any]]:
        """The configuration in a ConfigMap, parsed and as it stands."""
        doc = json.loads((manifest.get("data") or {}).get(CONFIG_KEY) or "null")
        if not isinstance(doc, dict):
            raise ValueError(f"ConfigMap {manifest['metadata']['name']} has no {CONFIG_KEY}")
        return cls.parse(doc), doc
