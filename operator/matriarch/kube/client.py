"""The Kubernetes API as Matriarch uses it: plain manifests in, plain manifests out, every call with its own time limit.

Written on aiohttp, which controller and agent load anyway: docs/decisions/kubernetes-client.md has the measurements.
What callers may rely on: the exceptions of `kube/errors.py`; `Unavailable` whenever the outcome is unknown; lists are
consistent reads (no resourceVersion is sent); deletes can carry the uid that was meant.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from matriarch.errors import Unavailable
from matriarch.kube.config import Connection, connection
from matriarch.kube.errors import Gone, NotFound, from_answer
from matriarch.kube.kinds import Kind, kind_named
from matriarch.kube.watch import selectors, watch_objects

Object = dict[str, Any]
_Objects = list[Object]  # inside the class `list` is the method

_PAGE = 500  # objects a list asks for at once, so that no answer grows without bound
_APPLY = "application/apply-patch+yaml"  # JSON is YAML
_MERGE = "application/merge-patch+json"


class Kube:
    """One API server. Safe for many tasks at once; belongs to the event loop of its first call."""

    def __init__(self, where: Connection, *, timeout: float = 10.0, manager: str = "matriarch") -> None:
        self._where = where
        self._manager = {"fieldManager": manager}
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None
        self.away_at = 0
        """Boot-time instant (ns) at which a call or a watch last got no answer; 0: never."""

    @classmethod
    def connect(
        cls,
        *,
        timeout: float = 10.0,
        manager: str = "matriarch",
        kubeconfig: str | Path | None = None,
        context: str | None = None,
    ) -> Kube:
        """In a pod its service account, else a kubeconfig.

        `timeout` in seconds covers a whole call; `manager` is the field manager of creates, replaces and patches.

        Raises:
            Refused: there is no service account and no usable kubeconfig.
        """
        return cls(connection(kubeconfig, context), timeout=timeout, manager=manager)

    @property
    def namespace(self) -> str:
        """The namespace of the pod, or of the kubeconfig's context."""
        return self._where.namespace

    async def get(self, kind: str, namespace: str | None, name: str, *, timeout: float | None = None) -> Object | None:
        """The object, read consistently, or None if it is not there."""
        try:
            return await self._call("GET", kind_named(kind).path(namespace, name), timeout=timeout)
        except NotFound:
            return None

    async def list(
        self,
        kind: str,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        *,
        timeout: float | None = None,
    ) -> _Objects:
        """All objects with these labels (an empty value: the label exists), read consistently."""
        items, _ = await self.list_with_version(kind, namespace, labels=labels, timeout=timeout)
        return items

    async def list_with_version(
        self,
        kind: str,
        namespace: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        name: str | None = None,
        timeout: float | None = None,
    ) -> tuple[_Objects, str]:
        """As `list`, with the resource version from which a watch goes on."""
        row = kind_named(kind)
        selection = selectors(labels, name)
        for attempt in range(3):
            items: _Objects = []
            query = {**selection, "limit": str(_PAGE)}
            try:
                while True:
                    page = await self._call("GET", row.path(namespace), query=query, timeout=timeout)
                    items += page.get("items") or ()
                    more = page["metadata"].get("continue")
                    if not more:
                        return [_named(row, i) for i in items], page["metadata"]["resourceVersion"]
                    query["continue"] = more
            except Gone:  # the list changed for minutes while it was paged through
                if attempt == 2:
                    raise
        raise AssertionError("unreachable")

    async def create(self, obj: Object, *, timeout: float | None = None) -> Object:
        """Raises Conflict (`.exists`) if there is one of that name."""
        row = kind_named(obj["kind"])
        path = row.path(_namespace(row, obj))
        return await self._call("POST", path, body=_named(row, obj), query=self._manager, timeout=timeout)

    async def replace(self, obj: Object, *, timeout: float | None = None) -> Object:
        """Compare-and-swap on `metadata.resourceVersion`.

        Raises:
            Conflict: somebody wrote since; after a broken connection that may have been this very call, so read before
                concluding anything.
            ValueError: there is no resourceVersion, and the swap would be blind.
        """
        row, name = kind_named(obj["kind"]), obj["metadata"]["name"]
        if not obj["metadata"].get("resourceVersion"):
            raise ValueError(f"replace of {row.name} {name} without a resourceVersion")
        path = row.path(_namespace(row, obj), name)
        return await self._call("PUT", path, body=_named(row, obj), query=self._manager, timeout=timeout)

    async def apply(self, obj: Object, *, manager: str, force: bool = True, timeout: float | None = None) -> Object:
        """Server-side apply: creates, or changes the fields given and drops those that `manager` gave before."""
        return await self._apply(obj, manager, None, force=force, timeout=timeout)

    async def apply_status(self, obj: Object, *, manager: str, timeout: float | None = None) -> Object:
        """Server-side apply of `status` alone; NotFound if the object is gone."""
        return await self._apply(obj, manager, "status", force=True, timeout=timeout)

    async def patch(
        self,
        kind: str,
        namespace: str | None,
        name: str,
        merge: Object,
        *,
        subresource: str | None = None,
        timeout: float | None = None,
    ) -> Object:
        """JSON merge patch; put `metadata.resourceVersion` in it for a compare-and-swap."""
        path = kind_named(kind).path(namespace, name, subresource)
        return await self._call("PATCH", path, body=merge, content_type=_MERGE, query=self._manager, timeout=timeout)

    async def delete(
        self,
        kind: str,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        grace: int | None = None,
        timeout: float | None = None,
    ) -> bool:
        """False if it was not there. `grace` in seconds (pods). Dependents go in the background.

        Raises:
            Conflict: there is one of that name, but not with this uid.
        """
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        try:
            await self._call("DELETE", kind_named(kind).path(namespace, name), body=options, timeout=timeout)
        except NotFound:
            return False
        return True

    def watch(
        self, kind: str, namespace: str | None, *, labels: Mapping[str, str] | None = None, name: str | None = None
    ) -> AsyncIterator[tuple[str, Object]]:
        """("ADDED" | "MODIFIED" | "DELETED", object), for ever: it lists first, reconnects and lists again by itself.

        A deletion that was missed is reported with the last metadata seen. Ends only by cancellation or `aclose()`.
        """
        return watch_objects(self, kind, namespace, labels=labels, name=name)

    async def stream(
        self, kind: str, namespace: str | None, query: Mapping[str, str], *, inactivity: float
    ) -> AsyncIterator[bytes]:
        """The raw lines of one watch request; Unavailable after `inactivity` seconds without a byte."""
        path = kind_named(kind).path(namespace)
        limits = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout, sock_read=inactivity)
        try:
            async with await self._send("GET", path, query={**query, "watch": "true"}, limits=limits) as answer:
                rest = b""
                async for chunk in answer.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        yield line
        except (aiohttp.ClientError, TimeoutError, OSError) as e:
            raise self._away(f"watch {path}: {type(e).__name__} {e}".strip()) from e

    async def close(self) -> None:
        """Close all connections; running watches end with an error."""
        if self._session is not None:
            await self._session.close()

    async def _apply(
        self, obj: Object, manager: str, subresource: str | None, *, force: bool, timeout: float | None
    ) -> Object:
        row = kind_named(obj["kind"])
        path = row.path(_namespace(row, obj), obj["metadata"]["name"], subresource)
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        return await self._call("PATCH", path, body=_named(row, obj), content_type=_APPLY, query=query, timeout=timeout)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
        timeout: float | None,
    ) -> Object:
        limit = self._timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(limit):  # covers login helpers and DNS too, which aiohttp's own limit does not
                async with await self._send(
                    method,
                    path,
                    query=query or {},
                    body=body,
                    content_type=content_type,
                    limits=aiohttp.ClientTimeout(total=None),
                ) as answer:
                    parsed: Object = json.loads(await answer.read())
                    return parsed
        except TimeoutError as e:
            raise self._away(f"{method} {path}: no answer within {limit:g} s") from e
        except (aiohttp.ClientError, OSError, ValueError) as e:
            raise self._away(f"{method} {path}: {type(e).__name__} {e}".strip()) from e

    def _away(self, why: str) -> Unavailable:
        self.away_at = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return Unavailable(why)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        limits: aiohttp.ClientTimeout,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> aiohttp.ClientResponse:
        """The response, with its body unread, if it is a good one."""
        where = self._where
        if self._session is None or self._session.closed:
            connector = aiohttp.TCPConnector(ssl=where.tls if where.tls is not None else False, limit=0)
            headers = {"User-Agent": "matriarch", "Accept": "application/json"}
            self._session = aiohttp.ClientSession(connector=connector, headers=headers, proxy=where.proxy)
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        answer: aiohttp.ClientResponse
        for attempt in range(2):
            headers = await where.credentials.header(fresh=attempt > 0)
            if data is not None:
                headers["Content-Type"] = content_type
            answer = await self._session.request(
                method,
                where.server + path,
                params=query,
                data=data,
                headers=headers,
                timeout=limits,
                server_hostname=where.server_name,
                allow_redirects=False,
            )
            if answer.status < 300:
                return answer
            async with answer:
                problem = from_answer(answer.status, await answer.read(), doing=f"{method} {path}")
            if answer.status != 401 or attempt > 0:  # a rotated token is read again, once
                raise problem
        raise AssertionError("unreachable")


def _namespace(row: Kind, obj: Object) -> str | None:
    if not row.namespaced:
        return None
    namespace: str | None = obj["metadata"].get("namespace")
    if not namespace:
        raise ValueError(f"{row.name} {obj['metadata'].get('name')} needs a namespace")
    return namespace


def _named(row: Kind, obj: Object) -> Object:
    """Items of a list carry neither kind nor apiVersion; everything that leaves this module does."""
    return {"apiVersion": row.api_version, "kind": row.name, **{k: v for k, v in obj.items() if k not in _TYPE}}


_TYPE = frozenset({"apiVersion", "kind"})
