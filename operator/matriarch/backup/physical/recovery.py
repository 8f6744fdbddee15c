"""The settings with which PostgreSQL starts a restored directory. Pure."""

from __future__ import annotations

from matriarch.decide.pitr import Target

_HEADING = "# Written by the restore; `ALTER SYSTEM RESET` takes a line away again."
# Whatever the source had been told about recovery, replication and its archive is not this server's.
_RESET = {
    "primary_conninfo": "",
    "primary_slot_name": "",
    "recovery_target": "",
    "recovery_target_lsn": "",
    "recovery_target_name": "",
    "recovery_target_time": "",
    "recovery_target_xid": "",
    "recovery_target_inclusive": "on",
    "recovery_end_command": "",
    "archive_cleanup_command": "",
    "synchronous_standby_names": "",
    # A copy of a server would archive its new timeline among the files of the one that it was copied from.
    "archive_mode": "off",
}


def settings(target: Target, restore_command: str | None, timeline: int | None = None) -> str:
    """Lines for the end of postgresql.auto.conf, where the last one of a name counts.

    PostgreSQL wants a restore_command for recovery.signal; without an archive one that has nothing stands in.
    `timeline` None: the backup's own, and no other.
    """
    values = dict(_RESET)
    values["restore_command"] = "false" if restore_command is None else restore_command
    point, value = _point(target)
    # PostgreSQL reads them in this order, and takes also an empty one after the one that is set for a second target.
    values.pop(point, None)
    values[point] = value
    values["recovery_target_timeline"] = "current" if timeline is None else str(timeline)
    values["recovery_target_action"] = "promote"
    lines = [f"{name} = '{_quoted(value)}'" for name, value in values.items()]
    return "\n".join(("", _HEADING, *lines, ""))


def _point(target: Target) -> tuple[str, str]:
    if target.kind in ("latest", "immediate"):
        return "recovery_target", "immediate" if target.kind == "immediate" else ""
    return f"recovery_target_{target.kind}", target.value


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")
