"""The settings with which PostgreSQL starts a restored directory. Pure."""

from __future__ import annotations

from typing import Literal

Target = Literal["latest", "immediate"]  # the end of the WAL that came with the backup; as soon as it is consistent

_HEADING = "# Written by the restore; `ALTER SYSTEM RESET` takes a line away again."
# Whatever the source had been told about recovery and replication is not this server's.
_RESET = (
    "primary_conninfo",
    "primary_slot_name",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
    "recovery_end_command",
    "archive_cleanup_command",
    "synchronous_standby_names",
)


def settings(target: Target, restore_command: str | None) -> str:
    """Lines for the end of postgresql.auto.conf, where the last one of a name counts.

    PostgreSQL wants a restore_command for recovery.signal; without an archive one that has nothing stands in.
    """
    values = dict.fromkeys(_RESET, "")
    values["restore_command"] = "false" if restore_command is None else restore_command
    values["recovery_target"] = "immediate" if target == "immediate" else ""
    values["recovery_target_timeline"] = "current"
    values["recovery_target_action"] = "promote"
    lines = [f"{name} = '{_quoted(value)}'" for name, value in values.items()]
    return "\n".join(("", _HEADING, *lines, ""))


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")
