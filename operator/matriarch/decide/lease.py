"""The Lease's content and every change that it may see.

One object per cluster holds all that decides leadership, so that one compare-and-swap covers a takeover and a change
of the voters alike. Each function here returns the state that such a swap writes; none reads a clock or the network.
The invariants I1, I2, I6 and I8 are the project's failover protocol: `docs/protocol.md`.

    epoch 0 ── bootstrapped ──▶ epoch 1 ── voters_set, opened_set, history_recorded … (same epoch)
        any epoch e ── taken_over / heir_takes / reclaimed ──▶ an epoch above every promise heard
        any epoch e ── suspended ──▶ nobody runs ── filled, bootstrapped ──▶ an epoch above, other data
                                                 └─ resumed ──▶ the same epoch, as if nothing had been
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from matriarch.decide.member import Member
from matriarch.decide.site import Site
from matriarch.postgres.timeline import Switch, WalPosition

Mode = Literal["alone", "async", "quorum", "follow"]
"""`follow` is a replica cluster's: `decide/following.py`."""


REPLACED = 16
"""So many replaced database systems are remembered: a member that was away through more of them needs a hand."""


@dataclass(frozen=True, slots=True)
class Promotion:
    """A number that was claimed by a swap and is not known to be real yet.

    The winner stood at `lsn` of `parent` when it claimed: whoever is on `parent` and not beyond `lsn` may follow it.
    """

    timeline: int
    parent: int
    lsn: int


@dataclass(frozen=True, slots=True)
class CleanStop:
    """The holder stopped by a shutdown checkpoint whose record begins at `lsn` of `timeline`, for `heir` to go on."""

    timeline: int
    lsn: int


@dataclass(frozen=True, slots=True)
class Loss:
    """Mode async: a takeover that may have lost writes.

    `wal` is where the WAL of `holder` ended at its last renewal, `position` where the winner of `epoch` went on.
    """

    epoch: int
    holder: Member
    wal: WalPosition
    position: WalPosition

    @property
    def missing(self) -> int:
        """Bytes of WAL that are known to be missing; what was written after that renewal comes on top."""
        return max(0, self.wal.lsn - self.position.lsn)


@dataclass(frozen=True, slots=True)
class Filling:
    """The data comes from the Restore of this uid, and nobody starts before it is `done`.

    At epoch 0 it is the first data, which then never comes from initdb. Above it replaces what there is: until `done`
    that can be taken back, and it is void at any epoch but `epoch`: whoever led after it was written (an agent that
    does not know it) has writes that the Restore knows nothing of.
    """

    restore: str
    done: bool = False
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class LeaseState:
    """What the Lease says. LSNs are byte positions."""

    epoch: int
    holder: Member | None  # None at epoch 0 only
    bootstrap: str  # the instance that may run initdb while the epoch is 0
    mode: Mode = "alone"
    voters: tuple[Member, ...] = ()  # sorted
    k: int = 0
    nonce: str = ""  # of the attempt that wrote this epoch: tells an own write of unknown outcome from a rival's
    system_identifier: str = ""
    opened: bool = False  # clients were let in at least once
    lineage: tuple[Switch, ...] = ()  # the line of the newest real timeline, oldest first
    claimed: int = 1  # the highest timeline number ever claimed
    promoting: Promotion | None = None
    heir: Member | None = None
    clean_stop: CleanStop | None = None
    leaving: tuple[str, ...] = ()  # instances that the controller wants to remove
    no_voters: bool = False  # the holder's renewals say that no voter answers
    site: Site | None = None  # what there is to remember of other sites
    wal: WalPosition | None = None  # mode async: where the holder's WAL ended at its last renewal
    loss: Loss | None = None  # the newest takeover that may have lost writes
    revision: int = 0  # counts what is written, renewals apart; 0: an agent wrote it that knows no such count
    filling: Filling | None = None  # a Restore brings the data
    replaced: tuple[str, ...] = ()  # identifiers of the database systems that Restores in place did away with

    @property
    def election_quorum(self) -> int:
        """How many voters must promise: every set that can acknowledge (k of S) meets each set of this size (I2).

        In mode async nobody's acknowledgement is waited for: the clock keeps the old holder out, and one is enough.
        """
        if self.mode == "async":
            return 1
        return len(self.voters) - self.k + 1

    @property
    def timeline(self) -> int:
        """The newest timeline that is known to be real."""
        return self.lineage[-1].timeline if self.lineage else 1

    @property
    def held(self) -> bool:
        """A Restore has not filled the first volume yet: no instance may start."""
        return self.epoch == 0 and self.filling is not None and not self.filling.done

    @property
    def replacing(self) -> bool:
        """A Restore in place holds the cluster up, or its data counts and nobody has recorded that he runs on it."""
        return self.epoch > 0 and self.filling is not None

    @property
    def suspended(self) -> bool:
        """A Restore in place is preparing other data: no instance may run what is there, which may be gone on with."""
        return self.replacing and self.filling is not None and not self.filling.done

    def names(self, member: Member) -> bool:
        """Whether `member` may hold something that only it holds: nothing of it may be deleted (I8)."""
        return member == self.holder or member in self.voters or member == self.heir

    def names_instance(self, instance: str) -> bool:
        """The same for any incarnation of `instance`."""
        members = (*self.voters, *(m for m in (self.holder, self.heir) if m is not None))
        return any(m.instance == instance for m in members)


def initial(bootstrap: str, restore: str = "") -> LeaseState:
    """Epoch 0: nobody leads, `bootstrap` may initialise; with `restore`, the Restore of that uid fills its volume."""
    return LeaseState(epoch=0, holder=None, bootstrap=bootstrap, filling=Filling(restore) if restore else None)


def suspended(state: LeaseState, restore: str, instance: str = "") -> LeaseState:
    """The Restore of that uid is to replace the data, on the volume of `instance`, the present holder's if empty.
    Nobody runs from here on.

    All else stays as it is, for `resumed`. It may follow on another Restore whose data counts and was lost.
    """
    _require(state.epoch > 0 and state.holder is not None, "nobody leads this cluster")
    _require(state.mode != "follow", "a replica cluster has its source's data")
    _require(state.filling is None or state.filling.done, "another restore fills this cluster")
    assert state.holder is not None
    return replace(state, bootstrap=instance or state.holder.instance, filling=Filling(restore, epoch=state.epoch))


def resumed(state: LeaseState, restore: str) -> LeaseState:
    """The Restore gave up before its data counted: everything goes on with what is there."""
    _require(state.suspended, "no restore holds this cluster up")
    _require(state.filling is not None and state.filling.restore == restore, "another restore fills this cluster")
    return replace(state, filling=None)


def filled(state: LeaseState, restore: str) -> LeaseState:
    """The volume of the bootstrap instance holds what the Restore brought back: it counts from here on."""
    _require(state.filling is not None and state.filling.restore == restore, "another restore fills this cluster")
    assert state.filling is not None
    return replace(state, filling=replace(state.filling, done=True))


def bootstrapped(
    state: LeaseState,
    me: Member,
    system_identifier: str,
    nonce: str,
    line: Sequence[Switch] = (),
    promises: Iterable[int] = (),
) -> LeaseState:
    """Epoch 1 after initdb, or a new epoch on data that a Restore brought, which is on the timeline that `line` leads
    to. `promises` are those heard, as in `reclaimed`.

    Nobody else can be elected (`alone`) until a first voter holds everything: the voters of before hold none of it.
    """
    _require(me.instance == state.bootstrap, f"{me.instance} is not the bootstrap instance {state.bootstrap}")
    _require(state.filling is None or state.filling.done, "a restore has not filled the volume")
    known = tuple(sorted(line, key=lambda s: s.timeline))
    claimed = max(state.claimed, known[-1].timeline if known else 1)
    if state.epoch == 0:
        return replace(
            state,
            epoch=1,
            holder=me,
            nonce=nonce,
            system_identifier=system_identifier,
            lineage=known,
            claimed=claimed,
            filling=None,
        )
    _require(state.filling is not None, "only epoch 0 may be bootstrapped")
    _require(system_identifier != state.system_identifier, "this is the data that was to be replaced")
    return LeaseState(
        epoch=max((state.epoch, *promises)) + 1,
        holder=me,
        bootstrap=state.bootstrap,
        nonce=nonce,
        system_identifier=system_identifier,
        lineage=known,
        claimed=claimed,  # never back (I6), also where the new line has fewer
        leaving=state.leaving,
        site=state.site,
        loss=state.loss,
        revision=state.revision,
        replaced=(*state.replaced, state.system_identifier)[-REPLACED:],
    )


def taken_over(state: LeaseState, winner: Member, epoch: int, position: WalPosition, nonce: str) -> LeaseState:
    """The swap of an election: S' = (S + old holder) - winner, from the Lease just read, never from who answered.

    `position` is where the winner's WAL ends. k stays. The old holder is a voter of the new epoch:
    what only it and one other acknowledged is still found by the next election.
    """
    _require(epoch > state.epoch, f"epoch {epoch} is not above {state.epoch}")
    _require(state.mode != "alone", f"nobody is elected in mode {state.mode}")
    _require(winner in state.voters, f"{winner} is no voter")
    led = _led_by(state, winner, epoch, position, nonce)
    clean = state.clean_stop
    if state.mode != "async" or (clean and (clean.timeline, clean.lsn) < (position.timeline, position.lsn)):
        return led
    assert state.holder is not None
    return replace(led, loss=Loss(epoch, state.holder, state.wal or position, position))


def taken_over_alone(state: LeaseState, winner: Member, epoch: int, position: WalPosition, nonce: str) -> LeaseState:
    """As `taken_over`, for `durability: preferred` where fewer than k others answered: the winner leads alone."""
    led = taken_over(state, winner, epoch, position, nonce)
    return replace(led, mode="alone", voters=(), k=0)


def heir_takes(state: LeaseState, epoch: int, position: WalPosition, nonce: str) -> LeaseState:
    """The second half of a switchover: no promises, since the only one who could acknowledge is final and named it."""
    _require(state.heir is not None and state.clean_stop is not None, "no heir is named")
    _require(epoch > state.epoch, f"epoch {epoch} is not above {state.epoch}")
    assert state.heir is not None
    return _led_by(state, state.heir, epoch, position, nonce)


def successors(state: LeaseState, winner: Member) -> tuple[Member, ...]:
    """S' = (S + old holder) - winner: from the Lease, never from who answered (S2)."""
    assert state.holder is not None
    return _sorted({*state.voters, state.holder} - {winner})


def _led_by(state: LeaseState, winner: Member, epoch: int, position: WalPosition, nonce: str) -> LeaseState:
    _require(state.filling is None, "a restore replaces the data")
    assert state.holder is not None
    voters = successors(state, winner)
    claim = max(state.claimed, position.timeline) + 1
    return replace(
        state,
        epoch=epoch,
        holder=winner,
        nonce=nonce,
        voters=voters if state.mode != "alone" else (),
        claimed=claim,
        promoting=Promotion(claim, position.timeline, position.lsn),
        heir=None,
        clean_stop=None,
        no_voters=False,
        wal=position if state.mode == "async" else None,
    )


def reclaimed(state: LeaseState, promises: Iterable[int], nonce: str) -> LeaseState:
    """The incarnation that the Lease names goes on above every promise heard: S, k and timeline unchanged.

    Safe at any time: it holds all that was acknowledged, and the swap excludes a rival (L1).
    """
    _require(state.holder is not None, "nobody holds epoch 0")
    epoch = max((state.epoch, *promises)) + 1
    return replace(state, epoch=epoch, nonce=nonce, heir=None, clean_stop=None, no_voters=False, filling=None)


def voters_set(state: LeaseState, mode: Mode, voters: Iterable[Member], k: int) -> LeaseState:
    """The Lease's half of a change of voters; `decide/voters.py` says when."""
    chosen = _sorted(set(voters))
    _require(state.holder not in chosen, "the holder is no voter")
    if mode == "alone":
        _require(not chosen and k == 0, "alone has no voters")
    elif mode == "async":
        _require(bool(chosen) and k == 0, "async has candidates, and waits for none")
    else:
        _require(1 <= k <= len(chosen), f"k {k} of {len(chosen)} voters")
    wal = state.wal if mode == "async" else None
    return replace(state, mode=mode, voters=chosen, k=k, heir=None, clean_stop=None, no_voters=False, wal=wal)


def opened_set(state: LeaseState) -> LeaseState:
    """The door opened: from now on a lost cluster is never initialised again."""
    return replace(state, opened=True)


def history_recorded(state: LeaseState, history: Sequence[Switch]) -> LeaseState:
    """The promotion that was claimed is real: the holder's whole history replaces the lineage.

    The whole, because a predecessor may have died between its promotion and its record: its number then is real,
    and only the history file of its follower tells.
    """
    line = tuple(sorted(history, key=lambda s: s.timeline))
    _require(not line or line[-1].timeline <= state.claimed, "a timeline that was never claimed")
    return replace(state, lineage=line, promoting=None)


def claimed_again(state: LeaseState, holder: Member, position: WalPosition) -> LeaseState:
    """Another number: the holder's own WAL reached the one that it had claimed, in a promotion that a crash broke off;
    or its promotion was recorded, and it was started as a standby since, by an older copy of the Lease."""
    _require(state.holder == holder, f"{holder} does not hold epoch {state.epoch}")
    claim = max(state.claimed, position.timeline) + 1
    return replace(state, claimed=claim, promoting=Promotion(claim, position.timeline, position.lsn))


def heir_named(state: LeaseState, heir: Member, clean: CleanStop) -> LeaseState:
    """The holder stopped cleanly and hands over to `heir`."""
    _require(heir in state.voters or state.mode == "alone", f"{heir} is no voter")
    _require(state.filling is None, "a restore replaces the data")
    return replace(state, heir=heir, clean_stop=clean)


def leaving_set(state: LeaseState, leaving: Iterable[str]) -> LeaseState:
    """The controller wants these instances gone; the holder removes them from the voters first (I8)."""
    return replace(state, leaving=tuple(sorted(set(leaving))))


def revised(before: LeaseState, after: LeaseState) -> LeaseState:
    """`after` as it is to be written in place of `before`. Every writer goes through here: by the count a Lease that
    was restored from an older copy is told from a newer one also within an epoch (L7)."""
    return after if plain(before) == plain(after) else replace(after, revision=before.revision + 1)


def is_older(state: LeaseState, than: LeaseState) -> bool:
    """Whether `state` is void for somebody who knows `than`: restored from an older copy, or derived from such a one.

    Epoch and claimed timelines (I6) never go back, nor does the revision within an epoch. One that an unknowing member
    wrote on from an older copy may have a higher epoch, and lacks timelines. Revisions of different epochs are not
    compared: an agent that knows no such count may have led in between, and it began anew.
    """
    if state.epoch < than.epoch or state.claimed < than.claimed:
        return True
    return state.epoch == than.epoch and 0 < state.revision < than.revision


def renewed_with(state: LeaseState, *, no_voters: bool, wal: WalPosition | None = None) -> LeaseState:
    """What renewals carry: a second witness for an election of one (L5), and in mode async how far the WAL reaches."""
    return replace(state, no_voters=no_voters, wal=(wal or state.wal) if state.mode == "async" else None)


def plain(state: LeaseState) -> LeaseState:
    """Without what renewals carry: that never makes a swap void."""
    return replace(state, no_voters=False, wal=None)


def _sorted(members: set[Member]) -> tuple[Member, ...]:
    return tuple(sorted(members))


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
