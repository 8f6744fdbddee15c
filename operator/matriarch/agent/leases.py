"""Reading and swapping the cluster's Lease.

A swap names the resourceVersion that its state was derived from. When only the renew time moved meanwhile, the same
swap is tried again at once; any other change makes it void. An attempt whose outcome is unknown is settled by reading:
the nonce tells an own write from a rival's (S9).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from matriarch.agent.clock import SECOND, boottime
from matriarch.decide import lease as transitions
from matriarch.decide import leasetext
from matriarch.decide.lease import LeaseState
from matriarch.decide.leasetext import LeaseRead
from matriarch.errors import MatriarchError, Unavailable
from matriarch.kube.client import Kube
from matriarch.kube.errors import Conflict, NotFound
from matriarch.postgres.timeline import WalPosition

BLIND = 3 * SECOND
"""After the API server was away for so long it says nothing of who renewed meanwhile, or would have."""


class Lost(MatriarchError):  # noqa: N818 - reads as the outcome it is
    """The Lease says something else by now: what was planned on the old one is void."""


@dataclass(slots=True)
class Leases:
    """The newest Lease that this process knows, and the only way to change it.

    `renewal_seen`: boot-time instant at which its renew time was last seen to move. `watched_since`: since when the API
    server answers, after it was away for `BLIND`. `renewed`: when the request of the last own successful write was
    sent. `claiming`: an own swap to a higher epoch is under way, and a watch may tell of it before its answer does.
    `epoch_seen`: when the newest epoch was first seen. `keep` has each newer state written to the volume,
    soon; `noted` is told of each, with the state before.
    """

    kube: Kube
    cluster: str
    namespace: str
    labels: Mapping[str, str]
    keep: Callable[[LeaseState], None]
    noted: Callable[[LeaseState | None, LeaseRead], None] | None = None
    state: LeaseState | None = None
    fresh: bool = False
    renewal_seen: int = 0
    watched_since: int = 0
    renewed: int | None = None
    authority: int = 0
    claiming: bool = False
    epoch_seen: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    _newest: LeaseRead | None = None
    _away_since: int | None = None

    def seen(self, manifest: Mapping[str, Any]) -> LeaseState:
        """Take in a Lease from a watch or a read. What is void never replaces what is known (L7).

        Raises:
            ValueError: its state can't be read.
        """
        read, known = leasetext.from_manifest(manifest), self.state
        if known is not None:
            late = self._newest is not None and _version(read) < _version(self._newest)
            # Versions go back when the store is restored: then what the state says of itself decides.
            if transitions.is_older(read.state, known) or (late and not transitions.is_older(known, read.state)):
                return known
        if self._newest is None or read.renew_time != self._newest.renew_time:
            self.renewal_seen = boottime()
        # What renewals carry is old when they are: it is neither kept nor logged.
        if known is None or read.state.epoch != known.epoch:
            self.epoch_seen = boottime()
        lasting = known is None or transitions.plain(read.state) != transitions.plain(known)
        if lasting:
            self.keep(read.state)
        self.state, self.fresh, self._newest = read.state, True, read
        if read.state != known:
            self.changed.set()
        if lasting and self.noted is not None:
            self.noted(known, read)
        return read.state

    @property
    def version(self) -> int:
        """The newest Lease's resourceVersion; 0 while none was read, or where it is no number."""
        return 0 if self._newest is None or not self._newest.resource_version.isdecimal() else _version(self._newest)

    @property
    def known(self) -> LeaseRead | None:
        """The newest Lease that was seen, for a swap that need not be sure to succeed; None while there is none."""
        return self._newest if self._newest is not None and self._newest.state == self.state else None

    async def read(self, *, wait: float = 2.0) -> LeaseRead:
        """A consistent read. Raises Unavailable, or Lost when there is no Lease."""
        try:
            manifest = await self.kube.get("Lease", self.namespace, self.cluster, timeout=wait)
        except Unavailable:
            self._away_since = self._away_since or boottime()
            raise
        if self._away_since is not None and boottime() - self._away_since > BLIND:
            self.watched_since = boottime()
        self._away_since = None
        if manifest is None:
            raise Lost(f"Lease {self.cluster} does not exist; nobody may lead without it")
        try:
            self.seen(manifest)
            read = leasetext.from_manifest(manifest)
        except ValueError as e:
            raise Lost(f"Lease {self.cluster} can't be read ({e}); nobody may lead by it") from e
        if self.state is not None and transitions.is_older(read.state, self.state):
            raise Lost(f"Lease {self.cluster} was rolled back to epoch {read.state.epoch}; it is void")
        return read

    async def swap(
        self,
        base: LeaseRead,
        wanted: LeaseState,
        *,
        wait: float = 2.0,
        tries: int = 4,
        through_renewals: bool = True,
    ) -> LeaseState:
        """Write `wanted` in place of `base`. Without `through_renewals` one that came in between makes it void: for a
        takeover that rests on there being none.

        Raises:
            Lost: the Lease is no longer what `wanted` was derived from.
            Unavailable: the outcome is unknown and could not be read; the attempt may still land.
        """
        wanted = transitions.revised(base.state, wanted)
        if wanted.epoch <= base.state.epoch:  # renewals go on beside a claim
            return await self._swap(base, wanted, wait, tries, through_renewals)
        self.claiming = True
        try:
            return await self._swap(base, wanted, wait, tries, through_renewals)
        finally:
            self.claiming = False

    async def _swap(
        self, base: LeaseRead, wanted: LeaseState, wait: float, tries: int, through_renewals: bool
    ) -> LeaseState:
        read = base
        renewal = transitions.plain(wanted) == transitions.plain(base.state)
        for attempt in range(tries):
            sent = boottime()
            manifest = self._manifest(wanted, read)
            try:
                written = await self.kube.replace(manifest, timeout=wait)
            except NotFound as e:
                raise Lost(f"Lease {self.cluster} was deleted") from e
            except (Conflict, Unavailable):
                read = await self._settle(wait, attempt)
                # That it says what was to be written proves no renewal: it said so before. Only its time does.
                renewed = read.renew_time == manifest["spec"]["renewTime"]
                if transitions.plain(read.state) == transitions.plain(wanted) and (renewed or not renewal):
                    return self._won(base, wanted, read.manifest, sent if renewed else None)
                void = not through_renewals and read.renew_time != base.renew_time
                if void or transitions.plain(read.state) != transitions.plain(base.state):
                    raise Lost(f"Lease {self.cluster} changed: epoch {read.state.epoch} now") from None
                continue
            return self._won(base, wanted, written, sent)
        raise Unavailable(f"Lease {self.cluster} could not be written in {tries} attempts")

    async def change(self, derive: Callable[[LeaseState], LeaseState], *, wait: float = 2.0) -> LeaseState:
        """Derive and swap: the holder's own small changes. Raises as `read`, `swap` and `derive` do.

        First from what is known, which is nearly always the newest and saves a round trip in the middle of a
        switchover: the swap names its version, so an old one does no harm. Else from what a read says.
        """
        known = self.known
        if known is not None:
            with contextlib.suppress(Lost, ValueError):
                wanted = derive(known.state)
                if wanted != known.state:
                    return await self.swap(known, wanted, wait=wait)
        base = await self.read(wait=wait)
        wanted = derive(base.state)
        if wanted == base.state:
            return base.state
        return await self.swap(base, wanted, wait=wait)

    async def renew(self, *, no_voters: bool, wal: WalPosition | None = None, wait: float = 1.0) -> None:
        """Move the renew time, by what is known, in one call. `wal`: where WAL ends here, for mode async.

        Raises:
            Lost: the Lease says something else than this process knew; it knows now.
            Unavailable: the outcome is unknown.
        """
        base = self._newest or await self.read(wait=wait)
        wanted = transitions.renewed_with(base.state, no_voters=no_voters, wal=wal)
        await self.swap(base, wanted, wait=wait, tries=2)

    def _won(self, base: LeaseRead, wanted: LeaseState, manifest: Mapping[str, Any], sent: int | None) -> LeaseState:
        if wanted.epoch > base.state.epoch:
            self.authority = wanted.epoch
        self.renewed = sent if sent is not None else self.renewed
        self.seen(manifest)
        return wanted

    async def _settle(self, wait: float, attempt: int) -> LeaseRead:
        """After a conflict or an unknown outcome: what the Lease says now."""
        last: Exception | None = None
        for again in range(3):
            await asyncio.sleep(0.02 * (2 ** (attempt + again)) if attempt + again else 0)
            try:
                return await self.read(wait=wait)
            except Unavailable as e:
                last = e
        raise Unavailable(f"Lease {self.cluster}: the outcome of a write is unknown") from last

    def _manifest(self, state: LeaseState, base: LeaseRead) -> dict[str, Any]:
        made = leasetext.to_manifest(
            state,
            cluster=self.cluster,
            namespace=self.namespace,
            renew_time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            labels=self.labels,
            resource_version=base.resource_version,
        )
        # What others put onto the object (labels, annotations, finalizers) stays.
        old = base.manifest.get("metadata") or {}
        meta = made["metadata"]
        meta["labels"] = {**(old.get("labels") or {}), **meta["labels"]}
        meta["annotations"] = {**(old.get("annotations") or {}), **meta["annotations"]}
        for key in ("finalizers", "ownerReferences", "uid"):  # the uid: a write to one that was deleted never lands
            if old.get(key):
                meta[key] = old[key]
        return made


def _version(read: LeaseRead) -> int:
    """Versions of one object grow; what can't be compared counts as newer."""
    return int(read.resource_version) if read.resource_version.isdecimal() else 1 << 63


def new_nonce() -> str:
    """Random, once per attempt."""
    return secrets.token_hex(8)
