"""How one resource stands, in the words that its conditions are made of.

A decision says one verdict; the contract that kstatus, kubectl wait, Argo CD and Flux agree on (Ready, Reconciling,
Stalled) follows from it in one place instead of being written out at every exit.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Standing(StrEnum):
    """What a person or a tool that waits should do: nothing, wait, or step in."""

    READY = "Ready"
    """As wished: Ready=True."""
    WORKING = "Working"
    """On its way, waiting is right: Ready=False, Reconciling=True."""
    STALLED = "Stalled"
    """Waiting cannot help, a person has to act: Ready=False, Stalled=True."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A standing with its reason (CamelCase) and one sentence that says what, why and what to do."""

    standing: Standing
    reason: str
    message: str
