"""What a decision may ask for: a closed set of small steps, each of which may be the last before a crash."""

from __future__ import annotations

from dataclasses import dataclass, field

from matriarch.decide.certificates import CertificatePlan
from matriarch.decide.facts import Memory, Ref
from matriarch.decide.lease import LeaseState
from matriarch.decide.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Apply:
    """Write a wanted object by server-side apply."""

    ref: Ref


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete an object that holds no data."""

    ref: Ref


@dataclass(frozen=True, slots=True)
class Certify:
    """Make the certificates that are due."""

    plan: CertificatePlan


@dataclass(frozen=True, slots=True)
class MakePassword:
    """Make the credentials of this Secret."""

    secret: str


@dataclass(frozen=True, slots=True)
class CreateLease:
    """Epoch 0. Never while anything shows that data existed. `follow`: the first data is a copy of the source;
    `restore`: it is brought by the Restore of this uid."""

    bootstrap: str
    follow: bool = False
    restore: str = ""


@dataclass(frozen=True, slots=True)
class RestoreLease:
    """Write the Lease again that was deleted, or restored from an older copy: from what the members know."""

    state: LeaseState


@dataclass(frozen=True, slots=True)
class Resume:
    """Take a Restore's hold from the Lease: what was there goes on."""

    restore: str


@dataclass(frozen=True, slots=True)
class NotePolicy:
    """Write on the Lease what becomes of the data when the resource is deleted: it is asked when that is gone."""


@dataclass(frozen=True, slots=True)
class MoveBootstrap:
    """Let another instance initialise, at epoch 0: the former one is not wanted any more."""

    instance: str


@dataclass(frozen=True, slots=True)
class ForgetErasure:
    """Take back the mark of a deletion that had begun: the resource is there again, and so are its volumes."""


@dataclass(frozen=True, slots=True)
class FinishErasure:
    """Delete the Lease of data that was deleted on request, so that a new cluster may begin."""


@dataclass(frozen=True, slots=True)
class SetLeaving:
    """Swap the instances that are to be removed into the Lease; the holder takes them out of the voters."""

    instances: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CreateClaim:
    """Make the volume of an instance."""

    instance: str


@dataclass(frozen=True, slots=True)
class GrowClaim:
    """Ask for the wanted size."""

    instance: str


@dataclass(frozen=True, slots=True)
class CreatePod:
    """Start an instance on its volume."""

    instance: str


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Stop a Pod, with its grace period. The uid says which one was meant."""

    instance: str
    uid: str
    why: str


@dataclass(frozen=True, slots=True)
class DeleteClaim:
    """Delete the volume of an instance that the Lease does not name and that is marked as leaving."""

    instance: str
    uid: str


@dataclass(frozen=True, slots=True)
class RestartPostgres:
    """Have an agent restart its server within the Pod."""

    instance: str
    in_place: bool


@dataclass(frozen=True, slots=True)
class BeginSwitchover:
    """Ask the holder to hand over."""

    holder: str
    to: str
    why: str


@dataclass(frozen=True, slots=True)
class Announce:
    """Record an Event."""

    reason: str
    message: str
    warning: bool = False


Action = (
    Apply
    | Remove
    | Certify
    | MakePassword
    | CreateLease
    | RestoreLease
    | Resume
    | NotePolicy
    | MoveBootstrap
    | ForgetErasure
    | FinishErasure
    | SetLeaving
    | CreateClaim
    | GrowClaim
    | CreatePod
    | DeletePod
    | DeleteClaim
    | RestartPostgres
    | BeginSwitchover
    | Announce
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions in order, how the cluster stands, what to remember, and when to look again (seconds)."""

    actions: tuple[Action, ...]
    verdict: Verdict
    memory: Memory = field(default_factory=Memory)
    requeue: float = 10.0
