"""The copies on the volume: the newest gets there, also over a disk that fails for a while, and nobody waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from matriarch.agent import volumecopy
from matriarch.agent.volumecopy import VolumeCopy
from matriarch.errors import Unavailable


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumecopy, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(volumecopy, "LONGEST_PAUSE", 0.05)


def until(seen: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while not seen() and time.monotonic() < end:
        time.sleep(0.01)
    return seen()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Unavailable("the disk does not answer")])
def test_a_write_that_fails_is_tried_again(error: Exception) -> None:
    written: list[dict[str, Any]] = []
    failures = [error] * 4

    def write(content: dict[str, Any]) -> None:
        if failures:
            raise failures.pop()
        written.append(content)

    copy = VolumeCopy("the Lease", write)
    copy.keep({"epoch": 1})
    assert until(lambda: written == [{"epoch": 1}])
    copy.keep({"epoch": 2})
    assert until(lambda: written == [{"epoch": 1}, {"epoch": 2}])


def test_what_is_old_by_now_is_left_out_and_the_newest_is_last() -> None:
    written: list[int] = []
    disk, begun = threading.Event(), threading.Event()

    def write(content: dict[str, Any]) -> None:
        begun.set()
        disk.wait(20)
        written.append(content["epoch"])

    copy = VolumeCopy("the Lease", write)
    copy.keep({"epoch": 1})
    assert begun.wait(20)
    for epoch in range(2, 50):
        copy.keep({"epoch": epoch})  # and does not wait for the disk
    disk.set()
    assert until(lambda: written[-1:] == [49])
    assert written == [1, 49]
