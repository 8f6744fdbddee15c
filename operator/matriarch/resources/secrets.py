"""Secrets: credentials in every form that clients like, certificates, keys. Values come from the caller."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from urllib.parse import quote

from matriarch.resources import names
from matriarch.resources.blueprint import Blueprint, Object

_LIBPQ = (
    "sslmode=require&connect_timeout=2&tcp_user_timeout=2000"
    "&keepalives=1&keepalives_idle=2&keepalives_interval=1&keepalives_count=2"
)
_JDBC = "sslmode=require&connectTimeout=2&tcpKeepAlive=true"


def credentials(b: Blueprint, name: str, *, user: str, database: str, password: str, authority: str) -> Object:
    """Kept when the resource is deleted, so it has no owner.

    The plain `uri` carries no parameters: asyncpg sends keys that it does not know to the server, SQLAlchemy hands
    them to the driver, JDBC has names of its own. Drivers of PostgreSQL try TLS first by themselves, and the server
    lets nobody in without it. `uri-libpq` and `jdbc-uri` add what lets a client notice a failover early.
    """
    host, port = names.write_host(b.name, b.namespace), "5432"
    quoted = f"{quote(user, safe='')}:{quote(password, safe='')}"
    uri = f"postgresql://{quoted}@{host}:{port}/{quote(database, safe='')}"
    jdbc = f"jdbc:postgresql://{host}:{port}/{quote(database, safe='')}"
    service = f"host={host}\nport={port}\ndbname={database}\nuser={user}\nsslmode=require\nconnect_timeout=2\n"
    return _secret(
        b,
        name,
        {
            "username": user,
            "password": password,
            "dbname": database,
            "host": host,
            "port": port,
            "uri": uri,
            "uri-libpq": f"{uri}?{_LIBPQ}&target_session_attrs=read-write",
            "jdbc-uri": f"{jdbc}?user={quote(user, safe='')}&password={quote(password, safe='')}&{_JDBC}",
            "pgpass": f"{host}:{port}:{_pgpass(database)}:{_pgpass(user)}:{_pgpass(password)}\n",
            "service": f"[{b.name}]\n{service}",
            "ca.crt": authority,
        },
        owned=False,
    )


def authority(b: Blueprint, data: Mapping[str, str]) -> Object:
    """The certificate authority and the heartbeat key; kept when the resource is deleted."""
    return _secret(b, names.authority(b.name), data, owned=False)


def certificate(b: Blueprint, name: str, data: Mapping[str, str], *, instance: str | None = None) -> Object:
    """A certificate with its key and what it trusts."""
    return _secret(b, name, data, instance=instance)


def hosts(b: Blueprint, instance: str) -> frozenset[str]:
    """The names that an instance's server certificate is valid for."""
    members = names.members_service(b.name)
    found = {instance, "localhost"}
    for host in (f"{instance}.{members}", *(f"{b.name}-{door}" for door in ("rw", "ro", "r"))):
        local = f"{host}.{b.namespace}"
        found |= {f"{local}.svc", f"{local}.svc.cluster.local"}
        if host.startswith(f"{b.name}-r"):
            found |= {host, local}
    return frozenset(found)


def _pgpass(value: str) -> str:
    return value.replace("\\", "\\\\").replace(":", "\\:")


def _secret(
    b: Blueprint, name: str, data: Mapping[str, str], *, instance: str | None = None, owned: bool = True
) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": b.metadata(name, instance=instance, owned=owned),
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in sorted(data.items())},
    }
