"""Where clients go: the EndpointSlices of -rw, -ro and -r, and the role labels of the pods.

The slices carry the epoch and never go back to a lower one. A failover writes -rw alone, and before the door
opens: kube-proxy applies a first change at once and holds a second one back for up to a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from matriarch.agent.clock import boottime
from matriarch.agent.config import Environment
from matriarch.decide import kubeproxy
from matriarch.errors import MatriarchError, Unavailable
from matriarch.kube.client import Kube
from matriarch.kube.errors import Conflict, NotFound

log = logging.getLogger(__name__)

EPOCH = "matriarch.dev/epoch"
LED_BEFORE = "matriarch.dev/led-before"
"""On the slice of -rw: the addresses that it led to before, newest first. Some kube-proxy may still lead there."""
_REMEMBERED = 4
ROLE = "matriarch.dev/role"
PORTS = [{"name": "postgres", "port": 5432, "protocol": "TCP"}]


class Superseded(MatriarchError):  # noqa: N818 - reads as the outcome it is
    """The slice carries a higher epoch: whoever wrote it leads."""


def endpoints(instances: Iterable[str], addresses: Mapping[str, str]) -> list[dict[str, Any]]:
    """The slice's endpoints, in the order of the names; instances without an address are left out."""
    return [
        {"addresses": [addresses[i]], "conditions": {"ready": True, "serving": True, "terminating": False}}
        | {"targetRef": {"kind": "Pod", "name": i}}
        for i in sorted(instances)
        if i in addresses
    ]


def same_endpoints(slice_: Mapping[str, Any], wanted: list[dict[str, Any]]) -> bool:
    """Whether the slice sends clients to the same places already."""

    def key(items: list[dict[str, Any]]) -> list[tuple[str, str]]:
        return sorted((e["addresses"][0], (e.get("targetRef") or {}).get("name", "")) for e in items)

    return key(slice_.get("endpoints") or []) == key(wanted)


def _addresses(slice_: Mapping[str, Any]) -> list[str]:
    return [a for e in slice_.get("endpoints") or [] for a in e.get("addresses") or []]


def _led_before(slice_: Mapping[str, Any]) -> list[str]:
    return [a for a in (slice_["metadata"].get("annotations") or {}).get(LED_BEFORE, "").split(",") if a]


def epoch_of(slice_: Mapping[str, Any]) -> int:
    """The epoch that the slice carries; 0 for one that nobody has written."""
    return int((slice_["metadata"].get("annotations") or {}).get(EPOCH) or 0)


class Routing:
    """Writes slices from the newest copy that the watch brought, so that a move is one call each."""

    def __init__(self, kube: Kube, env: Environment) -> None:
        self._kube = kube
        self._env = env
        self._slices: dict[str, dict[str, Any]] = {}
        self._labelled: dict[str, str] = {}
        self._leads_here: bool | None = None  # None: the slice of -rw was not seen yet
        self._left_here = 0
        self._moved = 0  # when an endpoint of the cluster last changed, as far as was seen

    def seen(self, slice_: dict[str, Any]) -> None:
        """Take in a slice from the watch."""
        name = slice_["metadata"]["name"]
        before = self._slices.get(name)
        if before is not None and not same_endpoints(before, slice_.get("endpoints") or []):
            self._moved = boottime()
        self._slices[name] = slice_
        if name == f"{self._env.cluster}-rw":
            here = self._env.pod_ip in _addresses(slice_)
            first = self._leads_here is None and self._env.pod_ip in _led_before(slice_)  # when, nobody knows any more
            if not here and (self._leads_here or first):
                self._left_here = boottime()
            self._leads_here = here

    def led_here(self, now: int) -> int:
        """When the write Service last led to this pod, as far as is known (boot-time ns): `now` while it does, or 0."""
        return now if self._leads_here else self._left_here

    def rests(self, now: int) -> bool:
        """Whether kube-proxy applies the next change at once, as far as is known."""
        return not self._moved or now >= self._moved + kubeproxy.REST

    def busy(self, now: int) -> bool:
        """Whether kube-proxy surely holds changes back, so that one more costs nothing; between both nobody knows."""
        return bool(self._moved) and now < self._moved + kubeproxy.ROUND

    async def rest(self, *, timeout: float) -> None:
        """Wait until it does; while one change follows another, not for longer than `timeout` seconds."""
        until = boottime() + int(timeout * 1e9)
        while True:
            now = boottime()
            if self.rests(now) or now >= until:
                return
            await asyncio.sleep(0.05)

    def leads_to(self, service: str, instance: str) -> bool:
        """Whether the newest known slice of `service` ("rw") sends clients to `instance`."""
        slice_ = self._slices.get(f"{self._env.cluster}-{service}")
        return slice_ is not None and any(
            (e.get("targetRef") or {}).get("name") == instance for e in slice_.get("endpoints") or []
        )

    async def write(self, epoch: int, wanted: Mapping[str, list[dict[str, Any]]], *, timeout: float = 2.0) -> None:
        """Make the slices of these services say this, all at once.

        Raises:
            Superseded: one of them carries a higher epoch.
            Unavailable: the API server did not take one of them.
        """
        results = await asyncio.gather(
            *(self._write(f"{self._env.cluster}-{s}", epoch, e, timeout) for s, e in wanted.items()),
            return_exceptions=True,
        )
        for r in results:
            if isinstance(r, BaseException):
                raise r

    async def lead_here(self, epoch: int, *, timeout: float = 2.0) -> None:
        """Make the write Service lead to this pod, and nothing else. Raises what `write` does."""
        here = endpoints([self._env.instance], {self._env.instance: self._env.pod_ip})
        await self.write(epoch, {"rw": here}, timeout=timeout)

    async def _write(self, name: str, epoch: int, wanted: list[dict[str, Any]], timeout: float) -> None:
        for _ in range(4):
            slice_ = self._slices.get(name)
            if slice_ is None:
                slice_ = await self._read(name, timeout)
            if epoch_of(slice_) > epoch:
                raise Superseded(f"EndpointSlice {name} is at epoch {epoch_of(slice_)}")
            if epoch_of(slice_) == epoch and same_endpoints(slice_, wanted):
                return
            meta = {k: v for k, v in slice_["metadata"].items() if k != "managedFields"}
            notes = {**(meta.get("annotations") or {}), EPOCH: str(epoch), **self._before(slice_, wanted)}
            changed = {
                **slice_,
                "metadata": {**meta, "annotations": notes},
                "endpoints": wanted,
                "ports": PORTS,
            }
            try:
                self.seen(await self._kube.replace(changed, timeout=timeout))
            except (Conflict, NotFound):
                self._slices.pop(name, None)
                continue
            return
        raise Unavailable(f"EndpointSlice {name} changed too often")

    def _before(self, slice_: Mapping[str, Any], wanted: list[dict[str, Any]]) -> dict[str, str]:
        if slice_["metadata"]["name"] != f"{self._env.cluster}-rw":
            return {}
        now = _addresses({"endpoints": wanted})
        past = dict.fromkeys(a for a in (*_addresses(slice_), *_led_before(slice_)) if a not in now)
        return {LED_BEFORE: ",".join([*past][:_REMEMBERED])}

    async def _read(self, name: str, timeout: float) -> dict[str, Any]:
        slice_ = await self._kube.get("EndpointSlice", self._env.namespace, name, timeout=timeout)
        if slice_ is None:
            raise Unavailable(f"EndpointSlice {name} does not exist; the controller makes it")
        self.seen(slice_)
        return slice_

    async def announce(self, *, timeout: float = 2.0) -> None:
        """Publish this pod's own address among the members. Raises Unavailable."""
        name = self._env.instance
        own = [
            {
                "addresses": [self._env.pod_ip],
                "hostname": self._env.instance,
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "targetRef": {"kind": "Pod", "name": self._env.instance, "uid": self._env.pod_uid},
            }
        ]
        for _ in range(4):
            slice_ = self._slices.get(name) or await self._read(name, timeout)
            if slice_.get("endpoints") and same_endpoints(slice_, own):
                return
            meta = {k: v for k, v in slice_["metadata"].items() if k != "managedFields"}
            try:
                self.seen(await self._kube.replace({**slice_, "metadata": meta, "endpoints": own}, timeout=timeout))
            except (Conflict, NotFound):
                self._slices.pop(name, None)
                continue
            return
        raise Unavailable(f"EndpointSlice {name} changed too often")

    async def label(self, roles: Mapping[str, str], *, timeout: float = 2.0) -> None:
        """Write the role labels that differ from what was last written. A pod that is gone is passed over."""
        for instance, role in roles.items():
            if self._labelled.get(instance) == role:
                continue
            try:
                await self._kube.patch(
                    "Pod", self._env.namespace, instance, {"metadata": {"labels": {ROLE: role}}}, timeout=timeout
                )
            except NotFound:
                continue
            self._labelled[instance] = role

    def forget_labels(self, instances: Iterable[str] | None = None) -> None:
        """After a pod was made anew, or at the start of an epoch, its label is written again."""
        if instances is None:
            self._labelled.clear()
        else:
            for i in instances:
                self._labelled.pop(i, None)
