"""A watch that goes on: lists, follows, reconnects with a back-off, lists again when its version is no good any more.

What callers see is a level with edges: after any gap the differences to what they were told come as events, also
deletions that nobody saw. A connection that says nothing, not even a bookmark, for `INACTIVITY` is given up: behind
load balancers a dead watch looks like a quiet one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from matriarch.errors import Unavailable
from matriarch.kube.errors import ApiError, Gone, from_answer

if TYPE_CHECKING:
    from matriarch.kube.client import Kube

Object = dict[str, Any]

INACTIVITY = 90.0  # seconds; the API server sends a bookmark every 60 s, with up to a quarter of jitter
_LIFE = 290  # seconds after which the server ends a watch; a new one begins with a list
_FIRST_RETRY, _LAST_RETRY = 0.1, 5.0  # seconds
_SETTLED = 10.0  # a connection that lived this long starts the back-off anew

log = logging.getLogger(__name__)


async def watch_objects(
    kube: Kube,
    kind: str,
    namespace: str | None,
    *,
    labels: Mapping[str, str] | None = None,
    name: str | None = None,
    inactivity: float = INACTIVITY,
) -> AsyncIterator[tuple[str, Object]]:
    """See `Kube.watch`."""
    known: dict[tuple[str, str], Object] = {}
    version: str | None = None
    failures = 0
    while True:
        started = time.monotonic()
        try:
            if version is None:
                items, fresh = await kube.list_with_version(kind, namespace, labels=labels, name=name)
                for event, obj in _differences(known, items):
                    yield event, obj
                version = fresh
            lines = kube.stream(kind, namespace, _query(labels, name, version), inactivity=inactivity)
            async with aclosing(lines):  # type: ignore[type-var]  # an async generator behind its protocol
                async for line in lines:
                    event, obj = _parse(line, kind)
                    version = obj["metadata"]["resourceVersion"]
                    if event == "BOOKMARK":
                        continue
                    _remember(known, event, obj)
                    yield event, obj
            failures = 0
            if time.monotonic() - started > 1.0:
                # Its time was over: the normal end. A list, for a store that was restored counts from further back, and
                # a watch from a version that it has not reached yet hears nothing.
                version = None
                continue
            problem: Exception = Unavailable(f"watch {kind}: ended at once")
        except Gone as e:
            log.debug("watch of %s in %s lists again: %s", kind, namespace or "all namespaces", e)
            version, problem = None, e
        except (Unavailable, ApiError) as e:
            problem = e
        failures = 1 if time.monotonic() - started > _SETTLED else failures + 1
        pause = min(_LAST_RETRY, _FIRST_RETRY * 2 ** min(failures - 1, 10)) * random.uniform(0.5, 1.0)  # noqa: S311 - spreads reconnects, no secret
        if failures >= 3:
            version = None  # the server may refuse this version for ever, for the same reason
        if failures in {3, 10, 100}:  # one or two are a restart of the API server
            log.warning("watch of %s in %s: %s; trying on", kind, namespace or "all namespaces", problem)
        await asyncio.sleep(pause)


def selectors(labels: Mapping[str, str] | None, name: str | None) -> dict[str, str]:
    """Query parameters for a selection. A role limited to one name needs the field selector also for watch and list."""
    query: dict[str, str] = {}
    if labels:
        query["labelSelector"] = ",".join(f"{k}={v}" if v else k for k, v in sorted(labels.items()))
    if name is not None:
        query["fieldSelector"] = f"metadata.name={name}"
    return query


def _query(labels: Mapping[str, str] | None, name: str | None, version: str) -> dict[str, str]:
    return {
        **selectors(labels, name),
        "resourceVersion": version,
        "allowWatchBookmarks": "true",
        "timeoutSeconds": str(_LIFE + random.randrange(20)),  # noqa: S311 - spreads reconnects, no secret
    }


def _parse(line: bytes, kind: str) -> tuple[str, Object]:
    try:
        document = json.loads(line)
        event, obj = document["type"], document["object"]
    except (ValueError, KeyError, TypeError) as e:
        raise Unavailable(f"watch {kind}: a line that is not an event") from e
    if event == "ERROR":
        raise from_answer(int(obj.get("code") or 500), obj, doing=f"watch {kind}")
    return event, obj


def _key(obj: Object) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _remember(known: dict[tuple[str, str], Object], event: str, obj: Object) -> None:
    if event == "DELETED":
        known.pop(_key(obj), None)
    else:
        metadata = {k: v for k, v in obj["metadata"].items() if k != "managedFields"}  # the largest part by far
        known[_key(obj)] = {"apiVersion": obj.get("apiVersion"), "kind": obj.get("kind"), "metadata": metadata}


def _differences(known: dict[tuple[str, str], Object], items: list[Object]) -> list[tuple[str, Object]]:
    """What a fresh list tells beyond what was told already; `known` is brought up to date.

    An object with another uid was deleted and made anew: both are told.
    """
    events: list[tuple[str, Object]] = []
    there = {_key(i): i for i in items}
    for key, old in list(known.items()):
        new = there.get(key)
        if new is None or new["metadata"].get("uid") != old["metadata"].get("uid"):
            events.append(("DELETED", known.pop(key)))
    for key, new in there.items():
        old_version = known[key]["metadata"].get("resourceVersion") if key in known else None
        if old_version == new["metadata"].get("resourceVersion"):
            continue
        events.append(("ADDED" if key not in known else "MODIFIED", new))
        _remember(known, "ADDED", new)
    return events
