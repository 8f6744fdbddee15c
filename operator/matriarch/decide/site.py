"""What a cluster's Lease remembers of the sites that it shares its data with. Absent where there never were any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

REMEMBERED = 32
"""Tokens that were used, the newest. An older one names a timeline that was left long ago, and is refused for that."""


@dataclass(frozen=True, slots=True)
class Site:
    """`demoted`: the token of this cluster's own demotion, while it stands. `spent`: digests of the tokens by which it
    was promoted, and of its own that it took back. `forced`: where the latest promotion without a token parted from
    the source, for people; whatever the source wrote after that is not here."""

    demoted: str = ""
    spent: tuple[str, ...] = ()
    forced: str = ""


def encode_site(site: Site) -> dict[str, Any]:
    """For the Lease's text."""
    return {"demoted": site.demoted, "spent": list(site.spent), "forced": site.forced}


def parse_site(doc: Mapping[str, Any] | None) -> Site | None:
    """The reverse. Raises KeyError or TypeError for anything else."""
    if doc is None:
        return None
    return Site(str(doc["demoted"]), tuple(map(str, doc["spent"])), str(doc["forced"]))
