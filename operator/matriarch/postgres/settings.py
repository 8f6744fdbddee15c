"""PostgreSQL's configuration files, computed from what the user asked for and what the protocol needs.

Two files beside initdb's: `matriarch.conf` holds what changes with the resource, `matriarch.stream.conf` what
changes with elections. The second one is written in the middle of an election and needs nothing but itself. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from matriarch.postgres.preload import Door
from matriarch.postgres.standbynames import NOBODY

MAIN_FILE = "matriarch.conf"
STREAM_FILE = "matriarch.stream.conf"

KB, MB, GB = 1 << 10, 1 << 20, 1 << 30

# A standby needs at least the primary's; see controldata.STANDBY_CRITICAL.
SHARED_DEFAULTS = {
    "max_connections": 100,
    "max_worker_processes": 8,
    "max_wal_senders": 32,
    "max_prepared_transactions": 0,
    "max_locks_per_transaction": 64,
}

# Fixed by the protocol or the container; `matriarch.postgres.owned` tells users why they cannot set them.
_OWNED = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "wal_level": "logical",  # change data capture works without a restart; the cost over `replica` is small
    "hot_standby": "on",
    "hot_standby_feedback": "on",  # copies of logical slots on standbys need the catalogue's old rows
    "wal_log_hints": "off",  # data checksums imply it
    "wal_retrieve_retry_interval": "100ms",  # the default of 5 s alone would break the failover goal
    "wal_receiver_status_interval": "1s",
    "wal_receiver_timeout": "5s",
    "wal_sender_timeout": "5s",
    "wal_receiver_create_temp_slot": "off",
    "recovery_target_timeline": "latest",
    # Without a restore_command PostgreSQL knows the histories in pg_wal and no others; the agent keeps those to the
    # Lease's lineage, and no archive is ever waited for in a failover.
    "restore_command": "",
    "restart_after_crash": "off",  # the agent decides between a local restart and an election
    "allow_alter_system": "off",
    "logging_collector": "off",
    "log_destination": "stderr",
    "ssl": "on",
    "ssl_min_protocol_version": "TLSv1.2",
    "password_encryption": "scram-sha-256",
    "unix_socket_permissions": "0700",
}

# What users may change.
_DEFAULTS = {
    "log_line_prefix": "%m [%p] %q%u@%d %a ",
    "log_lock_waits": "on",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "tcp_keepalives_idle": "60",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "6",
    "tcp_user_timeout": "60s",
    "max_replication_slots": "32",
    "superuser_reserved_connections": "8",  # the agent's canary opens a new connection twice a second
    "huge_pages": "off",  # `try` ends in SIGBUS where a node has huge pages and the pod's limit has none
    "dynamic_shared_memory_type": "sysv",  # a container's /dev/shm is 64 MB, too small for parallel queries
    "recovery_init_sync_method": "syncfs",  # opening every file after a crash takes seconds where there are many
    "jit": "off",  # the compiler is not in the image
    "summarize_wal": "on",  # what incremental backups go by; see docs/decisions/backup-engine.md for its cost
}

# `always` and not `on`: a replica then keeps what its primary has finished until it is stored, so that nothing is
# missing after a failover. The timeout bounds what a lost cluster loses: with the upload it stays below a minute.
_ARCHIVE = {
    "archive_mode": "always",
    "archive_command": "/usr/local/bin/matriarch-wal push %p %f",
    "archive_timeout": "45s",
}

# With the mode off the command is never run. It is for the time between a wish to stop archiving and the restart that
# ends the mode: an empty command would keep all WAL until the volume is full.
_NO_ARCHIVE = {"archive_mode": "off", "archive_command": "/bin/true", "archive_timeout": "0"}

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?")


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What one instance's PostgreSQL runs with.

    `parameters` are the user's, validated before. `standby_names` is what synchronous_standby_names says from the
    first start on; never empty where durability is required (I5). `memory` is the container's limit and `volume`
    the data volume's size, both in bytes, 0 for unknown.
    """

    parameters: Mapping[str, str] = field(default_factory=dict)
    standby_names: str = NOBODY
    preload: tuple[str, ...] = ()
    memory: int = 0
    volume: int = 0
    standby_slots: tuple[str, ...] = ()  # as `standby_names`, for consumers of logical slots
    delay: int = 0  # seconds that a standby's replay stays behind
    read_only: bool = False  # the volume is full: transactions are read-only unless a session says otherwise
    summarize: bool = True  # notes which pages change; WAL of which that is not noted yet is kept
    superuser_access: bool = False
    archive: bool = False  # finished WAL goes to the archiver
    door: Door = "open"  # for everybody but the cluster itself
    listen_addresses: str = "*"
    port: int = 5432
    system_user: str = "postgres"  # the agent's, and PostgreSQL's, in the image


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What elections change. An empty `primary_conninfo`: nobody is followed.

    `standby_slots`: the physical slots of the voters that must have flushed a change before a consumer of a logical
    slot that survives failovers sees it.
    """

    standby_names: str = NOBODY
    primary_conninfo: str = ""
    primary_slot_name: str = ""
    standby_slots: tuple[str, ...] = ()


def render_main(
    settings: ServerSettings,
    *,
    instance: str,
    socket_dir: str,
    tls_folder: str,
    floors: Mapping[str, int] | None = None,
) -> str:
    """matriarch.conf. `floors`: what a standby's control file demands of the shared settings; empty on a primary."""
    values = {**_DEFAULTS, **computed_sizes(settings)}
    values.update({name.lower(): value for name, value in settings.parameters.items()})
    values.update(_shared(settings.parameters, floors or {}))
    values.update(_OWNED)
    values.update(_ARCHIVE if settings.archive else _NO_ARCHIVE)
    values.update(
        {
            "cluster_name": instance,
            "listen_addresses": settings.listen_addresses,
            "port": str(settings.port),
            "unix_socket_directories": socket_dir,
            "ssl_cert_file": f"{tls_folder}/tls.crt",
            "ssl_key_file": f"{tls_folder}/tls.key",
            "ssl_ca_file": f"{tls_folder}/ca.crt",
            "max_slot_wal_keep_size": _megabytes(slot_limit(settings.volume)),
        }
    )
    if settings.delay:
        values["recovery_min_apply_delay"] = f"{settings.delay}s"
    if settings.read_only:
        values["default_transaction_read_only"] = "on"
    if settings.read_only or not settings.summarize:
        values["summarize_wal"] = "off"  # where there is no room for a summary, WAL would wait for it
    libraries = (*settings.preload, *_list(values.get("shared_preload_libraries", "")))
    values["shared_preload_libraries"] = ",".join(dict.fromkeys(libraries))
    return _render(values) + f"include '{STREAM_FILE}'\n"


def render_stream(stream: StreamSettings) -> str:
    """matriarch.stream.conf."""
    return _render(
        {
            "synchronous_standby_names": stream.standby_names,
            "primary_conninfo": stream.primary_conninfo,
            "primary_slot_name": stream.primary_slot_name,
            # Without an upstream that is a primary of this cluster the worker would complain at every turn of the
            # postmaster; and the database is for that worker alone.
            "sync_replication_slots": "on" if " dbname=" in stream.primary_conninfo else "off",
            "synchronized_standby_slots": ",".join(stream.standby_slots),
        }
    )


def parse_stream(text: str) -> StreamSettings:
    """What render_stream() wrote. Raises ValueError for anything else."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        match = re.fullmatch(r"([a-z_]+) = '(.*)'", line)
        if match is None:
            msg = f"not a line of {STREAM_FILE}: {line!r}"
            raise ValueError(msg)
        values[match[1]] = re.sub(r"''|\\(.)", lambda m: m[1] or "'", match[2])
    try:
        return StreamSettings(
            values["synchronous_standby_names"],
            values["primary_conninfo"],
            values["primary_slot_name"],
            tuple(_list(values.get("synchronized_standby_slots", ""))),  # absent in files of earlier releases
        )
    except KeyError as error:
        msg = f"{STREAM_FILE} lacks {error}"
        raise ValueError(msg) from error


def include_main(postgresql_conf: str) -> str:
    """initdb's file with ours as the last word, the rest as it is."""
    line = f"include '{MAIN_FILE}'"
    kept = [text for text in postgresql_conf.splitlines() if text.strip() != line]
    return "\n".join([*kept, line]) + "\n"


def computed_sizes(settings: ServerSettings) -> dict[str, str]:
    """Memory and WAL sizes for what the container has; only where PostgreSQL's own defaults would be wrong.

    A quarter of the memory for shared_buffers and three quarters as planner's estimate are PostgreSQL's own advice
    (documentation, 19.4 and 19.7). work_mem lets every connection sort once within another quarter. WAL between
    checkpoints takes no more than an eighth of the volume, so that a small volume is not filled by it.
    """
    sizes: dict[str, int] = {}
    memory = settings.memory
    if memory:
        connections = _integer(settings.parameters.get("max_connections"), SHARED_DEFAULTS["max_connections"])
        sizes["shared_buffers"] = _clamp(memory // 4, 16 * MB, 64 * GB)
        sizes["effective_cache_size"] = max(memory // 4 * 3, 16 * MB)
        sizes["maintenance_work_mem"] = _clamp(memory // 16, 16 * MB, GB)
        sizes["work_mem"] = _clamp(memory // 4 // max(connections, 1), 4 * MB, 256 * MB)
    # An old primary is rewound from the last checkpoint before the fork, which its own shutdown would recycle.
    sizes["wal_keep_size"] = _clamp(settings.volume // 16, 48 * MB, 512 * MB) if settings.volume else 512 * MB
    if settings.volume or memory:
        room = settings.volume // 8 if settings.volume else GB
        sizes["max_wal_size"] = _clamp(min(room, max(memory, GB)), 64 * MB, 16 * GB)
        sizes["min_wal_size"] = max(sizes["max_wal_size"] // 4, 32 * MB)
    return {name: _megabytes(size) if size >= MB else f"{size // KB}kB" for name, size in sizes.items()}


def slot_limit(volume: int) -> int:
    """Bytes of WAL that slots may keep, a fifth of the volume: a member that is away must not fill a disk.

    The floor of four segments is what a member needs to come back after a restart of its pod under load.
    """
    return _clamp(volume // 5, 64 * MB, 64 * GB) if volume else 4 * GB


def held_up(parameters: Mapping[str, str], floors: Mapping[str, int]) -> bool:
    """Whether a standby must keep more than is wanted, because its primary's last known value is higher.

    What is written for it then holds only until the primary's lowered value was replayed.
    """
    wanted = {name: _integer(parameters.get(name), default) for name, default in SHARED_DEFAULTS.items()}
    return any(floors.get(name, 0) > value for name, value in wanted.items())


def _shared(parameters: Mapping[str, str], floors: Mapping[str, int]) -> dict[str, str]:
    wanted = {name: _integer(parameters.get(name), default) for name, default in SHARED_DEFAULTS.items()}
    return {name: str(max(value, floors.get(name, 0))) for name, value in wanted.items()}


def _render(values: Mapping[str, str]) -> str:
    lines = ["# Written by Matriarch; changes are overwritten.\n"]
    for name in sorted(values):
        if not _NAME.fullmatch(name) or re.search(r"[\r\n\0]", values[name]):
            msg = f"not a parameter: {name!r}"
            raise ValueError(msg)
        escaped = values[name].replace("\\", "\\\\").replace("'", "''")
        lines.append(f"{name} = '{escaped}'\n")
    return "".join(lines)


def _list(value: str) -> list[str]:
    return [word.strip().strip('"') for word in value.split(",") if word.strip()]


def _integer(text: str | None, default: int) -> int:
    try:
        return int(text) if text is not None else default
    except ValueError:
        return default


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))


def _megabytes(size: int) -> str:
    return f"{size // MB}MB"
