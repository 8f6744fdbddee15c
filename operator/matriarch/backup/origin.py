"""Of which server a backup says to be, and that it is the one that was asked for."""

from __future__ import annotations

from importlib import metadata

from matriarch.backup.jobspec import ClusterIdentity, Reason
from matriarch.backup.manifest import Origin
from matriarch.backup.server import Facts
from matriarch.errors import Refused


def require_system(cluster: ClusterIdentity | None, facts: Facts) -> None:
    """Raises Refused (BadSpec) when another system answers than the cluster's."""
    wanted = cluster.system_identifier if cluster else None
    if wanted is not None and wanted != facts.system_identifier:
        raise Refused(
            f"The server is system {facts.system_identifier}, the cluster is system {wanted}: check the connection.",
            reason=Reason.BAD_SPEC,
        )


def origin_of(cluster: ClusterIdentity | None, facts: Facts, *tools: str) -> Origin:
    """`tools`: what beside this program took part, with its version. Raises as `require_system`."""
    require_system(cluster, facts)
    return Origin(
        namespace=cluster.namespace if cluster else None,
        cluster=cluster.name if cluster else None,
        cluster_uid=cluster.uid if cluster else None,
        instance=facts.instance,
        system_identifier=facts.system_identifier,
        timeline=facts.timeline,
        source=facts.role,
        server_version=facts.version,
        tool_version=", ".join((f"matriarch {program_version()}", *tools)),
    )


def program_version() -> str:
    try:
        return metadata.version("matriarch")
    except metadata.PackageNotFoundError:  # run from a source tree
        return "unreleased"
