"""Recovery objectives of a cluster, in the words of disaster recovery: RPO (what may be lost) and RTO (how long it may
take). They change nothing that the operator does; they are what measurements are compared with."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from matriarch.api.model import Int64, Model, Time

RPO = {"user-data": 300, "project-data": 900, "analytics": 3600}
RTO = {"critical": 900, "important": 3600, "non-critical": 14_400}
"""Seconds that each word stands for."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = r"[1-9][0-9]{0,5}[smhd]"


def seconds(text: str) -> int:
    """Of a word or a duration such as `30m`. Raises ValueError."""
    known = RPO | RTO
    if text in known:
        return known[text]
    return int(text[:-1]) * _UNITS.get(text[-1:], 0) or _refuse(text)


def _refuse(text: str) -> int:
    raise ValueError(f"{text!r} is neither a word nor a duration")


class Objectives(Model):
    """What a recovery is to reach: words for what is usual, or durations such as `90s`, `30m`, `4h`."""

    rpo: Annotated[str, Field(max_length=16, pattern=f"^({'|'.join(RPO)}|{_DURATION})$")] | None = None
    """How much of what was committed may be lost: `user-data` (5 min), `project-data` (15 min), `analytics` (1 h)."""
    rto: Annotated[str, Field(max_length=16, pattern=f"^({'|'.join(RTO)}|{_DURATION})$")] | None = None
    """How long a restore may take: `critical` (15 min), `important` (1 h), `non-critical` (4 h)."""


class ObjectivesStatus(Model):
    """Objectives in seconds, beside what the latest good drill measured."""

    rpo_seconds: Int64 | None = None
    rto_seconds: Int64 | None = None
    measured_rpo_seconds: Int64 | None = None
    """At most so much was missing when the latest good drill began."""
    measured_rto_seconds: Int64 | None = None
    measured_at: Time | None = None
    schedule: str | None = None
    """The BackupSchedule whose drill it was."""
