"""A watch after the API server's store was restored: versions went back, and it must not stay deaf."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from matriarch.kube import watch
from matriarch.kube.errors import ApiError

Object = dict[str, Any]


def lease(version: int, epoch: int) -> Object:
    return {"kind": "Lease", "metadata": {"name": "a", "uid": "u", "resourceVersion": str(version)}, "epoch": epoch}


class Api:
    """`ends`: how each stream ends: after its time, or refused."""

    def __init__(self, *ends: str) -> None:
        self.ends, self.listed = list(ends), 0
        self.versions: list[str] = []

    async def list_with_version(self, *_: object, **__: object) -> tuple[list[Object], str]:
        self.listed += 1
        return ([lease(2000, 5)], "2000") if self.listed == 1 else ([lease(1500, 6)], "1500")

    async def stream(
        self, kind: str, namespace: str | None, query: dict[str, str], **_: object
    ) -> AsyncIterator[bytes]:
        self.versions.append(query["resourceVersion"])
        end = self.ends.pop(0) if self.ends else "over"
        if end == "refused":
            raise ApiError("Too large resource version", status=504, reason="Timeout")
        yield json.dumps({"type": "BOOKMARK", "object": lease(int(query["resourceVersion"]), 0)}).encode()


@pytest.mark.parametrize("ends", [("over",), ("refused", "refused", "refused")])
async def test_what_is_older_by_its_version_is_heard_of(monkeypatch: pytest.MonkeyPatch, ends: tuple[str, ...]) -> None:
    clock = itertools.count(0, 2)
    monkeypatch.setattr(watch.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(watch, "_FIRST_RETRY", 0.001)
    api = Api(*ends)
    events = watch.watch_objects(api, "Lease", "prod")  # type: ignore[arg-type]  # a stand-in
    assert (await anext(events))[1]["epoch"] == 5
    assert (await anext(events))[1]["epoch"] == 6
    await events.aclose()  # type: ignore[attr-defined]  # it is a generator
    assert api.versions == ["2000"] * len(ends)
