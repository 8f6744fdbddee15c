"""PostgreSQL versions: which ones the agent may run. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from matriarch.errors import Refused

# Until the releases of 8 May 2025 a commit could be acknowledged without its standbys right after a start, before
# the checkpointer had read synchronous_standby_names (pgsql-hackers, April 2025, fix by M. Paquier). The agent
# relies on the setting from the first start on, so an older minor release can lose an acknowledged write.
FIRST_SAFE_MINOR = {17: 5, 16: 9, 15: 13, 14: 18}
OLDEST_MAJOR = 17  # pg_logical_emit_message(…, flush), allow_alter_system and the builtin locale provider

_TEXT = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True, order=True)
class Version:
    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


def parse_version(text: str) -> Version:
    """From `postgres --version` or SHOW server_version: `17.11 (Debian 17.11-0+deb13u1)`. Raises ValueError."""
    match = _TEXT.search(text)
    if match is None:
        msg = f"not a PostgreSQL release: {text!r}"
        raise ValueError(msg)
    return Version(int(match[1]), int(match[2]))


def from_number(number: int) -> Version:
    """From server_version_num: 170011 is 17.11."""
    return Version(number // 10_000, number % 10_000)


def check_version(version: Version) -> None:
    """Raises Refused for a release that cannot keep the promise of quorum replication."""
    floor = FIRST_SAFE_MINOR.get(version.major, 0)
    if version.major < OLDEST_MAJOR or version.minor < floor:
        first = Version(max(version.major, OLDEST_MAJOR), FIRST_SAFE_MINOR.get(max(version.major, OLDEST_MAJOR), 0))
        msg = (
            f"PostgreSQL {version} may acknowledge commits that no standby holds right after a start; "
            f"use an image with {first} or newer"
        )
        raise Refused(msg, reason="PostgresTooOld")
