"""A history: what clients asked for, what they were told, and when.

Every operation is two lines of JSON in a log: its invocation, and how it ended. Ids begin at 1. Stamps are nanoseconds
of CLOCK_BOOTTIME of one machine, on which all clients run, so "ended before the other began" is a fact.

| outcome | means |
|---|---|
| ok | acknowledged, without a warning |
| fail | certainly without effect: refused by the server, or broken off before the commit was sent |
| info | unknown: the connection broke, time ran out, or the wait for replication was cancelled |

A read has no effect, so one that ended in an error is a `fail`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["ok", "fail", "info"]
SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Op:
    """One operation. `ended` is None for one that never ended, because its client was killed: its outcome is info.

    `value` is what was asked for, and in an `ok` operation also what was read; its shape is the workload's own.
    """

    id: int
    client: int
    workload: str
    kind: str
    invoked: int
    ended: int | None
    outcome: Outcome
    value: Any
    error: str = ""

    @property
    def ok(self) -> bool:
        return self.outcome == "ok"

    def ended_before(self, other: Op) -> bool:
        """Whether this one was over when `other` began."""
        return self.ended is not None and self.ended < other.invoked


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that a database must not show. `ops` are the ids that prove it."""

    workload: str
    rule: str
    text: str
    ops: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found. `lost` counts acknowledged operations whose effect is gone."""

    violations: tuple[Violation, ...] = ()
    lost: int = 0
    notes: dict[str, int] = field(default_factory=dict)

    def __add__(self, other: Verdict) -> Verdict:
        notes = {k: self.notes.get(k, 0) + other.notes.get(k, 0) for k in (*self.notes, *other.notes)}
        return Verdict(self.violations + other.violations, self.lost + other.lost, notes)


def invocation(op: int, client: int, workload: str, kind: str, at: int, value: Any) -> str:
    """The first line of an operation."""
    return json.dumps({"op": op, "t": at, "c": client, "w": workload, "k": kind, "v": value}) + "\n"


def completion(op: int, at: int, outcome: Outcome, value: Any = None, error: str = "") -> str:
    """The second line; `value` only where it says more than the invocation."""
    line: dict[str, Any] = {"op": op, "t": at, "o": outcome}
    if value is not None:
        line["v"] = value
    if error:
        line["e"] = error
    return json.dumps(line) + "\n"


def parse(lines: Iterable[str]) -> list[Op]:
    """The operations of a log, by invocation. A last line without its end is left out: its writer was killed."""
    begun: dict[int, dict[str, Any]] = {}
    ended: dict[int, dict[str, Any]] = {}
    for line in lines:
        if line.endswith("\n"):
            entry = json.loads(line)
            (begun if "w" in entry else ended)[entry["op"]] = entry
    found = []
    for number, start in begun.items():
        end = ended.get(number, {})
        found.append(
            Op(
                id=number,
                client=start["c"],
                workload=start["w"],
                kind=start["k"],
                invoked=start["t"],
                ended=end.get("t"),
                outcome=end.get("o", "info"),
                value=end.get("v", start["v"]),
                error=end.get("e", ""),
            )
        )
    return sorted(found, key=lambda o: o.invoked)
