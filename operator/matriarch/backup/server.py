"""A PostgreSQL server as the engine meets it: for asyncpg, and for pg_dump and psql, by the same settings.

Passwords go through the environment of a child, never through its arguments. A connection behind a Service may land on
any instance, so what has to see one snapshot is pinned to the address that the first connection reached.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import asyncpg

from matriarch.backup.jobspec import Prefer, Reason, ServerSpec
from matriarch.errors import MatriarchError, Refused, Unavailable
from matriarch.postgres.conninfo import render_conninfo

Role = Literal["primary", "standby"]

CONNECT_TIMEOUT = 10.0  # seconds
_KEEPALIVE = {"keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3"}

# asyncpg takes these from a connection string; libpq knows more, which asyncpg would send to the server as settings.
_SHARED = {"host", "port", "user", "dbname", "sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword",
           "ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs"}  # fmt: skip

_VARIABLES = {"host": "PGHOST", "hostaddr": "PGHOSTADDR", "port": "PGPORT", "user": "PGUSER", "sslmode": "PGSSLMODE",
              "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY", "sslrootcert": "PGSSLROOTCERT",
              "target_session_attrs": "PGTARGETSESSIONATTRS"}  # fmt: skip

# Text forms of values must not depend on who reads them: see fingerprint.
_SESSION = {
    "search_path": "",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "row_security": "off",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": "60000",
    # The server lets go of what a vanished Job held: its snapshot, its locks.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}


class Session(asyncpg.Connection):
    """A connection that notices a dead peer: a query may take hours, so no time-out of ours may end it."""

    def __init__(self, protocol: Any, transport: asyncio.Transport, *args: Any, **more: Any) -> None:
        super().__init__(protocol, transport, *args, **more)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


@dataclass(frozen=True, slots=True)
class Server:
    """Connection settings under libpq's names."""

    settings: Mapping[str, str]
    password: str | None = field(default=None, repr=False)
    pin: bool = False  # the address that the server reports can be reached from here

    @classmethod
    def from_url(cls, url: str) -> Self:
        """`postgresql://user:password@host:port/database?sslmode=…`, as libpq reads it. Raises Refused (BadSpec)."""
        try:
            parts = urlsplit(url)
            if parts.scheme not in ("postgresql", "postgres"):
                raise ValueError("it does not begin with postgresql://")
            settings = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        except ValueError as error:
            raise Refused(f"The URL of the database is not usable: {error}.", reason=Reason.BAD_SPEC) from None
        userinfo, _, places = parts.netloc.rpartition("@")
        user, _, password = userinfo.partition(":")
        secret = settings.pop("password", None) or unquote(password) or None
        if user:
            settings["user"] = unquote(user)
        if places:
            pairs = [_host_port(place) for place in places.split(",")]
            settings["host"] = ",".join(host for host, _ in pairs)
            if any(port for _, port in pairs):
                settings["port"] = ",".join(port or "5432" for _, port in pairs)
        if name := unquote(parts.path.lstrip("/")):
            settings["dbname"] = name
        return cls(settings, secret)

    @classmethod
    def from_spec(cls, spec: ServerSpec, host: str) -> Self:
        settings = {"host": host, "port": str(spec.port), "user": spec.user, "dbname": spec.database}
        if spec.tls is not None:
            settings |= {
                "sslmode": "verify-full",
                "sslrootcert": f"{spec.tls}/ca.crt",
                "sslcert": f"{spec.tls}/tls.crt",
                "sslkey": f"{spec.tls}/tls.key",
            }
        return cls(settings, pin=spec.tls is not None)

    @property
    def database(self) -> str | None:
        return self.settings.get("dbname")

    @property
    def address(self) -> str:
        """For messages: no user, no password."""
        host = self.settings.get("host", os.environ.get("PGHOST", "the local socket"))
        return f"{host}:{self.settings['port']}" if "port" in self.settings else host

    def at(self, address: str | None) -> Server:
        """The same server by the address it reported, its name kept for the certificate check."""
        if not self.pin or address is None:
            return self
        return replace(self, settings={**self.settings, "hostaddr": address})

    async def connect(self, database: str | None = None, *, name: str = "matriarch") -> Session:
        """Raises Unavailable (SourceUnavailable) or Refused (CredentialsRefused, BadSpec)."""
        shared = {k: v for k, v in self.settings.items() if k in _SHARED and k != "dbname"}
        database = database or self.database
        try:
            return await asyncpg.connect(
                f"postgresql:///?{urlencode(shared)}",
                database=database or "postgres",
                password=self.password,
                timeout=CONNECT_TIMEOUT,
                command_timeout=None,
                statement_cache_size=0,
                connection_class=Session,
                server_settings={**_SESSION, "application_name": name},
            )
        except (
            OSError,
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
            ValueError,
        ) as error:
            raise _explain_connect(error, self.address, database) from error

    def libpq(self, database: str, *, name: str = "matriarch", options: str = "") -> tuple[str, dict[str, str]]:
        """A conninfo for a child's --dbname and the environment it needs. `options` come after the user's own."""
        conninfo = {
            **_KEEPALIVE,
            "connect_timeout": str(int(CONNECT_TIMEOUT)),
            **self.settings,
            "dbname": database,
            "application_name": name,
        }
        if options:
            conninfo["options"] = f"{self.settings.get('options', '')} {options}".strip()
        return render_conninfo(conninfo), self._environment()

    def environment(self, *, name: str = "matriarch") -> dict[str, str]:
        """For a tool that takes no conninfo."""
        settings = {_VARIABLES[k]: v for k, v in self.settings.items() if k in _VARIABLES}
        return self._environment() | settings | {"PGAPPNAME": name, "PGCONNECT_TIMEOUT": str(int(CONNECT_TIMEOUT))}

    def _environment(self) -> dict[str, str]:
        environment = {k: v for k, v in os.environ.items() if k not in ("PGOPTIONS", "PGAPPNAME", "PGDATABASE")}
        environment["LC_ALL"] = "C"  # messages are read by us too
        if self.password is not None:
            environment["PGPASSWORD"] = self.password
        return environment


def _host_port(place: str) -> tuple[str, str]:
    if place.startswith("["):
        host, _, rest = place[1:].partition("]")
        return host, rest.removeprefix(":")
    host, _, port = place.partition(":")
    return unquote(host), port


def _explain_connect(error: Exception, where: str, database: str | None) -> MatriarchError:
    text = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError | asyncpg.InvalidPasswordError):
        return Refused(f"PostgreSQL at {where} refuses the login: {text}", reason=Reason.CREDENTIALS_REFUSED)
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return Refused(f"There is no database {database} at {where}.", reason=Reason.BAD_SPEC)
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refused(
            f"The certificate of PostgreSQL at {where} is not trusted: {text}", reason=Reason.CREDENTIALS_REFUSED
        )
    if isinstance(error, ValueError | asyncpg.ClientConfigurationError):
        return Refused(f"The connection settings are not usable: {text}", reason=Reason.BAD_SPEC)
    return Unavailable(
        f"PostgreSQL at {where} does not accept the connection: {text}", reason=Reason.SOURCE_UNAVAILABLE
    )


@dataclass(frozen=True, slots=True)
class Facts:
    """What one server said about itself."""

    version: str  # 17.6
    version_number: int  # 170006
    system_identifier: str
    timeline: int
    role: Role
    address: str | None
    instance: str | None
    superuser: bool
    replay_delay: float  # seconds; 0 on a primary and on a standby that has all it received


async def look(session: Session) -> Facts:
    """The facts that a manifest records and a target is judged by."""
    (row,) = await session.fetch("""
        SELECT current_setting('server_version') AS version,
               current_setting('server_version_num')::int AS number,
               (SELECT system_identifier::text FROM pg_catalog.pg_control_system()) AS system,
               greatest((SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()),
                        (SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery())) AS timeline,
               pg_catalog.pg_is_in_recovery() AS standby,
               host(pg_catalog.inet_server_addr()) AS address,
               nullif(current_setting('cluster_name'), '') AS instance,
               (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) AS superuser,
               CASE WHEN pg_catalog.pg_is_in_recovery()
                     AND pg_catalog.pg_last_wal_receive_lsn() IS DISTINCT FROM pg_catalog.pg_last_wal_replay_lsn()
                    THEN extract(epoch FROM now() - pg_catalog.pg_last_xact_replay_timestamp())::float8 END AS delay
    """)
    return Facts(
        version=row["version"].split()[0],
        version_number=row["number"],
        system_identifier=row["system"],
        timeline=row["timeline"],
        role="standby" if row["standby"] else "primary",
        address=row["address"],
        instance=row["instance"],
        superuser=row["superuser"],
        replay_delay=max(row["delay"] or 0.0, 0.0),
    )


MAX_REPLAY_DELAY = 60.0  # seconds; a standby further behind would make an old backup


def not_the_primary(address: str) -> Unavailable:
    """For who needs all that was acknowledged."""
    return Unavailable(
        f"{address} is a standby, which may not have replayed all that was acknowledged; this backup reads the primary "
        "alone and is tried again.",
        reason=Reason.SOURCE_CHANGED,
    )


async def choose(servers: list[Server], prefer: Prefer) -> Server:
    """The first server of the wanted role, else the first that answers, pinned to the address it reported.

    A Service spreads connections, so each is tried a few times. Raises the last failure when none answers, and
    Unavailable (SourceChanged) when none is the primary and nothing else will do.
    """
    role = "primary" if prefer == "primary-only" else prefer
    fallback: Server | None = None
    failure: MatriarchError | None = None
    for server in servers:
        for _ in range(3 if prefer != "any" and server.pin else 1):
            try:
                session = await server.connect()
            except MatriarchError as error:
                failure = error
                break
            try:
                facts = await look(session)
            finally:
                await session.close(timeout=5)
            found = server.at(facts.address)
            if prefer == "any" or (facts.role == role and facts.replay_delay <= MAX_REPLAY_DELAY):
                return found
            fallback = fallback or found
    if fallback is not None and prefer == "primary-only":
        raise not_the_primary(fallback.address)
    if fallback is not None:
        return fallback
    assert failure is not None
    raise failure
