"""What pg_controldata says about a data directory that no server runs on. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from matriarch.errors import Corrupt
from matriarch.postgres.lsn import parse_lsn

# A standby with less than the primary had when it wrote a WAL record pauses its replay (hot standby's rule).
STANDBY_CRITICAL = (
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_xacts",
    "max_locks_per_xact",
)
_SETTING = {"max_prepared_xacts": "max_prepared_transactions", "max_locks_per_xact": "max_locks_per_transaction"}

_CLEAN = ("shut down", "shut down in recovery")


@dataclass(frozen=True, slots=True)
class ControlData:
    """`timeline` and `redo` are the last checkpoint's, not the last WAL's; `critical` is named as the settings are."""

    system_identifier: str
    state: str
    timeline: int
    checkpoint: int
    redo: int
    minimum_recovery_end: int
    minimum_recovery_timeline: int
    checksums: bool
    critical: Mapping[str, int] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Shut down in order, as a primary or as a standby."""
        return self.state in _CLEAN

    @property
    def was_primary(self) -> bool:
        """The last server on this directory ran as a primary."""
        return self.state in ("shut down", "shutting down", "in production", "in crash recovery")


def parse_controldata(text: str) -> ControlData:
    """Reads pg_controldata's output in the C locale. Raises Corrupt when something is missing."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields[name.strip()] = value.strip()
    try:
        return ControlData(
            system_identifier=str(int(fields["Database system identifier"])),
            state=fields["Database cluster state"],
            timeline=int(fields["Latest checkpoint's TimeLineID"]),
            checkpoint=parse_lsn(fields["Latest checkpoint location"]),
            redo=parse_lsn(fields["Latest checkpoint's REDO location"]),
            minimum_recovery_end=parse_lsn(fields["Minimum recovery ending location"]),
            minimum_recovery_timeline=int(fields["Min recovery ending loc's timeline"]),
            checksums=fields["Data page checksum version"] != "0",
            critical={_SETTING.get(n, n): int(fields[f"{n} setting"]) for n in STANDBY_CRITICAL},
        )
    except (KeyError, ValueError) as error:
        msg = f"pg_controldata's answer cannot be used: {error!r}; the control file is damaged or of another version"
        raise Corrupt(msg) from error
