"""Members on this machine: each a real PostgreSQL of the image that ships, with TLS, on a loopback address of its own.

Programs of the image run in its root file system by a user namespace in which this process's user is the image's
`postgres`. So files, signals, `/proc` and the local socket look to the code under test as they do in a pod, where
agent and server are one user, and nothing needs to be copied or run as somebody else.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from matriarch.agent.postgres import processes
from matriarch.agent.postgres.server import Identity, Paths, Server
from matriarch.postgres.conninfo import Upstream, application_name, slot_name
from matriarch.postgres.settings import ServerSettings

PROGRAMS = {"pgbouncer": "/usr/sbin/pgbouncer"}
TOOLS = (
    "initdb", "postgres", "pg_controldata", "pg_basebackup", "pg_verifybackup", "pg_rewind", "pg_waldump",
    "pg_receivewal", "pg_recvlogical", "psql",
)  # fmt: skip

_ENTER = """\
#!{python} -IS
import ctypes, os, sys
root, user, group = {root!r}, os.geteuid(), os.getegid()
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
check(libc.unshare(0x10000000 | 0x20000 | 0x8000000))  # user, mount, IPC
for name, line in (("setgroups", "deny"), ("uid_map", f"999 {{user}} 1"), ("gid_map", f"999 {{group}} 1")):
    with open("/proc/self/" + name, "w") as file:
        file.write(line)
for folder in ("/tmp", "/proc", "/dev"):
    check(libc.mount(folder.encode(), (root + folder).encode(), None, 0x1000 | 0x4000, None))  # bind, recursive
os.chroot(root)
os.chdir("/")
os.execve({program!r}, [{program!r}, *sys.argv[1:]], os.environ)
"""


class Spawner:
    """Starts postmasters as the supervisor would: in a session of their own, reaped when they end."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.child: subprocess.Popen[bytes] | None = None

    async def start_postgres(self, argv: Sequence[str], env: Mapping[str, str], *, timeout: float = 5.0) -> int:
        if self.child is not None:
            self.child.wait(timeout)  # it has ended, or it would not be started again
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(  # noqa: ASYNC220 - asyncio's would end with its loop
                argv, env=dict(env), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        return self.child.pid


@dataclass
class Box:
    """A place for members, and the CA that they share."""

    root: Path
    bin: Path
    port: int
    ca: Authority
    template: Path
    members: list[Member] = field(default_factory=list)

    def member(self, number: int, **settings: object) -> Member:
        member = Member(self, number, "aaaa", settings)
        self.members.append(member)
        return member

    async def close(self) -> None:
        for member in self.members:
            await member.server.close()
            member.kill()
            if member.log.exists():  # pytest shows it when the test failed
                print(f"--- {member.instance}\n{member.log.read_text(errors='replace')[-6000:]}")
        shutil.rmtree(self.root)

    async def primary(self, number: int = 1, *, names: str = "", **settings: object) -> Member:
        """A running primary with the roles of a cluster, made from a data directory that is initialised once."""
        member = self.member(number, standby_names=names, **settings)
        if not self.template.exists():
            await member.server.initdb()
            await member.server.start_primary()
            await member.server.bootstrap_sql("app", "app", "secret", None)
            assert await member.server.stop("fast")
            shutil.copytree(member.paths.pgdata, self.template)
        else:
            shutil.copytree(self.template, member.paths.pgdata)
        await member.server.start_primary()
        return member

    async def standby(self, number: int, source: Member, **settings: object) -> Member:
        """A clone of `source` that streams from it."""
        member = self.member(number, **settings)
        await source.server.ensure_slots({member.slot: None, **{s.name: None for s in await source.server.slots()}})
        await member.server.clone(member.upstream(source))
        await member.server.start_standby(member.upstream(source))
        await streaming(source, member)
        return member


class Member:
    def __init__(self, box: Box, number: int, incarnation: str, settings: Mapping[str, object]) -> None:
        self.box = box
        self.number = number
        self.instance = f"orders-{number}"
        self.name = application_name(self.instance, incarnation)
        self.slot = slot_name(self.instance)
        self.address = f"127.0.0.{number}"
        home = box.root / self.instance
        self.paths = Paths(home / "v", home / "r", home / "s", box.bin)
        for folder in (self.paths.volume, self.paths.run, self.paths.secret):
            folder.mkdir(parents=True, exist_ok=True)
        box.ca.issue(self.instance, self.paths.secret, "orders-rw.test.svc")
        self.log = home / "log"
        self.spawner = Spawner(self.log)
        self.identity = Identity("orders", "test", self.instance, incarnation, self.address)
        self.settings = replace(
            ServerSettings(
                {"shared_buffers": "16MB", "log_min_messages": "info"},
                listen_addresses=self.address,
                port=box.port,
            ),
            **settings,  # type: ignore[arg-type]
        )
        self.server = self.new_agent()

    async def restart_agent(self) -> None:
        """As after a crash of the agent: nothing remembered but what lies on the disk and what is configured."""
        await self.server.close()
        self.server = self.new_agent()
        await self.server.settle()

    def new_agent(self) -> Server:
        server = Server(self.paths, self.identity, self.spawner)  # type: ignore[arg-type]  # all it needs of one
        server._settings = self.settings
        server._sessions.port = self.settings.port
        return server

    def upstream(self, source: Member) -> Upstream:
        return Upstream(source.instance, source.address, source.instance, self.slot, self.name, port=self.box.port)

    async def connect(self, **settings: str) -> asyncpg.Connection[asyncpg.Record]:
        """A client's session, as the application's superuser on the local socket."""
        return await asyncpg.connect(
            host=str(self.paths.socket_dir),
            port=self.box.port,
            user="postgres",
            database=settings.pop("database", "app"),
            server_settings=settings or None,
        )

    async def sql(self, query: str, *args: object, **settings: str) -> list[asyncpg.Record]:
        session = await self.connect(**settings)
        try:
            return await session.fetch(query, *args)
        finally:
            await session.close()

    async def value(self, query: str, *args: object, **settings: str) -> object:
        return (await self.sql(query, *args, **settings))[0][0]

    def psql(self, *arguments: str, connection: str) -> str:
        return subprocess.run(
            [self.paths.bin / "psql", "-XAtq", *arguments, connection], check=True, capture_output=True, text=True
        ).stdout.strip()

    def identify(self) -> int:
        """PostgreSQL's own word on the timeline of what is replayed; only the replication protocol has it."""
        tls = self.paths.tls
        connection = (
            f"host={self.instance} hostaddr={self.address} port={self.box.port} user=matriarch_clone replication=true "
            f"sslmode=verify-full sslrootcert={tls}/ca.crt sslcert={tls}/tls.crt sslkey={tls}/tls.key"
        )
        return int(self.psql("-c", "IDENTIFY_SYSTEM", connection=connection).split("|")[1])

    def children(self, word: str) -> list[int]:
        """Pids of the postmaster's children with `word` in their title."""
        pid = self.server.postmaster()
        return [] if pid is None else [p.pid for p in processes.children(pid) if word in processes.title(p.pid)]

    def kill(self) -> None:
        """SIGKILL of the postmaster and all that is left of it."""
        pids = processes.working_in(self.paths.pgdata)
        if self.spawner.child is not None and self.spawner.child.poll() is None:
            pids.append(self.spawner.child.pid)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGKILL)
        if self.spawner.child is not None:
            self.spawner.child.wait()
        while processes.working_in(self.paths.pgdata):
            pass


class Authority:
    """A certificate authority like the one that the controller keeps for a cluster."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "orders")])
        builder = self._builder(self.name, self.key.public_key())
        self.certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(
            self.key, hashes.SHA256()
        )

    def issue(self, common_name: str, folder: Path, *hosts: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        names = [*(x509.DNSName(h) for h in (common_name, *hosts)), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            self._builder(subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        (folder / "ca.crt").write_bytes(self.certificate.public_bytes(pem))
        (folder / "tls.crt").write_bytes(certificate.public_bytes(pem))
        (folder / "tls.key").write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        (folder / "tls.key").chmod(0o600)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
        )


def make_box(rootfs: Path, template: Path) -> Box:
    """A new place under /tmp, which must be a disk: sockets need short paths, and fsync must mean something."""
    root = Path(tempfile.mkdtemp(prefix="pgbox", dir="/tmp"))
    root.chmod(0o755)
    bin_folder = root / "bin"
    bin_folder.mkdir()
    for tool, program in {**{t: f"/usr/lib/postgresql/17/bin/{t}" for t in TOOLS}, **PROGRAMS}.items():
        file = bin_folder / tool
        file.write_text(_ENTER.format(python=sys.executable, root=str(rootfs), program=program))
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return Box(root, bin_folder, port, Authority(), template)


async def streaming(primary: Member, *members: Member) -> None:
    """Waits until each of `members` streams from `primary`."""
    wanted = {m.name for m in members}

    async def all_stream() -> bool:
        senders = await primary.server.replication()
        return wanted <= {s.application_name for s in senders if s.state == "streaming"}

    await eventually(all_stream, f"{wanted} stream from {primary.instance}")


async def eventually(condition: object, what: str, *, within: float = 20.0) -> None:
    """Waits until `condition()` (plain or a coroutine function) is true; fails naming `what`."""
    end = asyncio.get_running_loop().time() + within
    while True:
        result = condition()  # type: ignore[operator]
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        assert asyncio.get_running_loop().time() < end, f"not in time: {what}"
        await asyncio.sleep(0.02)
