"""Incremental physical backups, as Backups and BackupSchedules ask for them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from matriarch.api.model import Model, Rule


class Incremental(Model):
    """A backup then holds the pages that changed since its parent, and is restored together with its chain.

    It is full where there is nothing to build on; the status says why.
    """

    max_increments: Annotated[int, Field(ge=1, le=100)] | None = None
    """After so many a full one is made again; 6 if absent. A restore reads all of a chain."""


INCREMENTAL = Rule(
    cel="!has(self.incremental) || (has(self.method) && self.method == 'physical')",
    message="incremental is of physical backups alone: set method to physical, or leave incremental out",
    field=".incremental",
    broken=lambda s: s.incremental is not None and s.method != "physical",
)
