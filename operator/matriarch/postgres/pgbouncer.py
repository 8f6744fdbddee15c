"""PgBouncer's configuration. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

POOLER_ROLE = "matriarch_pooler"
"""Reads the verifiers of those who log in, and nothing else; comes with a certificate."""
LOOKUP_SCHEMA = "matriarch_pooler"
LOOKUP = f"{LOOKUP_SCHEMA}.lookup"
LOOKUP_DATABASE = "postgres"

CONSOLE_USER = "pgbouncer"
"""Whoever comes by the local socket as PgBouncer's own system user is let into its console under this name."""
CONSOLE_DATABASE = "pgbouncer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What differs between poolers. Times are in milliseconds."""

    host: str
    """The name of the Service behind it, as in the server's certificate."""
    mode: str
    minimum: int
    maximum: int
    clients: int
    acquire: int
    connect: int
    idle: int
    lifetime: int


def render(pool: Pool, *, socket_dir: str, tls_folder: str) -> str:
    """pgbouncer.ini. `tls_folder` holds tls.crt, tls.key and ca.crt, for both sides."""
    return _ini(
        {
            "databases": {"*": f"host={pool.host} port=5432"},
            "pgbouncer": {
                "listen_addr": "*",
                "listen_port": "5432",
                "unix_socket_dir": socket_dir,
                "unix_socket_mode": "0700",
                "pool_mode": pool.mode,
                "min_pool_size": str(pool.minimum),
                "default_pool_size": str(pool.maximum),
                "max_client_conn": str(pool.clients),
                "query_wait_timeout": _seconds(pool.acquire),
                "server_connect_timeout": _seconds(pool.connect),
                "server_idle_timeout": _seconds(pool.idle),
                "server_lifetime": _seconds(pool.lifetime),
                # A failover takes less than the default of 15 s between two attempts to log in.
                "server_login_retry": "0.1",
                "dns_nxdomain_ttl": "1",
                # A query to a server that is gone without a word must not wait for the kernel's quarter of an hour.
                "tcp_keepalive": "1",
                "tcp_keepidle": "2",
                "tcp_keepintvl": "1",
                "tcp_keepcnt": "3",
                "tcp_user_timeout": "5000",
                "auth_type": "scram-sha-256",
                "auth_user": POOLER_ROLE,
                "auth_dbname": LOOKUP_DATABASE,
                "auth_query": f"SELECT usename, passwd FROM {LOOKUP}($1)",  # noqa: S608 - a name of our own
                "server_tls_sslmode": "verify-full",
                "server_tls_ca_file": f"{tls_folder}/ca.crt",
                "server_tls_cert_file": f"{tls_folder}/tls.crt",
                "server_tls_key_file": f"{tls_folder}/tls.key",
                "client_tls_sslmode": "require",
                "client_tls_ca_file": f"{tls_folder}/ca.crt",
                "client_tls_cert_file": f"{tls_folder}/tls.crt",
                "client_tls_key_file": f"{tls_folder}/tls.key",
                "max_prepared_statements": "200",
                "ignore_startup_parameters": "extra_float_digits,options",
                "log_connections": "0",
                "log_disconnections": "0",
                "log_stats": "0",
            },
        }
    )


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:g}"


def _ini(sections: Mapping[str, Mapping[str, str]]) -> str:
    lines = ["; Written by Matriarch; changes are overwritten."]
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{name} = {value}" for name, value in values.items()]
    return "\n".join(lines) + "\n"
