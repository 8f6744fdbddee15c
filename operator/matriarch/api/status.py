"""The parts of a status that all kinds share: conditions, progress, steps.

The contract of the conditions, which kstatus (Flux, Helm), Argo CD and `kubectl wait` all read the same way:

| state | Ready | Reconciling | Stalled |
|---|---|---|---|
| just created (`observedGeneration` is -1 by the schema) | absent | absent | absent |
| working | False or Unknown | True | absent |
| healthy | True | absent | absent |
| a person is needed | False | absent | True |

`observedGeneration` stands in the status and in each condition and moves on failures too. The words of a status are
plain text here, not closed sets: an operator that was rolled back must still read what a newer one wrote.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from matriarch.api.model import Column, Int64, Model, Rule, Time, list_map


class Condition(Model):
    """One aspect of the object's state."""

    type: Annotated[str, Field(max_length=316)]
    """CamelCase name of the aspect."""
    status: Literal["True", "False", "Unknown"]
    observed_generation: Int64 | None = None
    """The generation of the spec that this was seen at."""
    last_transition_time: Time
    """When `status` last changed."""
    reason: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]
    """One CamelCase word for programs."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """One sentence for people: what, why, what to do."""


Conditions = Annotated[list[Condition], Field(max_length=32, json_schema_extra=list_map("type"))]


class Status(Model):
    """What every status holds."""

    observed_generation: Int64 = -1
    """The generation of the spec that the operator has looked at; -1 until it has."""
    phase: Annotated[str, Field(max_length=64)] | None = None
    """One word for people. Programs read `conditions`."""
    conditions: Conditions = Field(default_factory=list)
    """See docs/reference/conditions.md for each type and its reasons."""


class Progress(Model):
    """How far a Job is, written by the Job."""

    step: Annotated[str, Field(max_length=64)] | None = None
    """What it does now."""
    percent: Annotated[int, Field(ge=0, le=100)] | None = None
    """By the estimated size; absent while no estimate exists."""
    bytes_done: Int64 | None = None
    bytes_total: Int64 | None = None
    updated_at: Time | None = None
    message: Annotated[str, Field(max_length=1024)] | None = None


class Step(Model):
    """One step of a longer procedure."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    state: Annotated[str, Field(max_length=32)]
    """pending, running, done, failed or skipped."""
    started_at: Time | None = None
    finished_at: Time | None = None
    message: Annotated[str, Field(max_length=1024)] | None = None


class Failure(Model):
    """Why the latest attempt failed."""

    reason: Annotated[str, Field(max_length=128)] | None = None
    """One CamelCase word for programs."""
    message: Annotated[str, Field(max_length=4096)] | None = None
    """One sentence for people: what, why, what to do."""


READY = Column("Ready", ".status.conditions[?(@.type=='Ready')].status")
AGE = Column("Age", ".metadata.creationTimestamp", "date")
MESSAGE = Column("Message", ".status.conditions[?(@.type=='Ready')].message", priority=1)


class OneShot(Model):
    """A spec that is carried out once and never changes."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self == oldSelf",
            message="the spec cannot change, because this runs only once: make a new object instead",
        ),
    )
