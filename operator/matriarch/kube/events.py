"""Events beside an object, so that `kubectl describe` tells its story in few lines.

One Event per (object, type, reason, message): a repeat raises its count. Recording never fails the caller and never
floods the API server: the same Event is written at most every `INTERVAL` seconds, the counts in between are kept.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from matriarch.errors import Unavailable
from matriarch.kube.client import Kube, Object
from matriarch.kube.errors import ApiError, Conflict, NotFound

INTERVAL = 10.0  # seconds
_REMEMBERED = 1000  # Events; older ones are looked up again

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Seen:
    count: int
    pending: int
    written: float


class Recorder:
    """Writes Events as `component` (for example `matriarch-controller`)."""

    def __init__(self, kube: Kube, component: str, *, instance: str = "") -> None:
        self._kube = kube
        self._source = {"component": component, **({"host": instance} if instance else {})}
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    async def record(self, about: Object, reason: str, message: str, *, kind: Literal["Normal", "Warning"]) -> None:
        """`about` is the object itself (its kind, name, namespace and uid are taken); `reason` is CamelCase."""
        event = _event(about, kind, reason, message, self._source)
        key = f"{event['metadata']['namespace']}/{event['metadata']['name']}"
        seen = self._seen.setdefault(key, _Seen(0, 0, float("-inf")))
        self._seen.move_to_end(key)
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        seen.pending += 1
        if time.monotonic() - seen.written < INTERVAL:
            return
        try:
            await self._write(event, seen)
        except (ApiError, Unavailable) as e:
            log.debug("event %s about %s was not written: %s", reason, about["metadata"]["name"], e)

    async def _write(self, event: Object, seen: _Seen) -> None:
        namespace, name, now = event["metadata"]["namespace"], event["metadata"]["name"], event["lastTimestamp"]
        if seen.count == 0:
            try:
                await self._kube.create({**event, "count": seen.pending})
            except Conflict:  # from an earlier life of this process: go on counting where it stopped
                there = await self._kube.get("Event", namespace, name)
                seen.count = int((there or {}).get("count") or 0)
            else:
                seen.count, seen.pending, seen.written = seen.pending, 0, time.monotonic()
                return
        count = seen.count + seen.pending
        try:
            await self._kube.patch("Event", namespace, name, {"count": count, "lastTimestamp": now})
        except NotFound:  # Events expire after an hour
            await self._kube.create({**event, "count": count})
        seen.count, seen.pending, seen.written = count, 0, time.monotonic()


def _event(about: Object, kind: str, reason: str, message: str, source: Object) -> Object:
    metadata = about["metadata"]
    namespace = metadata.get("namespace") or "default"
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    identity = "\0".join((str(metadata.get("uid")), kind, reason, message))
    return {
        "kind": "Event",
        "metadata": {
            "name": f"{metadata['name'][:200]}.{hashlib.sha256(identity.encode()).hexdigest()[:16]}",
            "namespace": namespace,
        },
        "involvedObject": {
            "apiVersion": about.get("apiVersion"),
            "kind": about.get("kind"),
            "name": metadata["name"],
            "namespace": metadata.get("namespace"),
            "uid": metadata.get("uid"),
        },
        "type": kind,
        "reason": reason,
        "message": message[:1024],  # the API server refuses longer ones
        "source": source,
        "firstTimestamp": now,
        "lastTimestamp": now,
    }
