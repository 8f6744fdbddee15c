"""What the controller knows of one DatabaseCluster when it decides: a snapshot, taken once, with nothing behind it.

Times are UTC datetimes, sizes bytes. Absence is None, never a special value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple

from matriarch.decide.certificates import CertificatePlan
from matriarch.decide.lease import LeaseState


class Ref(NamedTuple):
    """One object of the cluster's namespace."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Wish:
    """The effective spec, as far as decisions need it. `instances` are in order of their numbers."""

    cluster: str
    instances: tuple[str, ...]
    number: int = 0  # replicas that must have a commit; 0 for a single instance
    required: bool = True
    asynchronous: bool = False  # no commit waits for a replica
    loss_seen: str | None = None  # the annotation by which somebody says that a loss was looked at: its epoch
    primary: str | None = None
    request: str | None = None  # the switchover annotation
    restart: str | None = None  # the restart annotation
    priorities: Mapping[str, int] = field(default_factory=dict)
    delayed: tuple[str, ...] = ()  # replicas that stay behind on purpose: never primary
    storage: int = 0
    health_interval: float = 10.0  # seconds
    advice: tuple[str, ...] = ()  # what is accepted but not advised
    poolers: tuple[str, ...] = ()  # their Deployments
    replica: bool = False  # it should follow `source`, the host of another site
    source: str = ""
    archives: bool = False  # finished WAL goes to a store
    restore: str = ""  # uid of the Restore that fills the first volume of this cluster, said when it was made
    restore_name: str = ""


@dataclass(frozen=True, slots=True)
class Pod:
    """`running`: its container runs, whatever it does; `waiting`: why not, in the kubelet's words."""

    uid: str
    hash: str
    restart: str | None = None
    terminating: bool = False
    finished: bool = False  # Failed or Succeeded: it will never run again
    running: bool = False
    ready: bool = False
    ready_changed: datetime | None = None
    node: str = ""
    ip: str = ""
    waiting: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """The volume; `requested` is what its claim asks for."""

    uid: str
    requested: int
    version: str = ""
    bound: bool = True  # only then may its request change
    terminating: bool = False


@dataclass(frozen=True, slots=True)
class Stream:
    """One walsender of the holder, by the name that the voter's stream carries."""

    instance: str
    incarnation: str
    state: str
    lag_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Illness:
    """What the replica doctor of an instance found, and what it does."""

    ailment: str
    why: str
    remedy: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Site:
    """What a holder says of the other site: whether it streams from it or what hinders that; and what became of the
    wish to promote or demote this cluster."""

    streaming: bool = False
    problem: str = ""
    promotion: Literal["wait", "refuse"] | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Archive:
    """What the archiver of an instance said last. Times in seconds since the epoch, ages in seconds."""

    pending: int = 0
    oldest_pending: float = 0.0
    last_segment: str = ""
    last_lsn: str = ""
    last_stored: float | None = None
    error: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Agent:
    """The agent's own account (`GET /v1/status`), as far as decisions need it."""

    role: Literal["primary", "replica", "none"]
    state: str
    ready: bool
    reason: str = ""
    door_open: bool = False
    door_reason: str = ""
    incarnation: str = ""
    voter: bool = False
    streaming: bool = False
    config_generation: int = 0
    pending: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # parameter → (in force, wanted)
    streams: tuple[Stream, ...] = ()
    switchover: tuple[str, str, str] | None = None  # to, state, message
    site: Site | None = None
    warnings: tuple[str, ...] = ()
    illness: Illness | None = None
    volume: str = "ok"  # ok, low or full
    writes_stopped: bool = False  # for want of room
    lease: LeaseState | None = None  # the newest that this member knows, kept on its volume
    promised: int = 0
    fenced: int = 0
    kept_data: tuple[str, ...] = ()  # uids of the Restores whose replaced data is still on its volume
    refusal: str = ""  # why it does not elect or is not elected, while it does not hear the holder
    free_bytes: int | None = None
    total_bytes: int | None = None
    archive: Archive | None = None


@dataclass(frozen=True, slots=True)
class Pooler:
    """One of the pooler's Deployments: Pods that are wanted, ready, and made after the newest template."""

    name: str
    wanted: int
    ready: int
    current: int


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance, wanted or left over. `agent` is None when it did not answer."""

    name: str
    wanted_hash: str = ""
    pod: Pod | None = None
    claim: Claim | None = None
    agent: Agent | None = None


@dataclass(frozen=True, slots=True)
class Switchover:
    """The latest planned change of the primary."""

    to: str
    state: Literal["running", "done", "aborted"]
    started: datetime
    why: str = ""
    message: str = ""
    finished: datetime | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """What the status remembers from one look to the next, and nothing else does."""

    primary_handled: str | None = None  # the value of spec.primary that was carried out
    request_handled: str | None = None  # the value of the switchover annotation that was
    switchover: Switchover | None = None
    system_identifier: str = ""
    holder: str | None = None
    failed_over: datetime | None = None  # when the primary last changed without being asked to
    not_ready_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything about one cluster. `lease` is None when there is none; `lease_problem` when it can't be read."""

    wish: Wish
    instances: tuple[Instance, ...]
    lease: LeaseState | None = None
    lease_problem: str = ""
    erasing: bool = False  # a deletion with its data had begun when the resource came back
    refusals: tuple[str, ...] = ()
    missing: tuple[Ref, ...] = ()  # wanted objects that are absent or differ, in the order to write them
    surplus: tuple[Ref, ...] = ()  # objects that are no longer wanted
    certificates: CertificatePlan = field(default_factory=CertificatePlan)
    config_generation: int = 0  # of the configuration that agents should have seen
    passwords: tuple[str, ...] = ()  # credentials Secrets without a password
    memory: Memory = field(default_factory=Memory)
    poolers: tuple[Pooler, ...] = ()
    restore_problem: str = ""  # held or suspended: why the Restore will not bring its data any more, as a sentence
    restore_name: str = ""  # suspended: of the Restore
    closed_for: str = ""  # name of the Restore in place for which clients are refused
    policy_noted: bool = True  # the Lease says of a deletion what the spec says

    @property
    def held(self) -> bool:
        """A Restore is to bring the first data, and has not: there is a Lease and a volume, and no instance."""
        return self.lease.held if self.lease is not None else bool(self.wish.restore)

    @property
    def suspended(self) -> bool:
        """A Restore in place prepares other data: no instance runs, and what there is stays as it is."""
        return self.lease is not None and self.lease.suspended

    def get(self, name: str) -> Instance | None:
        """The instance of that name."""
        return next((i for i in self.instances if i.name == name), None)

    @property
    def holder(self) -> str | None:
        """The instance that the Lease names."""
        return self.lease.holder.instance if self.lease is not None and self.lease.holder is not None else None

    @property
    def follows(self) -> bool:
        """This is a replica cluster: its holder is the designated primary."""
        return self.lease is not None and self.lease.mode == "follow"

    @property
    def serving(self) -> bool:
        """The holder's agent says that it lets clients write; in a replica cluster, that it lets them read."""
        found = self.get(self.holder) if self.holder is not None else None
        agent = found.agent if found is not None else None
        if self.follows:
            return agent is not None and agent.role == "replica" and agent.ready
        return agent is not None and agent.role == "primary" and agent.door_open

    @property
    def streaming_voters(self) -> frozenset[str]:
        """Instances whose present incarnation votes and streams, as the holder sees it; in a replica cluster, where
        nobody votes, all that stream."""
        found = self.get(self.holder) if self.holder is not None else None
        if self.lease is None or found is None or found.agent is None:
            return frozenset()
        streams = {(s.instance, s.incarnation) for s in found.agent.streams if s.state == "streaming"}
        if self.follows:
            return frozenset(i for i, _ in streams)
        return frozenset(v.instance for v in self.lease.voters if (v.instance, v.incarnation) in streams)
