"""How the designated primary of a replica cluster reaches the server that its cluster follows: connection strings.

That server is no member: it is known by a host name and not by a Pod's address, and what opens it lies in a Secret of
the user's. A receiver's string names a service here too, so that a promise takes its key away with the others'. Pure.
"""

from __future__ import annotations

from collections.abc import Collection

from matriarch.postgres.conninfo import Upstream, primary_conninfo, render_conninfo

SOURCE_SERVICE = "matriarch_source"
SOURCE_ROLE = "matriarch_replica"
"""Who a replica cluster is on a cluster of Matriarch's."""

FILES = ("ca.crt", "tls.crt", "tls.key", "password")
"""What the Secret may hold, all optional."""
PASS_FILE = "pgpass"  # noqa: S105 - the name of the file

# Another site is farther away than another node.
_TRANSPORT = {
    "connect_timeout": "5",
    "tcp_user_timeout": "15000",
    "keepalives": "1",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "5",
}


def receiver_conninfo(upstream: Upstream) -> str:
    """The setting of a standby, of a member or of the source. No database there: slots of other sites stay there."""
    if not upstream.outside:
        return primary_conninfo(upstream)
    return render_conninfo({"service": SOURCE_SERVICE, **_target(upstream, upstream.application_name)})


def source_tool_conninfo(
    upstream: Upstream, *, purpose: str, folder: str, present: Collection[str], database: str | None
) -> str:
    """For pg_basebackup, pg_rewind and psql. `present`: which of FILES lie in `folder`."""
    named = {
        **_target(upstream, f"{purpose} {upstream.application_name}"[:63]),
        **_TRANSPORT,
        **_keys(folder, present),
        "connect_timeout": "10",
    }
    return render_conninfo(named if database is None else {**named, "dbname": database})


def replication_conninfo(upstream: Upstream, *, purpose: str, folder: str, present: Collection[str]) -> str:
    """For the replication protocol's own commands."""
    text = source_tool_conninfo(upstream, purpose=purpose, folder=folder, present=present, database=None)
    return f"{text} replication='true'"


def render_source_service(folder: str, present: Collection[str]) -> str:
    """The section of the service file."""
    entries = {**_TRANSPORT, **_keys(folder, present)}
    return f"[{SOURCE_SERVICE}]\n" + "".join(f"{key}={value}\n" for key, value in entries.items())


def render_pass_file(password: str) -> str:
    """One line that fits every server: the file is used for this one alone. Raises ValueError for a line break."""
    if "\n" in password or "\r" in password:
        msg = "the source's password has a line break in it"
        raise ValueError(msg)
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    return f"*:*:*:*:{escaped}\n"


def _target(upstream: Upstream, name: str) -> dict[str, str]:
    found = {
        "host": upstream.hostname,
        "port": str(upstream.port),
        "user": upstream.role,
        "sslmode": upstream.ssl_mode,
        "application_name": name,
    }
    return {**found, "hostaddr": upstream.address} if upstream.address else found


def _keys(folder: str, present: Collection[str]) -> dict[str, str]:
    found = {"gssencmode": "disable"}
    if "ca.crt" in present:
        found["sslrootcert"] = f"{folder}/ca.crt"
    if "tls.crt" in present and "tls.key" in present:
        found |= {"sslcert": f"{folder}/tls.crt", "sslkey": f"{folder}/tls.key"}
    if "password" in present:
        found["passfile"] = f"{folder}/{PASS_FILE}"
    return found
