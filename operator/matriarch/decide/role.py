"""What an agent does next with its PostgreSQL.

One look at the local facts and the newest Lease gives one step; the agent carries it out and looks again. So an agent
that starts after any crash, of itself, of PostgreSQL or between two steps, finds its way by the same rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from matriarch.decide.lease import Filling, LeaseState
from matriarch.decide.member import Member

Data = Literal["none", "primary", "standby", "broken"]
"""What the volume holds: nothing; a PGDATA without or with standby.signal; one that a rewind left half done."""

Server = Literal["stopped", "starting", "primary", "standby"]

ELECTION_GRACE = 2_000_000_000
"""A holder that said "fenced", or hears a promise right after its start, leaves that election so long to end."""
LISTEN = 600_000_000
"""A holder that has just started listens so long for promises before it reclaims."""


AGAIN = 100_000_000
"""Until the next look at a Lease of which a peer knows more: it mostly comes within that."""
CLAIMED_AGAIN = 10_000_000
"""Until the next look while an own swap is under way; its end is a nudge."""
PROMOTION_FIRST = 700_000_000
"""A primary of before starts so much later as a standby, while its successor promotes and can do without it: a start
writes to disk all that it finds, and on a shared disk or a busy machine clients would wait for that."""
HEIR_GRACE = 1_000_000_000
"""The same for the heir of a switchover, who needs no promises."""


@dataclass(frozen=True, slots=True)
class Facts:
    """`me` is None while the volume has no incarnation. Instants: boot-time nanoseconds.

    `authority`: the epoch of the last swap that this very agent process made, 0 for none. `lease_fresh`: the Lease was
    read from the API server by this process, not from the copy on the volume.
    """

    instance: str
    me: Member | None
    data: Data
    server: Server
    lease: LeaseState | None
    lease_fresh: bool
    timeline: int = 0  # the newest that the control file knows; of a stopped server only
    system_identifier: str = ""
    authority: int = 0
    promised: int = 0
    promise_heard: int = 0
    epoch_heard: int = 0  # the highest that a peer spoke of
    fenced: int = 0
    single: bool = False  # the spec wants one instance
    now: int = 0
    gives_way: bool = False  # mode async: PostgreSQL did not come up for long, and it is the others' turn
    claiming: bool = False  # an own swap to a higher epoch is under way
    epoch_seen: int = 0  # when the Lease's epoch was first seen
    quiet_since: int = 0  # when this agent started, or said "fenced"
    filled_by: str = ""  # uid of the Restore that made the data, by the mark in it; asked for where the Lease waits
    beside: tuple[str, ...] = ()  # uids of the Restores whose data lies whole beside that of this instance


@dataclass(frozen=True, slots=True)
class Step:
    """`kind` is what to do now; `why` is for people."""

    kind: Literal[
        "wait",
        "initialize",  # initdb
        "record-bootstrap",  # swap to a new epoch, on what initdb or a Restore made
        "halt",  # a clean stop: a Restore replaces the data
        "exchange",  # the data of a Restore takes the place of what was there, which is kept
        "clone",  # a new incarnation by base backup
        "reclaim",  # swap the epoch up for itself
        "start-primary",
        "start-standby",  # without upstream: `decide/attach.py` says when and whom to follow
        "claim",  # swap in a timeline to be promoted to, for a holder that runs as a standby without one
        "promote",
        "lead",
        "follow",
        "inherit",  # the heir of a clean stop takes the Lease without promises
        "depose",  # SIGKILL of everything that runs
        # in a replica cluster
        "clone-source",  # a new incarnation by base backup of the source
        "record-copy",  # swap to epoch 1
        "follow-source",
    ]
    why: str = ""
    again_in: int | None = None  # ns


_LASTING = frozenset(
    {
        "initialize", "record-bootstrap", "exchange", "clone", "clone-source", "reclaim", "start-primary", "claim",
        "promote", "inherit",
    }
)  # fmt: skip
"""Steps that lead, or destroy, by what the Lease says."""


def next_step(f: Facts) -> Step:
    """The next step. Nothing that lasts is done by a Lease of which a peer knows a newer one: it may have been restored
    from an older copy, and this member been away meanwhile (L7)."""
    step = _by_the_lease(f)
    if step.kind in ("clone", "clone-source") and not f.lease_fresh:
        return Step("wait", "the Lease was not read yet; by the copy on the volume nothing is copied anew", AGAIN)
    if f.lease is not None and f.epoch_heard > f.lease.epoch and step.kind in _LASTING:
        why = f"a peer knows epoch {f.epoch_heard}, the Lease is at {f.lease.epoch}: it is late, or was restored"
        return Step("wait", why, AGAIN)
    return step


def _by_the_lease(f: Facts) -> Step:
    """Chain of small checks; the first that applies decides."""
    lease = f.lease
    if lease is None:
        return _without_lease(f)
    if lease.replacing and lease.filling is not None:
        return _replaced(f, lease, lease.filling)
    if f.system_identifier in lease.replaced:
        return _of_before(f, lease)
    if f.system_identifier and lease.system_identifier and f.system_identifier != lease.system_identifier:
        return Step("wait", f"the volume holds database system {f.system_identifier}, the Lease names another")
    if lease.mode == "follow":
        return _in_replica_cluster(f, lease)
    if lease.epoch == 0:
        return _bootstrap(f, lease)
    if f.me is not None and f.me == lease.holder:
        return _as_holder(f, lease)
    return _as_member(f, lease)


def _without_lease(f: Facts) -> Step:
    if f.server == "primary":
        return Step("wait", "the Lease is gone; peers and the fence decide")
    return Step("wait", "no Lease is known yet")


def _bootstrap(f: Facts, lease: LeaseState) -> Step:
    if lease.bootstrap != f.instance:
        return Step("wait", f"{lease.bootstrap} initialises the cluster")
    if lease.filling is not None and (not lease.filling.done or f.filled_by != lease.filling.restore):
        # Whatever else is here, or nothing: an empty database in place of the wanted one would look like a success.
        return Step("wait", f"Restore {lease.filling.restore} is to fill this volume, and has not")
    if f.data == "none":
        return Step("initialize", "the cluster is new")
    if f.data == "primary":
        return Step("record-bootstrap", "the first data is here and not recorded")
    return Step("wait", "the volume holds a standby of a cluster that the Lease does not know")


def _replaced(f: Facts, lease: LeaseState, filling: Filling) -> Step:
    """A Restore replaces the data of all: nobody runs what was there, and one instance starts on what it brought."""
    if f.server != "stopped":
        return Step("halt", f"Restore {filling.restore} replaces the data")
    if not filling.done:
        return Step("wait", f"Restore {filling.restore} prepares other data; what is here is kept")
    if lease.bootstrap != f.instance:
        return Step("wait", f"{lease.bootstrap} starts first, on the data that Restore {filling.restore} brought")
    if f.filled_by == filling.restore:
        if f.data == "primary":
            return Step("record-bootstrap", "the restored data is here and not recorded")
        return Step("wait", f"the data of Restore {filling.restore} is {f.data}: a person is needed")
    if filling.restore not in f.beside:
        return Step("wait", f"Restore {filling.restore} was to bring its data to this volume, and it is not there")
    if not f.lease_fresh:
        return Step("wait", "the Lease was not read yet; the copy on the volume may be old")
    return Step("exchange", f"the data of Restore {filling.restore} counts from here on")


def _of_before(f: Facts, lease: LeaseState) -> Step:
    """Data of a system that a Restore in place did away with, on purpose: a copy of the present one replaces it."""
    if f.server != "stopped":
        return Step("depose", f"a Restore replaced database system {f.system_identifier}")
    if not f.lease_fresh:
        return Step("wait", "the Lease was not read yet; the copy on the volume may be old")
    if lease.holder is None or lease.holder.instance == f.instance:
        return Step("wait", "the volume holds data of before a Restore, and the Lease says that it is the restored one")
    return Step("clone", f"a Restore replaced database system {f.system_identifier}")


def _as_holder(f: Facts, lease: LeaseState) -> Step:
    # Not after "fenced": a demotion may have landed since the copy was written. Nor where a Restore left other data:
    # only the Lease says which of the two counts.
    own_copy = f.single and lease.mode == "alone" and not f.lease_fresh and f.fenced < lease.epoch and not f.beside
    if not f.lease_fresh and not own_copy:
        return Step("wait", "the Lease was not read yet; the copy on the volume may be old")
    if f.server == "starting":
        return Step("wait", "PostgreSQL starts")
    # "Fenced" is final: after it only a swap gives authority back (S11).
    authorised = f.authority == lease.epoch and f.fenced < lease.epoch
    if not authorised and not own_copy:
        if f.claiming:
            return Step("wait", "the answer to an own swap is on its way", CLAIMED_AGAIN)
        # A postmaster that still runs as primary proves that nobody was elected: the fence would have ended it.
        if f.server == "primary" and max(f.promise_heard, f.promised) <= lease.epoch and f.fenced < lease.epoch:
            return Step("lead")
        known = f.fenced >= lease.epoch or max(f.promise_heard, f.promised) > lease.epoch
        grace = HEIR_GRACE if lease.heir is not None else ELECTION_GRACE if known else LISTEN
        waited = f.now - f.quiet_since
        if f.server != "primary" and lease.mode != "alone" and waited < grace:
            return Step("wait", "an election may be under way", grace - waited)
        if f.server != "primary" and f.gives_way:
            return Step("wait", "PostgreSQL did not come up for long; others may be elected now")
        return Step("reclaim", "the Lease names this incarnation")
    if max(f.promise_heard, f.promised) > lease.epoch:
        return Step("reclaim", "a voter promised a higher epoch")
    if f.server == "standby":
        if lease.promoting is not None:
            return Step("promote")
        # Started by a copy of the Lease from before its promotion. It has all that it acknowledged as a primary.
        if f.lease_fresh:
            return Step("claim", "named as holder, and runs as a standby")
        return Step("wait", "named as holder, and runs as a standby; the Lease can't be asked for a timeline yet")
    if f.server == "primary":
        return Step("lead")
    if f.data == "primary" and lease.promoting is not None and f.timeline < lease.promoting.timeline:
        return Step("start-standby", "a crash broke the promotion off, and the claimed timeline has no record yet")
    if f.data == "primary":
        return Step("start-primary", "the Lease names this incarnation")
    if f.data == "standby":
        return Step("start-standby", "to be promoted")
    return Step("wait", f"named as holder, but the volume's data is {f.data}: a person is needed")


def _as_member(f: Facts, lease: LeaseState) -> Step:
    holder = lease.holder
    assert holder is not None
    if f.server == "primary" or (f.server == "starting" and f.data == "primary"):
        return Step("depose", f"{holder.instance} holds epoch {lease.epoch}")
    if f.data in ("none", "broken"):
        return Step("clone", f"from {holder.instance}")
    if f.server == "stopped":
        left = f.epoch_seen + PROMOTION_FIRST - f.now
        if left > 0 and f.data == "primary" and lease.promoting is not None and _can_spare(f, lease):
            return Step("wait", f"{holder.instance} is promoted first", min(left, AGAIN // 2))
        return Step("start-standby", f"{holder.instance} holds epoch {lease.epoch}")
    if f.server == "starting":
        return Step("follow", "not consistent yet")
    if f.me is not None and f.me == lease.heir:
        return Step("inherit", f"{holder.instance} stopped cleanly and named this instance")
    return Step("follow")


def _can_spare(f: Facts, lease: LeaseState) -> bool:
    """Whether the voters other than this member are enough for the holder's commits."""
    return lease.mode != "quorum" or len(set(lease.voters) - {f.me, lease.holder}) >= lease.k


def _in_replica_cluster(f: Facts, lease: LeaseState) -> Step:
    """Nobody is primary here, whatever the volume says: the Lease is the only way out of this mode."""
    if f.server == "primary" or (f.server == "starting" and f.data == "primary"):
        return Step("depose", "this is a replica cluster")
    if lease.holder is None:
        return _first_copy(f, lease)
    if f.data in ("none", "broken"):
        if lease.holder.instance == f.instance:  # its volume is this one, so there is nobody here to copy from
            return Step("clone-source", "the designated primary lost its data")
        return Step("clone", f"from {lease.holder.instance}")
    if f.server == "stopped":
        return Step("start-standby", "this is a replica cluster")
    if f.me == lease.holder:
        return Step("follow-source")
    if lease.holder.instance == f.instance:
        return Step("wait", "a new copy in the place of the designated primary", 200_000_000)
    return Step("follow")


def _first_copy(f: Facts, lease: LeaseState) -> Step:
    if lease.bootstrap != f.instance:
        return Step("wait", f"{lease.bootstrap} copies the source")
    if f.data in ("none", "broken"):
        return Step("clone-source", "the cluster is new")
    if f.data == "standby":
        return Step("record-copy", "the source is copied, and that is not recorded")
    return Step("wait", "the volume holds a primary's data, of a cluster that the Lease does not know")
