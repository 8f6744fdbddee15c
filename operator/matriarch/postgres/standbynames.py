"""synchronous_standby_names: the rule by which PostgreSQL acknowledges commits. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from matriarch.errors import Refused

# No member can be called so: application names of voters end in a hexadecimal incarnation. With it every commit
# waits, which is what a cluster that requires voters wants while it has none.
NOBODY = "ANY 1 (nobody)"

_VALUE = re.compile(r"ANY\s+(\d+)\s*\((.*)\)", re.IGNORECASE | re.DOTALL)
_NAME = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([A-Za-z_][A-Za-z0-9_$]*))\s*(?:,|$)')


@dataclass(frozen=True, slots=True)
class Quorum:
    """A commit is acknowledged when `k` of `names` have flushed it. k = 0: nobody is asked."""

    k: int = 0
    names: frozenset[str] = frozenset()


def render_names(k: int, names: Iterable[str]) -> str:
    """The value for `k` of `names`; for k = 0 it is empty. Raises Refused for what could never be acknowledged.

    Names are quoted, for they hold dashes, and sorted, so that the same rule is the same text.
    """
    wanted = sorted(set(names))
    if k == 0:
        return ""
    if not wanted:
        return NOBODY
    if not 0 < k <= len(wanted):
        msg = f"{k} of {len(wanted)} voters can never acknowledge a commit; choose a number from 1 to {len(wanted)}"
        raise Refused(msg, reason="InvalidQuorum")
    return f"ANY {k} ({', '.join(_quote(name) for name in wanted)})"


def parse_names(value: str) -> Quorum:
    """What `value` asks for; raises ValueError for any form that the agent does not write itself."""
    if not value.strip():
        return Quorum()
    match = _VALUE.fullmatch(value.strip())
    if match is None:
        msg = f"not a quorum: {value!r}"
        raise ValueError(msg)
    names: set[str] = set()
    rest = match[2]
    while rest:
        name = _NAME.match(rest)
        if name is None:
            msg = f"not a quorum: {value!r}"
            raise ValueError(msg)
        names.add(name[1].replace('""', '"') if name[1] else name[2])
        rest = rest[name.end() :]
    names.discard("nobody")
    return Quorum(int(match[1]), frozenset(names))


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
