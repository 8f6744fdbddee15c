"""The protocol's transitions: one table for the agent's log, the model, the replay of logs, and docs/model.md.

Two kinds. The Lease goes from one state to the next by a swap, and `lease_event` says which transition that was, or
that no rule allows it. A member changes what it has promised, fenced and runs; `EVENTS` says from where to where. The
agent logs each as one line (`render`, `parse`), so that the logs of a run can be held against the table afterwards:
`python -m model.replay`. Pure. Sources of the rules: `docs/protocol.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from matriarch.decide.lease import LeaseState

Role = Literal["none", "stopped", "starting", "primary", "standby"]
"""What a member's PostgreSQL was at its last line and is now: an end in between has no line of its own. `none`: the
agent has just started."""

_RUNS: frozenset[Role] = frozenset(("stopped", "starting", "primary", "standby"))
_ALL: frozenset[Role] = _RUNS | {"none"}


@dataclass(frozen=True, slots=True)
class Event:
    """One row. `model`: the model's actions for it (model/protocol.pml); empty: below what the model shows."""

    name: str
    before: frozenset[Role]
    after: frozenset[Role]
    rule: str
    model: tuple[str, ...] = ()


EVENTS: Mapping[str, Event] = {
    e.name: e
    for e in (
        # a member
        Event("start", _ALL, _RUNS, "the promise and the fence are those on the disk", ("agent_restart", "crash")),
        Event("promise", _RUNS, _RUNS, "grows; above the Lease's epoch, or a holder's own (I3)", ("promise",)),
        Event("fence", _RUNS, frozenset({"stopped"}), "at the epoch that it holds (S11)", ("switch_stop",)),
        Event("depose", _RUNS, frozenset({"stopped"}), "another holds the Lease", ("depose",)),
        Event(
            "start-primary",
            _RUNS,
            frozenset({"primary"}),
            "the Lease names it, and it swapped after it was fenced (S11)",
            ("start_primary",),
        ),
        Event("start-standby", _RUNS, frozenset({"standby"}), "not the holder, or to be promoted", ("start_standby",)),
        Event(
            "promote",
            frozenset({"stopped", "starting", "standby"}),
            frozenset({"primary"}),
            "the Lease names it, nothing above its epoch is promised (I3)",
            ("promote",),
        ),
        Event(
            "attach",
            _RUNS,
            frozenset({"standby", "starting"}),
            "to the holder, nothing above its epoch is promised (I3), but in a replica cluster",
            ("attach", "connect"),
        ),
        Event(
            "attach-source",
            _RUNS,
            frozenset({"standby", "starting"}),
            "the designated primary of a replica cluster",
        ),
        # the Lease, as a member sees it
        Event("bootstrap", _RUNS, _RUNS, "epoch 0 to 1, alone; of a replica cluster, follow"),
        Event(
            "take", _RUNS, _RUNS, "a voter; S' = (S + old holder) - winner, same k; a new timeline (S2, I6)", ("take",)
        ),
        Event("take-async", _RUNS, _RUNS, "a candidate, after the lease; the candidates as in a take; one promise"),
        Event("take-alone", _RUNS, _RUNS, "a voter, for `preferred`; no voters any more (L5)"),
        Event("inherit", _RUNS, _RUNS, "the heir; S' as in a take", ("inherit",)),
        Event("reclaim", _RUNS, _RUNS, "the holder; voters, k and timelines unchanged (L1)", ("reclaim",)),
        Event("replace", _RUNS, _RUNS, "alone, on the data of another system that a Restore in place brought"),
        Event("add", _RUNS, _RUNS, "one voter more, same k", ("want_add", "step_lease")),
        Event("remove", _RUNS, _RUNS, "one voter less, at least k left", ("want_remove", "step_lease")),
        Event("raise-k", _RUNS, _RUNS, "same voters, k not above their number", ("want_raise", "step_lease")),
        Event("lower-k", _RUNS, _RUNS, "same voters, k at least 1", ("want_lower", "step_lease")),
        Event("to-quorum", _RUNS, _RUNS, "voters and k where none were", ("want_quorum", "step_lease")),
        Event("to-alone", _RUNS, _RUNS, "no voters", ("want_alone", "step_lease")),
        Event("to-async", _RUNS, _RUNS, "candidates, and nobody is waited for"),
        Event("heir", _RUNS, _RUNS, "a voter is named, voters and k unchanged", ("switch_name",)),
        Event("history", _RUNS, _RUNS, "the claimed timeline is real"),
        Event(
            "claim",
            _RUNS,
            _RUNS,
            "the holder: a higher number, where a crash used its own up, or a copy of the Lease from before its"
            " promotion made it a standby (I6)",
        ),
        # the Lease of a replica cluster
        Event("designate", _RUNS, _RUNS, "another holder, timelines unchanged"),
        Event("line", _RUNS, _RUNS, "the source is on another timeline"),
        Event("site-promote", _RUNS, _RUNS, "the holder, from follow to alone; a new timeline (I6)"),
        Event("site-demote", _RUNS, _RUNS, "the holder, to follow; no voters, timelines unchanged"),
        Event("other", _RUNS, _RUNS, "nothing of all this"),
    )
}


class Illegal(ValueError):  # noqa: N818 - reads as the finding it is
    """No rule allows this transition."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the protocol's rules look at in a Lease. Members by their text form; empty: nobody."""

    epoch: int
    holder: str
    mode: str
    voters: tuple[str, ...]
    k: int
    claimed: int
    lineage: tuple[int, ...]
    heir: str = ""
    system: str = ""

    @classmethod
    def of(cls, state: LeaseState) -> Seen:
        return cls(
            state.epoch,
            str(state.holder or ""),
            state.mode,
            tuple(sorted(map(str, state.voters))),
            state.k,
            state.claimed,
            tuple(s.timeline for s in state.lineage),
            str(state.heir or ""),
            state.system_identifier,
        )


def lease_event(before: Seen, after: Seen) -> str:
    """Which transition leads from one state of the Lease to the next.

    Raises:
        Illegal: none does.
    """
    if after.epoch < before.epoch:
        raise Illegal(f"epoch {before.epoch} goes back to {after.epoch} (I1)")
    if after.claimed < before.claimed:
        raise Illegal(f"the claimed timeline goes back from {before.claimed} to {after.claimed} (I6)")
    if after.mode == "quorum" and not 1 <= after.k <= len(after.voters):
        raise Illegal(f"k {after.k} of {len(after.voters)} voters")
    if after.mode == "alone" and (after.voters or after.k):
        raise Illegal("alone has no voters")
    if after.mode == "async" and (not after.voters or after.k):
        raise Illegal("async has candidates, and waits for none")
    if after.holder and after.holder in after.voters:
        raise Illegal(f"{after.holder} is holder and voter")
    if "follow" in (before.mode, after.mode):
        return _of_replica_cluster(before, after)
    if after.epoch > before.epoch:
        return _of_new_epoch(before, after)
    if before.epoch and after.system != before.system:
        raise Illegal(f"the system changes from {before.system} to {after.system} within an epoch")
    return _of_same_epoch(before, after)


def _of_replica_cluster(before: Seen, after: Seen) -> str:
    """Into mode `follow`, within it and out of it."""
    if after.mode == "follow" and (after.voters or after.k or after.heir):
        raise Illegal("a replica cluster has neither voters nor an heir")
    if before.epoch == 0:
        if before.mode == after.mode and after.epoch in (0, 1):
            return "bootstrap" if after.epoch else "other"
        raise Illegal(f"epoch 0 of a replica cluster is followed by {after.epoch}, mode {after.mode}")
    timelines = (before.claimed, before.lineage)
    if after.epoch == before.epoch:
        if after.holder != before.holder:
            raise Illegal(f"epoch {after.epoch} has two holders, {before.holder} and {after.holder} (I1)")
        if after.mode != before.mode:
            raise Illegal("a cluster is promoted or demoted within an epoch")
        return "other" if timelines == (after.claimed, after.lineage) else "line"
    if before.mode == after.mode:
        if timelines != (after.claimed, after.lineage):
            raise Illegal("another designated primary changes the timelines")
        return "designate"
    if after.holder != before.holder:
        raise Illegal("the promotion or demotion of a cluster changes its holder")
    if after.mode == "follow":
        if timelines != (after.claimed, after.lineage):
            raise Illegal("a demotion changes the timelines")
        return "site-demote"
    if after.mode != "alone" or after.claimed == before.claimed:
        raise Illegal("a replica cluster is promoted alone, and claims a timeline (I6)")
    return "site-promote"


def _of_new_epoch(before: Seen, after: Seen) -> str:
    if before.epoch == 0:
        if after.epoch == 1 and after.mode == "alone":
            return "bootstrap"
        raise Illegal(f"epoch 0 is followed by {after.epoch}, mode {after.mode}")
    if after.heir:
        raise Illegal("a new epoch has an heir")
    if before.system and after.system != before.system:
        if after.mode == "alone":
            return "replace"
        raise Illegal(f"system {after.system} takes the place of {before.system} in mode {after.mode}")
    same_voters = (before.mode, before.voters, before.k) == (after.mode, after.voters, after.k)
    if after.holder == before.holder:
        if same_voters and (before.claimed, before.lineage) == (after.claimed, after.lineage):
            return "reclaim"
        raise Illegal("a reclaim changes the voters or the timelines (L1)")
    if after.claimed == before.claimed:
        raise Illegal("a new holder claimed no timeline (I6)")
    inherits = after.holder == before.heir
    if not inherits and (before.mode == "alone" or after.holder not in before.voters):
        raise Illegal(f"{after.holder} was no voter of epoch {before.epoch}")
    successors = tuple(sorted({*before.voters, before.holder} - {after.holder})) if before.mode != "alone" else ()
    if (after.mode, after.voters, after.k) == (before.mode, successors, before.k):
        return "inherit" if inherits else "take-async" if before.mode == "async" else "take"
    if after.mode == "alone" and before.mode == "quorum" and not inherits:
        return "take-alone"
    raise Illegal("the new voters are not (S + old holder) - winner with the same k (S2)")


def _of_same_epoch(before: Seen, after: Seen) -> str:
    if after.holder != before.holder:
        raise Illegal(f"epoch {after.epoch} has two holders, {before.holder} and {after.holder} (I1)")
    rule = (after.mode, after.voters, after.k)
    if rule != (before.mode, before.voters, before.k):
        if (after.claimed, after.lineage) != (before.claimed, before.lineage) or after.heir:
            raise Illegal("a change of the voters changes something else")
        return _row(before, after)
    if after.claimed != before.claimed:
        return "claim"
    if after.lineage != before.lineage:
        if after.lineage and max(after.lineage) > after.claimed:
            raise Illegal("a timeline is real that nobody claimed (I6)")
        return "history"
    if after.heir != before.heir:
        if after.heir and after.mode != "alone" and after.heir not in after.voters:
            raise Illegal(f"{after.heir} is heir and no voter")
        return "heir"
    return "other"


def _row(before: Seen, after: Seen) -> str:
    """The row of the table of voter changes."""
    if before.mode != after.mode:
        return f"to-{after.mode}"
    old, new = set(before.voters), set(after.voters)
    if old == new:
        return "raise-k" if after.k > before.k else "lower-k"
    if before.k == after.k and len(old ^ new) == 1:
        return "add" if new > old else "remove"
    raise Illegal("more than one change of the voters at once (I8)")


# --- the line in the log -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """One transition as a member logs it. `version`: the Lease's resourceVersion, 0 while none was read."""

    member: str
    before: str
    event: str
    after: str
    epoch: int
    holder: str
    mode: str
    voters: tuple[str, ...]
    k: int
    claimed: int
    lineage: tuple[int, ...]
    heir: str
    promised: int
    fenced: int
    version: int
    system: str = ""

    @property
    def lease(self) -> Seen:
        return Seen(
            self.epoch, self.holder, self.mode, self.voters, self.k, self.claimed, self.lineage, self.heir, self.system
        )


_NAMES = {"before": "from", "after": "to"}
_KEYS = tuple(_NAMES.get(f.name, f.name) for f in fields(Line))


def render(line: Line) -> str:
    """`member=a-1 from=standby event=promise to=standby epoch=3 …`: every key once, in this order; `-` is empty."""
    words = []
    for key, field in zip(_KEYS, fields(Line), strict=True):
        value = getattr(line, field.name)
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        words.append(f"{key}={text or '-'}")
    return " ".join(words)


def parse(text: str) -> Line:
    """The reverse of `render`. Raises ValueError for anything else."""
    values = {}
    words = text.split()
    if len(words) != len(_KEYS):
        raise ValueError(f"{len(words)} words, {len(_KEYS)} expected: {text!r}")
    for word, key in zip(words, _KEYS, strict=True):
        name, equals, value = word.partition("=")
        if name != key or not equals or not value:
            raise ValueError(f"{key}=… expected, not {word!r}")
        values[key] = "" if value == "-" else value

    def several(key: str) -> tuple[str, ...]:
        return tuple(filter(None, values[key].split(",")))

    return Line(
        member=values["member"],
        before=values["from"],
        event=values["event"],
        after=values["to"],
        epoch=int(values["epoch"]),
        holder=values["holder"],
        mode=values["mode"],
        voters=several("voters"),
        k=int(values["k"]),
        claimed=int(values["claimed"]),
        lineage=tuple(map(int, several("lineage"))),
        heir=values["heir"],
        promised=int(values["promised"]),
        fenced=int(values["fenced"]),
        version=int(values["version"]),
        system=values["system"],
    )


def table() -> str:
    """The table as Markdown, for docs/model.md."""
    rows = ["| event | from | to | rule | in the model |", "|---|---|---|---|---|"]
    for e in EVENTS.values():
        before, after = (", ".join(sorted(r)) if r != _RUNS and r != _ALL else "any" for r in (e.before, e.after))
        rows.append(f"| {e.name} | {before} | {after} | {e.rule} | {', '.join(f'`{m}`' for m in e.model)} |")
    return "\n".join(rows) + "\n"
