"""What a person reads about a running backup."""

from __future__ import annotations

import pytest

from matriarch.backup.progress import Tracker, duration, size


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3.0 TiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (3900 * 2, "2 h 10 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_step_begins_at_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("matriarch.backup.progress.time.monotonic", lambda: now[0])
    tracker = Tracker()
    tracker.step("Dumping", bytes_total=100 << 20, tables_total=4)
    tracker.read()
    now[0] += 2
    tracker.bytes_done, tracker.tables_done = 20 << 20, 1
    progress = tracker.read()
    assert (progress.bytes_per_second, progress.eta_seconds, progress.percent) == (10 << 20, 8, 20)
    assert progress.message == "20.0 MiB, 10.0 MiB/s, 1 of 4 tables, 8 s left"
    now[0] += 60  # nothing more comes: the rate says so
    tracker.read()
    now[0] += 5
    assert tracker.read().bytes_per_second == 0
    tracker.step("Completing")
    assert tracker.read().message == ""
