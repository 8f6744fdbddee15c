"""What a designated primary does about the server that its cluster follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from matriarch.decide import token as tokens
from matriarch.decide.lease import LeaseState
from matriarch.postgres.timeline import Switch, WalPosition, follows


@dataclass(frozen=True, slots=True)
class Source:
    """The server's own word. `line` is the line of its timeline, empty on timeline 1."""

    system_identifier: str
    timeline: int
    line: tuple[Switch, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    kind: Literal["attach", "rewind", "wait"]
    why: str = ""


def verdict(position: WalPosition, lease: LeaseState, source: Source, system_identifier: str) -> Verdict:
    """`position` is the end of the WAL here, `system_identifier` that of the data here.

    A primary sends its WAL here before its own voters have it, so after a failover of the source this copy may hold
    what no one was acknowledged and the new primary lacks. That goes. What this very cluster acknowledged as a
    primary never goes by itself.
    """
    if source.system_identifier != system_identifier:
        return Verdict(
            "wait",
            f"the source is database system {source.system_identifier}, and this cluster is a copy of"
            f" {system_identifier}: correct replica.source, or make a new cluster for it",
        )
    if follows(position, source.timeline, source.line):
        return Verdict("attach")
    if source.timeline < position.timeline:
        return Verdict(
            "wait",
            f"the source is on timeline {source.timeline} and this copy on {position.timeline} already: it is an older"
            " server, or not promoted yet",
        )
    demoted = lease.site.demoted if lease.site is not None else ""
    if demoted and not follows(tokens.decode(demoted).position, source.timeline, source.line):
        return Verdict(
            "wait",
            f"this cluster was primary up to {tokens.decode(demoted).position}, and the source went on without its"
            " last writes, by a forced promotion. Save what is needed from here; then delete this cluster with its"
            " data and create it again as a copy",
        )
    return Verdict("rewind", f"the source is on timeline {source.timeline}, which left the WAL here before its end")
