"""How PostgreSQL runs in a drill: for nobody but the drill, with nothing of the source's configuration. Pure."""

from __future__ import annotations

from collections.abc import Mapping

PORT = 5432  # names the socket; nothing listens on it
_PREPARED_SPARE = 64  # prepared transactions that WAL may bring beyond what the backup knew
_ORIGINS = 100  # a source that subscribes has one for each subscription, in slots of this setting


def settings(socket_folder: str, hba: str, ident: str, prepared: int) -> Mapping[str, str]:
    """By the command line, where they go before every file and before ALTER SYSTEM.

    `prepared` is what pg_control says of max_prepared_transactions: with less the server does not start.
    """
    return {
        # For nobody: a socket in a folder of this user alone.
        "listen_addresses": "",
        "port": str(PORT),
        "unix_socket_directories": socket_folder,
        "unix_socket_permissions": "0700",
        "hba_file": hba,
        "ident_file": ident,
        "ssl": "off",
        # Touches nothing outside: no archive, no standby, no subscription, no worker or trigger of the source's.
        "archive_mode": "off",
        "primary_conninfo": "",
        "synchronous_standby_names": "",
        "max_wal_senders": "0",
        "max_replication_slots": str(_ORIGINS),
        "max_logical_replication_workers": "0",
        "shared_preload_libraries": "",
        "session_preload_libraries": "",
        "local_preload_libraries": "",
        "event_triggers": "off",
        # With it recovery would end where the source had more connections than are allowed here.
        "hot_standby": "off",
        "max_prepared_transactions": str(prepared + _PREPARED_SPARE),
        # Small, and only the drill's own work.
        "max_connections": "20",
        "shared_buffers": "64MB",
        "maintenance_work_mem": "64MB",
        "huge_pages": "off",
        "dynamic_shared_memory_type": "posix",
        "autovacuum": "off",
        "jit": "off",
        "max_parallel_workers_per_gather": "0",
        "max_parallel_maintenance_workers": "0",
        # Its log is read for the reason of a failure, and holds no statement: data could be in it.
        "logging_collector": "off",
        "log_destination": "stderr",
        "log_min_messages": "log",
        "log_min_error_statement": "panic",
        "log_statement": "none",
        "log_line_prefix": "",
        "lc_messages": "C",
    }


HBA = "local all all trust\n"
"""Whoever reaches the socket is this pod's own user: its folder lets nobody else in."""


def last_word(log: str) -> str:
    """What the server says of its end: its FATAL and PANIC lines, or the last line. For a message, so cut."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    ends = [line for line in lines if line.startswith(("FATAL:", "PANIC:")) and "not yet accepting" not in line]
    ends = [line for line in ends if "not accepting connections" not in line and "starting up" not in line]
    return " ".join(ends[-2:] or lines[-1:])[:400] or "it said nothing"
