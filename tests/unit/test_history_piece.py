"""A round's blows fall and are undone, each at its time and whatever goes wrong in between."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.history import piece as pieces
from bench.history.faults import Fault
from bench.history.piece import Piece, _Span
from bench.history.schedule import Blow, Round
from dev.host import DevError


@dataclass
class Place:
    instance: str


class Scene:
    def named(self, role: str) -> list[Place]:
        return [Place(f"the-{role}")]


@pytest.fixture
def told() -> list[str]:
    return []


def fault(name: str, told: list[str], *, strike: Exception | None = None, undo: Exception | None = None) -> Fault:
    def undone() -> None:
        told.append(f"{name} undone")
        if undo:
            raise undo

    def struck(_: Any, place: Any, __: random.Random) -> Callable[[], None]:
        if strike:
            raise strike
        told.append(f"{name} at {place.instance}")
        return undone

    return Fault(name, "", struck)


def run(monkeypatch: pytest.MonkeyPatch, faults: list[Fault], *blows: Blow) -> Piece:
    monkeypatch.setattr(pieces, "FAULTS", {f.name: f for f in faults})
    piece = Piece(None, None, Path(), random.Random(1))  # type: ignore[arg-type]  # neither is asked
    span = _Span(Round(blows), 0)
    piece.spans.append(span)
    piece._strike(Scene(), span)  # type: ignore[arg-type]
    return piece


def test_blows_and_their_undoing_keep_their_times(monkeypatch: pytest.MonkeyPatch, told: list[str]) -> None:
    faults = [fault("a", told), fault("b", told)]
    piece = run(monkeypatch, faults, Blow("a", "primary", 0.0, 0.1), Blow("b", "replica", 0.02, 0.02))
    assert told == ["a at the-primary", "b at the-replica", "b undone", "a undone"]
    assert piece.spans[0].struck == ["a at the-primary (primary) for 0.1 s", "b at the-replica (replica) for 0.0 s"]


def test_a_blow_that_cannot_be_struck_is_said_and_the_other_is_undone(
    monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    faults = [fault("a", told), fault("b", told, strike=DevError("no such process"))]
    piece = run(monkeypatch, faults, Blow("a", "primary", 0.0, 0.05), Blow("b", "replica", 0.0, 0.0))
    assert told == ["a at the-primary", "a undone"]
    assert piece.spans[0].struck[1] == "b not struck: no such process"


def test_everything_is_undone_when_the_run_is_ended(monkeypatch: pytest.MonkeyPatch, told: list[str]) -> None:
    faults = [fault("a", told), fault("b", told, strike=KeyboardInterrupt())]  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, faults, Blow("a", "primary", 0.0, 9.0), Blow("b", "replica", 0.0, 0.0))
    assert told == ["a at the-primary", "a undone"]


def test_an_undoing_that_fails_does_not_leave_the_other_undone(
    monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    faults = [fault("a", told, undo=DevError("the API server does not start")), fault("b", told)]
    with pytest.raises(DevError, match="does not start"):
        run(monkeypatch, faults, Blow("a", "primary", 0.0, 0.02), Blow("b", "replica", 0.0, 0.5))
    assert "b undone" in told


def test_where_stale_reads_are_allowed_the_span_is_remembered(monkeypatch: pytest.MonkeyPatch, told: list[str]) -> None:
    pause = Fault("pause", "", fault("pause", told).strike, stale_reads=True)
    piece = run(monkeypatch, [pause, fault("a", told)], Blow("pause", "primary", 0.0, 0.01), Blow("a", "primary", 0, 0))
    ((began, ended),) = piece.stale
    assert ended - began == pytest.approx(0.01e9 + pieces.STALE_AFTER)
