"""Who takes part: one incarnation of an instance.

A voter is a memory, not a name: a volume that was initialised, cloned or restored anew is somebody else, even in a
Pod of the same name, because it does not hold what its predecessor acknowledged.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """`incarnation` is random and lives on the volume, outside PGDATA. The text form is the `application_name`."""

    instance: str
    incarnation: str

    def __str__(self) -> str:
        return f"{self.instance}-{self.incarnation}"

    @classmethod
    def parse(cls, text: str) -> Member | None:
        """The member that an `application_name` stands for, or None when it is no member's name."""
        instance, _, incarnation = text.rpartition("-")
        return cls(instance, incarnation) if instance and incarnation else None
