"""One PostgreSQL of this pod, as the agent's loop sees it.

Every call has an end: past its `timeout` (seconds) it raises Unavailable, and nothing is known about the outcome.
Calls may be repeated. Own writes are made with synchronous_commit=local: an agent never waits for voters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from matriarch.agent.postgres.facts import (
    CloneProgress,
    Identity,
    Paths,
    Promotion,
    RewindResult,
    ServerStatus,
    Slot,
    WalSender,
)
from matriarch.postgres.controldata import ControlData
from matriarch.postgres.conninfo import Upstream
from matriarch.postgres.settings import ServerSettings
from matriarch.postgres.timeline import Switch, WalPosition

if TYPE_CHECKING:
    from matriarch.agent.supervisor_client import SupervisorClient


class Server:
    def __init__(self, paths: Paths, identity: Identity, supervisor: SupervisorClient) -> None:
        raise NotImplementedError

    # --- data directory -------------------------------------------------------------------------------------------
    async def settle(self) -> None:
        """First call after the agent's start: finishes or undoes what a crash left half done; adopts a running
        postmaster."""
        raise NotImplementedError

    async def initdb(self, *, timeout: float = 120.0) -> str:
        """The new system identifier. Refused where a data directory exists."""
        raise NotImplementedError

    async def bootstrap_sql(
        self, database: str, owner: str, owner_password: str, superuser_password: str | None, *, timeout: float = 60.0
    ) -> None:
        raise NotImplementedError

    async def clone(
        self,
        source: Upstream,
        *,
        progress: Callable[[CloneProgress], None] | None = None,
        keep_old: bool = True,
        stall: float = 120.0,
    ) -> None:
        """Base backup into pgdata.new, verified, renamed. Needs no running server here. Raises Unavailable after
        `stall` seconds without progress. With keep_old=False the present directory goes first (little space)."""
        raise NotImplementedError

    async def rewind(self, source: Upstream, *, timeout: float = 300.0) -> RewindResult:
        raise NotImplementedError

    async def control_data(self, *, timeout: float = 10.0) -> ControlData | None:
        """None without a data directory."""
        raise NotImplementedError

    async def history(self, *, timeout: float = 5.0) -> list[Switch]:
        """The line of the newest real timeline in pg_wal, oldest first."""
        raise NotImplementedError

    # --- process and settings -------------------------------------------------------------------------------------
    async def configure(self, settings: ServerSettings, *, timeout: float = 10.0) -> bool:
        """Renders files (and reloads a running server); True if something changed. Needs to be called once before
        any start; before there is a data directory it only remembers."""
        raise NotImplementedError

    async def start_primary(self, *, timeout: float = 60.0) -> None:
        raise NotImplementedError

    async def start_standby(
        self, upstream: Upstream | None, *, line: Sequence[Switch] = (), timeout: float = 60.0
    ) -> None:
        """Returns when it accepts connections (consistent). Unavailable when not in time (it goes on), or when the
        postmaster ended."""
        raise NotImplementedError

    async def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast", timeout: float = 60.0) -> bool:
        """False: it still runs. True also when none ran."""
        raise NotImplementedError

    async def reload(self) -> None:
        raise NotImplementedError

    async def reload_tls(self) -> bool:
        """Copies the mounted certificate where it differs; True if so."""
        raise NotImplementedError

    def postmaster(self) -> int | None:
        """Its pid, None when it is not there. Looks at the kernel, never at the disk."""
        raise NotImplementedError

    # --- looking --------------------------------------------------------------------------------------------------
    async def status(self, *, timeout: float = 1.0) -> ServerStatus | None:
        raise NotImplementedError

    async def replication(self, *, timeout: float = 1.0) -> list[WalSender]:
        raise NotImplementedError

    async def canary(self, deadline: float = 2.0) -> bool:
        raise NotImplementedError

    # --- standby --------------------------------------------------------------------------------------------------
    async def attach(self, upstream: Upstream, *, line: Sequence[Switch] = (), timeout: float = 10.0) -> None:
        """`line`: the line of the timeline to follow (the Lease's lineage) if known. A history here that is not of
        it and of which nothing was received is taken away, which restarts the standby."""
        raise NotImplementedError

    async def cut_stream(self, *, timeout: float = 2.0) -> None:
        raise NotImplementedError

    async def vote_position(self, *, timeout: float = 10.0) -> WalPosition:
        raise NotImplementedError

    async def end_client_sessions(self, *, timeout: float = 2.0) -> int:
        raise NotImplementedError

    async def promote(self, claim: int, *, timeout: float = 10.0) -> Promotion:
        raise NotImplementedError

    async def prune_tombstones(self, newest_real: int | None = None) -> None:
        """start_* does it by itself."""
        raise NotImplementedError

    # --- primary --------------------------------------------------------------------------------------------------
    async def set_standby_names(self, value: str, *, timeout: float = 5.0) -> None:
        raise NotImplementedError

    async def barrier(self, voters: Sequence[str], k: int, *, also: Sequence[str] = (), timeout: float = 10.0) -> None:
        """`voters`: application names of the new S; `also`: names of the old S. S6."""
        raise NotImplementedError

    async def probe_sync_rep(self, *, timeout: float = 5.0) -> bool:
        raise NotImplementedError

    async def write_record(self, *, timeout: float = 2.0) -> int:
        """LSN of a record that is flushed here."""
        raise NotImplementedError

    async def confirm_flushed(self, lsn: int, voters: Sequence[str], k: int, *, timeout: float = 10.0) -> list[str]:
        """The voters (at least k) that flushed `lsn`; Unavailable when fewer did in time."""
        raise NotImplementedError

    async def flushed_by(self, lsn: int, voters: Sequence[str], *, timeout: float = 1.0) -> list[str]:
        """Which of them have it now, without waiting."""
        raise NotImplementedError

    async def slots(self, *, timeout: float = 2.0) -> list[Slot]:
        raise NotImplementedError

    async def ensure_slots(self, wanted: Mapping[str, int | None], *, timeout: float = 5.0) -> None:
        """Slot name -> LSN that its member has flushed (None: unknown). Makes, advances, and drops ours not named."""
        raise NotImplementedError

    async def terminate_foreign_walsenders(
        self, allowed: Mapping[str, str], *, timeout: float = 2.0
    ) -> list[WalSender]:
        """`allowed`: application_name -> pod IP. Those ended."""
        raise NotImplementedError

    async def checkpoint(self, *, timeout: float = 300.0) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError
