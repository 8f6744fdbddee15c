"""Secrets: credentials in every form that clients like, certificates, keys. Values come from the caller."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from matriarch.resources import names
from matriarch.resources.blueprint import Blueprint, Object

# A server that is gone without a word: 2 s to connect, 2 s for data that nobody acknowledges.
_TRANSPORT = {
    "connect_timeout": "2",
    "tcp_user_timeout": "2000",
    "keepalives": "1",
    "keepalives_idle": "2",
    "keepalives_interval": "1",
    "keepalives_count": "2",
}
_LIBPQ = "&".join(f"{key}={value}" for key, value in {"sslmode": "require", **_TRANSPORT}.items())
_JDBC = "sslmode=require&connectTimeout=2&tcpKeepAlive=true"


def credentials(b: Blueprint, name: str, *, user: str, database: str, password: str, authority: str) -> Object:
    """Kept when the resource is deleted, so it has no owner.

    The plain `uri` carries no parameters: asyncpg sends keys that it does not know to the server, SQLAlchemy hands
    them to the driver, JDBC has names of its own. Drivers of PostgreSQL try TLS first by themselves, and the server
    lets nobody in without it. `uri-libpq`, `jdbc-uri` and `service` add what lets a client notice a failover early.
    The fields that begin with `pooler` lead through the pooler, which lets no superuser in.
    """
    login = _Login(user, password, database)
    host, port = names.write_host(b.name, b.namespace), "5432"
    data = {
        "username": user,
        "password": password,
        "dbname": database,
        "host": host,
        "port": port,
        "uri": login.uri(host),
        "uri-libpq": f"{login.uri(host)}?{_LIBPQ}&target_session_attrs=read-write",
        "jdbc-uri": login.jdbc(host),
        "pgpass": login.pgpass(host),
        "service": login.service(b.name, host),
        "ca.crt": authority,
    }
    pooler = b.defaults.pooler
    for door in pooler.doors if pooler is not None and name == names.app_secret(b.name) else ():
        prefix, through = ("pooler-" if door == "rw" else "pooler-ro-"), names.pooler_host(b.name, b.namespace, door)
        data |= {
            f"{prefix}host": through,
            f"{prefix}uri": login.uri(through),
            f"{prefix}uri-libpq": f"{login.uri(through)}?{_LIBPQ}",
            f"{prefix}jdbc-uri": login.jdbc(through),
        }
        data["pgpass"] += login.pgpass(through)
        data["service"] += "\n" + login.service(names.pooler_door(b.name, door), through)
    return _secret(b, name, data, owned=False)


@dataclass(frozen=True, slots=True)
class _Login:
    user: str
    password: str
    database: str

    def uri(self, host: str) -> str:
        quoted = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return f"postgresql://{quoted}@{host}:5432/{quote(self.database, safe='')}"

    def jdbc(self, host: str) -> str:
        login = f"user={quote(self.user, safe='')}&password={quote(self.password, safe='')}"
        return f"jdbc:postgresql://{host}:5432/{quote(self.database, safe='')}?{login}&{_JDBC}"

    def pgpass(self, host: str) -> str:
        return f"{host}:5432:{_pgpass(self.database)}:{_pgpass(self.user)}:{_pgpass(self.password)}\n"

    def service(self, name: str, host: str) -> str:
        entries = {"host": host, "port": "5432", "dbname": self.database, "user": self.user, "sslmode": "require"}
        return f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in {**entries, **_TRANSPORT}.items())


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
