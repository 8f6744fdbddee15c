"""The parameters that users cannot set, each with the reason that they are told.

Matriarch's guarantees hold only while these stay as it sets them. The reasons complete the sentence
"parameter X belongs to Matriarch: …".
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "it stays on, because an acknowledged write must be on disk",
        ("fsync", "full_page_writes", "data_checksums"),
    ),
    (
        "it stays on, because a failover would lose writes acknowledged under less; a session may lower it for itself",
        ("synchronous_commit",),
    ),
    (
        "it hides damaged data, and damage must stop the instance",
        ("data_sync_retry", "ignore_checksum_failure", "ignore_invalid_pages", "zero_damaged_pages"),
    ),
    (
        "replication and failover are built on it; use spec.replication",
        (
            "hot_standby",
            "hot_standby_feedback",
            "max_slot_wal_keep_size",
            "primary_conninfo",
            "primary_slot_name",
            "recovery_min_apply_delay",
            "sync_replication_slots",
            "synchronized_standby_slots",
            "synchronous_standby_names",
            "wal_level",
            "wal_log_hints",
            "wal_receiver_create_temp_slot",
            "wal_receiver_status_interval",
            "wal_receiver_timeout",
            "wal_retrieve_retry_interval",
            "wal_sender_timeout",
        ),
    ),
    (
        "recovery is run by the agent; make a Restore to go back in time",
        (
            "archive_cleanup_command",
            "recovery_end_command",
            "recovery_target",
            "recovery_target_action",
            "recovery_target_inclusive",
            "recovery_target_lsn",
            "recovery_target_name",
            "recovery_target_time",
            "recovery_target_timeline",
            "recovery_target_xid",
            "restore_command",
        ),
    ),
    (
        "the WAL archive is run by Matriarch; use spec.backup",
        ("archive_command", "archive_library", "archive_mode", "archive_timeout"),
    ),
    (
        "clients and instances find each other by it",
        (
            "bonjour",
            "bonjour_name",
            "cluster_name",
            "listen_addresses",
            "port",
            "unix_socket_directories",
            "unix_socket_group",
            "unix_socket_permissions",
        ),
    ),
    (
        "certificates and logins are managed by Matriarch",
        (
            "gss_accept_delegation",
            "krb_caseins_users",
            "krb_server_keyfile",
            "password_encryption",
            "ssl",
            "ssl_ca_file",
            "ssl_cert_file",
            "ssl_ciphers",
            "ssl_crl_dir",
            "ssl_crl_file",
            "ssl_dh_params_file",
            "ssl_ecdh_curve",
            "ssl_key_file",
            "ssl_max_protocol_version",
            "ssl_min_protocol_version",
            "ssl_passphrase_command",
            "ssl_passphrase_command_supports_reload",
            "ssl_prefer_server_ciphers",
        ),
    ),
    (
        "files have their fixed places in the container",
        (
            "config_file",
            "data_directory",
            "dynamic_library_path",
            "external_pid_file",
            "hba_file",
            "ident_file",
            "jit_provider",
            "stats_temp_directory",
        ),
    ),
    (
        "the agent decides when PostgreSQL restarts and with which settings",
        ("allow_alter_system", "exit_on_error", "restart_after_crash"),
    ),
    (
        "logs go to the container's output",
        (
            "event_source",
            "log_destination",
            "log_directory",
            "log_file_mode",
            "log_filename",
            "log_rotation_age",
            "log_rotation_size",
            "log_truncate_on_rotation",
            "logging_collector",
            "syslog_facility",
            "syslog_ident",
            "syslog_sequence_numbers",
            "syslog_split_messages",
        ),
    ),
)

OWNED: Mapping[str, str] = MappingProxyType({name: reason for reason, names in GROUPS for name in names})
"""Parameter name in lower case → why users cannot set it."""


def refusal(name: str) -> str:
    """The sentence for a user who set `name`, the same as the API server's."""
    return f"parameter {name} belongs to Matriarch: {OWNED[name]}. Remove it from parameters"
