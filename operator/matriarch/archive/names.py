"""Names of what PostgreSQL archives, understood exactly: a prefix is never a match, and nothing else is stored.

    00000001000000A200000017             a segment
    00000001000000A200000017.partial     the last segment of a timeline that another one continues
    00000001000000A200000017.00000028.backup    the label of a base backup
    00000002.history                     where a timeline came from

Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from matriarch.postgres.lsn import SEGMENT_SIZE, segment_name, segment_start

Kind = Literal["segment", "partial", "label", "history"]

ENCRYPTED = ".zst.enc"
PLAIN = ".zst"

_FORMS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("segment", re.compile(r"[0-9A-F]{24}")),
    ("partial", re.compile(r"[0-9A-F]{24}\.partial")),
    ("label", re.compile(r"[0-9A-F]{24}\.[0-9A-F]{8}\.backup")),
    ("history", re.compile(r"[0-9A-F]{8}\.history")),
)
_SEGMENTS_PER_ID = (1 << 32) // SEGMENT_SIZE


@dataclass(frozen=True, slots=True)
class WalName:
    """One file of pg_wal that belongs into the archive."""

    text: str
    kind: Kind

    def __str__(self) -> str:
        return self.text

    @property
    def timeline(self) -> int:
        return int(self.text[:8], 16)

    @property
    def holds_wal(self) -> bool:
        return self.kind in ("segment", "partial")

    @property
    def start(self) -> int:
        """The LSN of its first byte; only for what holds WAL."""
        return segment_start(self.text)

    @property
    def end(self) -> int:
        """The LSN behind its last byte; only for what holds WAL."""
        return self.start + SEGMENT_SIZE

    def key(self, *, encrypted: bool) -> str:
        """Where it lies in a store."""
        return f"wal/{self.text[:8]}/{self.text}{ENCRYPTED if encrypted else PLAIN}"

    @property
    def order(self) -> tuple[int, str]:
        """Histories first: without one, the segments of its timeline are of no use to a restore."""
        return (0 if self.kind == "history" else 1, self.text)


def parse(text: str) -> WalName | None:
    """None for what is no such name."""
    kind = next((kind for kind, form in _FORMS if form.fullmatch(text)), None)
    if kind is None or int(text[:8], 16) == 0:
        return None
    if kind != "history" and int(text[16:24], 16) >= _SEGMENTS_PER_ID:
        return None
    return WalName(text, kind)


def following(name: WalName, count: int) -> tuple[WalName, ...]:
    """The `count` segments after a segment, on its timeline."""
    return tuple(
        WalName(segment_name(name.timeline, name.start + n * SEGMENT_SIZE), "segment") for n in range(1, count + 1)
    )
