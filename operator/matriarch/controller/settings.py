"""The operator's own settings, from its environment."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from matriarch.errors import Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the Deployment tells the controller."""

    postgres_images: Mapping[str, str]
    """Major version of PostgreSQL → image."""
    watch_namespace: str = ""
    """Empty: all namespaces."""
    namespace: str = "matriarch-system"
    """Where the operator itself runs."""
    pod_name: str = field(default_factory=socket.gethostname)
    workers: int = 8
    """How many objects are reconciled at once. Each run is mostly waiting for the API server and the agents."""
    resync: float = 300.0
    """Seconds after which every resource is looked at again even if nothing happened."""
    probe_port: int = 8080
    test_mutant: str = ""
    """Only for the project's own fault tests: the bug that every agent shall show (`agent/mutant.py`)."""

    @property
    def lock_namespace(self) -> str:
        """Where the Lease of the active controller is: one controller acts per watched namespace."""
        return self.watch_namespace or self.namespace

    @property
    def slice_family(self) -> str:
        """Address type of EndpointSlices: the family of the Kubernetes cluster's own Service addresses."""
        return "IPv6" if ":" in os.environ.get("KUBERNETES_SERVICE_HOST", "") else "IPv4"


def from_environment(environ: Mapping[str, str] = os.environ) -> Settings:
    """Raises Refused when something that is needed is missing or unreadable."""
    text = environ.get("MATRIARCH_POSTGRES_IMAGES", "")
    try:
        images = json.loads(text)
        if not isinstance(images, dict) or not images:
            raise ValueError(text)
    except ValueError:
        raise Refused(
            'MATRIARCH_POSTGRES_IMAGES must be a JSON object such as {"17": "image"}, '
            f"so that the operator knows which image to run; it is {text!r}."
        ) from None
    return Settings(
        postgres_images={str(k): str(v) for k, v in images.items()},
        watch_namespace=environ.get("MATRIARCH_WATCH_NAMESPACE", ""),
        namespace=environ.get("MATRIARCH_NAMESPACE") or "matriarch-system",
        pod_name=environ.get("MATRIARCH_POD_NAME") or socket.gethostname(),
        test_mutant=environ.get("MATRIARCH_TEST_MUTANT", ""),
    )
