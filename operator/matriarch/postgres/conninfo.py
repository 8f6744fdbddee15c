"""How instances of one cluster reach each other's PostgreSQL: names, connection strings, the service file.

A WAL receiver's `primary_conninfo` names a service. What the service stands for, the client key included, lies in a
folder of its own that a promise takes away: from then on no new receiver can connect, however late it starts. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

STREAM_ROLE = "matriarch_stream"
CLONE_ROLE = "matriarch_clone"
REWIND_ROLE = "matriarch_rewind"

STREAM_SERVICE = "matriarch_stream"
SERVICE_FILE = "pg_service.conf"

SLOT_PREFIX = "matriarch_"

# A peer that is gone is noticed by wal_receiver_timeout first; these end connections that never get that far.
_TRANSPORT = {
    "connect_timeout": "2",
    "tcp_user_timeout": "5000",
    "keepalives": "1",
    "keepalives_idle": "2",
    "keepalives_interval": "1",
    "keepalives_count": "3",
}


@dataclass(frozen=True, slots=True)
class Upstream:
    """The server that this one streams, clones or rewinds from.

    `address` is the IP to connect to and `hostname` the name its certificate must carry: no name is looked up.
    `slot` and `application_name` are this member's own on that server. `role` is a streaming member's; clone() and
    rewind() use theirs, whatever stands here. `copies_slots`: it is a primary, whose logical slots are copied.

    With `outside` it is no member (`matriarch.postgres.outside`): `hostname` is looked up, `address` and `slot` may be
    empty, and `role` does everything.
    """

    instance: str
    address: str
    hostname: str
    slot: str
    application_name: str
    role: str = STREAM_ROLE
    port: int = 5432
    copies_slots: bool = True
    outside: bool = False
    ssl_mode: str = "verify-full"


def application_name(instance: str, incarnation: str) -> str:
    """What a voter is called in pg_stat_replication and synchronous_standby_names. Raises ValueError past 63 bytes."""
    name = f"{instance}-{incarnation}"
    if len(name.encode()) > 63:
        msg = f"{name!r} is longer than the 63 bytes that PostgreSQL keeps of an application_name"
        raise ValueError(msg)
    return name


def slot_name(instance: str) -> str:
    """The physical slot that every member keeps for `instance`: `matriarch_2` for `orders-2`.

    The number suffices inside one cluster and always fits. Raises ValueError for what is no instance's name.
    """
    _, _, number = instance.rpartition("-")
    if not number.isdecimal():
        msg = f"not an instance's name: {instance!r}"
        raise ValueError(msg)
    return SLOT_PREFIX + number


def render_conninfo(parameters: Mapping[str, str]) -> str:
    """libpq's keyword form, every value quoted."""
    return " ".join(f"{key}={_quote(value)}" for key, value in parameters.items())


def primary_conninfo(upstream: Upstream) -> str:
    """The setting of a standby: who and where. Another upstream is another text, so PostgreSQL changes over live.

    The database is for the worker that copies logical slots, which reads its name here and nowhere else.
    """
    target = {"service": STREAM_SERVICE, **_target(upstream, upstream.application_name)}
    return render_conninfo({**target, "dbname": "postgres"} if upstream.copies_slots else target)


def tool_conninfo(upstream: Upstream, *, role: str, database: str | None, purpose: str, tls_folder: str) -> str:
    """For pg_basebackup and pg_rewind: their own role and a name that no rule counts (S7)."""
    target = _target(upstream, f"{purpose} {upstream.application_name}"[:63])
    named = {**target, **_TRANSPORT, **_tls(tls_folder), "user": role, "connect_timeout": "10"}
    return render_conninfo(named if database is None else {**named, "dbname": database})


def render_service(folder: str) -> str:
    """The service file: certificate, key and transport. `folder` holds tls.crt, tls.key and ca.crt."""
    entries = {"user": STREAM_ROLE, **_TRANSPORT, **_tls(folder)}
    for key, value in entries.items():
        if re.search(r"[\r\n]", value):
            msg = f"{key} cannot stand in a service file"
            raise ValueError(msg)
    return f"[{STREAM_SERVICE}]\n" + "".join(f"{key}={value}\n" for key, value in entries.items())


def _target(upstream: Upstream, name: str) -> dict[str, str]:
    return {
        "host": upstream.hostname,
        "hostaddr": upstream.address,
        "port": str(upstream.port),
        "application_name": name,
    }


def _tls(folder: str) -> dict[str, str]:
    return {
        "sslmode": "verify-full",
        "sslrootcert": f"{folder}/ca.crt",
        "sslcert": f"{folder}/tls.crt",
        "sslkey": f"{folder}/tls.key",
        "gssencmode": "disable",
    }


def _quote(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
