"""Names of backups: how they are made, and every form in which a person may name one.

    backup-2024-01-15T02:00:00.000Z-k3vq7m2xw4.sql.gz.enc
           UTC, extended ISO form   random id  .gz when compressed, .enc when encrypted

The name is fixed by the requirements (C3); a store that cannot hold `:` percent-encodes it and nobody else does.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from matriarch.backup.jobspec import Reason
from matriarch.errors import Refused

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_ID_LENGTH = 10  # 50 bits: two attempts of one Job must never meet on one key
_ATTEMPT_LENGTH = 6
_NAME = re.compile(
    r"backup-(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)-(?P<id>[a-z0-9]{6,32})(?P<ends>(?:\.sql(?:\.gz)?(?:\.enc)?)?)"
)
_SHORT = re.compile(r"backup-(?P<day>\d{4}-\d\d-\d\d)-(?P<rest>[a-z0-9]{1,32})")


@dataclass(frozen=True, slots=True)
class BackupName:
    """A backup's time of start and random id; `str()` is the name without endings."""

    started: datetime
    id: str

    def __str__(self) -> str:
        return f"backup-{timestamp(self.started)}-{self.id}"

    def file(self, *, compressed: bool, encrypted: bool) -> str:
        return f"{self}.sql{'.gz' if compressed else ''}{'.enc' if encrypted else ''}"


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds and Z: `2024-01-15T02:00:00.000Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_timestamp(text: str) -> datetime:
    return datetime.fromisoformat(text)


def new_id() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))


def parse(text: str) -> BackupName | None:
    """The parts of a name with or without endings; None when it is not one."""
    match = _NAME.fullmatch(text.replace("%3A", ":"))
    if match is None:
        return None
    try:
        return BackupName(parse_timestamp(match["time"]), match["id"])
    except ValueError:  # the 31st of February
        return None


@dataclass(frozen=True, slots=True)
class Known:
    """What there is to choose from."""

    name: BackupName
    resource: str | None  # the Backup resource it was made for


def attempt_of(chosen: BackupName) -> BackupName:
    """A name of its own for one attempt at a backup whose name was chosen before.

    Objects of a physical backup lie in a folder of the id: two attempts, one of them thought to be dead, never meet.
    """
    return BackupName(chosen.started, chosen.id + "".join(secrets.choice(_ALPHABET) for _ in range(_ATTEMPT_LENGTH)))


def is_attempt_of(name: BackupName, chosen: BackupName) -> bool:
    return name.started == chosen.started and name.id[: len(chosen.id)] == chosen.id


def find(wanted: str, backups: Iterable[Known]) -> BackupName:
    """The one backup that `wanted` names, by any form of requirement C5.

    Forms: the file's name with or without endings, the id, the resource's name, `latest`, and the short form
    `backup-2024-01-15-123456`: a day, then the start of an id or of the time of day (HHMMSS).
    Raises Refused (BackupNotFound, BackupAmbiguous); an ambiguous name is never resolved by guessing.
    """
    known = sorted(backups, key=lambda k: (k.name.started, k.name.id))
    if not known:
        raise Refused("The store holds no complete backup.", reason=Reason.BACKUP_NOT_FOUND)
    if wanted == "latest":
        return known[-1].name

    exact = parse(wanted)
    found = [k for k in known if k.name == exact or k.name.id == wanted or k.resource == wanted]
    if not found and (short := _SHORT.fullmatch(wanted)) is not None:
        found = [k for k in known if _matches_short(k.name, short["day"], short["rest"])]
    match [*dict.fromkeys(k.name for k in found)]:
        case [one]:
            return one
        case []:
            raise Refused(
                f"No complete backup is named {wanted}; the newest is {known[-1].name}.",
                reason=Reason.BACKUP_NOT_FOUND,
            )
        case several:
            names = ", ".join(map(str, several[:5]))
            raise Refused(
                f"{wanted} names {len(several)} backups ({names}); give the full name or the id.",
                reason=Reason.BACKUP_AMBIGUOUS,
            )


def _matches_short(name: BackupName, day: str, rest: str) -> bool:
    started = name.started.astimezone(UTC)
    if f"{started:%Y-%m-%d}" != day:
        return False
    return name.id.startswith(rest) or f"{started:%H%M%S}".startswith(rest)
