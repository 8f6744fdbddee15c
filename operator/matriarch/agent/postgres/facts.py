"""What the agent learns from its PostgreSQL and what it tells it: plain values, no behaviour.

All LSNs are byte offsets (`matriarch.postgres.lsn`), all times are seconds unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from matriarch.postgres.timeline import Switch, WalPosition


@dataclass(frozen=True, slots=True)
class Paths:
    """Where things are in a database pod; tests put them elsewhere."""

    volume: Path = Path("/var/lib/matriarch")
    run: Path = Path("/run/matriarch")
    secret: Path = Path("/etc/matriarch/tls")  # tls.crt, tls.key, ca.crt as Kubernetes mounts them
    bin: Path = Path("/usr/lib/postgresql/17/bin")
    source: Path = Path("/etc/matriarch/source")  # a replica cluster's: what opens the server that it follows

    @property
    def pgdata(self) -> Path:
        return self.volume / "pgdata"

    @property
    def socket_dir(self) -> Path:
        return self.run / "pg"

    @property
    def tls(self) -> Path:
        return self.run / "tls"

    @property
    def stream(self) -> Path:
        return self.run / "stream"

    @property
    def source_keys(self) -> Path:
        return self.run / "source"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this member is. `pod_ip` is only told to people; PostgreSQL listens where its settings say."""

    cluster: str
    namespace: str
    instance: str
    incarnation: str
    pod_ip: str


@dataclass(frozen=True, slots=True)
class ReceiverStatus:
    """The WAL receiver as its own view shows it. That it is absent here proves nothing (S4)."""

    status: str
    sender_host: str
    timeline: int
    flushed_lsn: int
    last_message: datetime | None


@dataclass(frozen=True, slots=True)
class PendingRestart:
    """A setting that waits for a restart."""

    running: str
    wanted: str


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One look at the running server.

    `timeline` is that of the last WAL written, or received or replayed. `flushed_lsn` is 0 on a standby;
    `received_lsn` is None until a receiver has run since the start, and `replayed_lsn` is 0 on a primary.
    `lag_seconds`: how long ago the last replayed transaction was committed, None when all that was received is
    replayed, or nothing was.
    """

    in_recovery: bool
    timeline: int
    flushed_lsn: int
    received_lsn: int | None
    replayed_lsn: int
    lag_seconds: float | None
    system_identifier: str
    version: str
    started: datetime
    receiver: ReceiverStatus | None = None
    pending_restart: Mapping[str, PendingRestart] = field(default_factory=dict)
    standby_names: str = ""

    @property
    def position(self) -> WalPosition:
        """How far its WAL reaches. For elections ask vote_position(), which waits for what this cannot see."""
        lsn = max(self.received_lsn or 0, self.replayed_lsn) if self.in_recovery else self.flushed_lsn
        return WalPosition(self.timeline, lsn)


@dataclass(frozen=True, slots=True)
class WalSender:
    """One row of pg_stat_replication. `slot` is the one it holds; `address` is None for the local socket."""

    pid: int
    role: str
    application_name: str
    address: str | None
    state: str  # startup, catchup, streaming, backup, stopping
    sent_lsn: int
    flush_lsn: int
    replay_lsn: int
    slot: str | None
    started: datetime


@dataclass(frozen=True, slots=True)
class Slot:
    """A physical slot of ours. `restart_lsn` is None while it keeps nothing; `lost`: its WAL is gone.

    `stale`: on a standby it keeps dead rows for a member's readers, from a time as primary.
    """

    name: str
    active: bool
    restart_lsn: int | None
    lost: bool
    stale: bool = False


@dataclass(frozen=True, slots=True)
class LogicalSlot:
    """One that is to survive failovers. `copy`: a standby's; `whole`: it can be used after a promotion."""

    name: str
    pid: int | None
    copy: bool
    whole: bool
    confirmed_lsn: int


@dataclass(frozen=True, slots=True)
class Promotion:
    """The server is a primary on `timeline`, which left `parent` at `switch_lsn`; `lsn` is on the new timeline."""

    timeline: int
    parent: int
    switch_lsn: int
    lsn: int
    line: tuple[Switch, ...]


@dataclass(frozen=True, slots=True)
class RewindResult:
    """`done`: the data directory is a standby's of the source. `unusable`: it must be cloned anew; else as before."""

    done: bool
    unusable: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CloneProgress:
    """`step` is copy, verify or sync; `total` is an estimate, 0 when unknown."""

    step: str
    done_bytes: int
    total_bytes: int
