"""What strikes when: drawn from a seed, so that a run can be had again. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.history.faults import Fault

GAPS = (0.4, 4.0)
"""Seconds within which the second fault of a pair follows the first: in the middle of an election, or after it."""


@dataclass(frozen=True, slots=True)
class Blow:
    """One fault on an instance of `role`, `at` seconds after the round began, undone `hold` seconds later."""

    fault: str
    role: str
    at: float
    hold: float


@dataclass(frozen=True, slots=True)
class Round:
    """One or two faults; then the cluster must be whole again by itself."""

    blows: tuple[Blow, ...]

    @property
    def name(self) -> str:
        """As it stands in tables: the faults in the order in which they strike, and whom."""
        return " + ".join(f"{b.fault} ({b.role})" for b in self.blows)


def compatible(first: Fault, second: Fault) -> bool:
    """Whether two faults can be had at once: none can be ordered from an API server that the other took away."""
    if first.name == second.name and len(first.roles) == 1:
        return False
    return not (first.takes_api and (second.needs_api or second.takes_api)) and not (
        second.takes_api and (first.needs_api or first.takes_api)
    )


def single(fault: Fault, rng: random.Random) -> Round:
    """This fault alone."""
    return Round((_blow(fault, rng, rng.choice(fault.roles), 0.0),))


def piece(seed: int, index: int, faults: Mapping[str, Fault], *, rounds: int, pairs: float) -> tuple[Round, ...]:
    """The rounds of piece `index`; a round is a pair with probability `pairs`. The same arguments give the same."""
    rng = random.Random(f"{seed}/{index}")
    return tuple(_round(rng, list(faults.values()), pair=rng.random() < pairs) for _ in range(rounds))


def _round(rng: random.Random, faults: Sequence[Fault], *, pair: bool) -> Round:
    first = rng.choice(faults)
    others = [f for f in faults if compatible(first, f)]
    if not pair or not others:
        return single(first, rng)
    second = rng.choice(others)
    role = rng.choice(first.roles)
    roles = [r for r in second.roles if second.name != first.name or r != role]
    one = _blow(first, rng, role, 0.0)
    return Round((one, _blow(second, rng, rng.choice(roles), round(rng.random() * rng.choice(GAPS), 2))))


def _blow(fault: Fault, rng: random.Random, role: str, at: float) -> Blow:
    return Blow(fault.name, role, at, round(rng.uniform(*fault.hold), 2))
