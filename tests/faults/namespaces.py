"""A Pod without Kubernetes: the real supervisor as PID 1 of its own PID, mount and network namespaces.

It runs without capabilities, as the image's user where that user can reach this interpreter, else as the owner of the
tests. Stand-ins take the places of agent and heartbeat, so that a test decides what they ask for.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

HERE = Path(__file__).parent


def _user() -> int:
    interpreter = Path(sys.executable).resolve()
    return 999 if all(p.stat().st_mode & 0o001 for p in (interpreter, *interpreter.parents, *HERE.parents)) else 0


USER = _user()
AS_USER = (
    *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"),
    *("--bounding-set=-all", "--inh-caps=-all", "--securebits=+noroot"),
)
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(HERE.parents[1] / "operator")}

T = TypeVar("T")


def wait_for(what: Callable[[], T], seconds: float = 10.0) -> T:
    """The first true value of `what`, asked every 2 ms."""
    until = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < until, f"still {value!r} after {seconds} s"
        time.sleep(0.002)
    return value


def children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def command_line(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def alive(pid: int) -> bool:
    """Still running; a zombie is not."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


class Pod:
    """`folder` stands for volume and run folder. Pids are those of the outside unless said otherwise.

    With an `address` and the `network` namespace that has it, the real heartbeat runs in place of the stand-in.
    """

    def __init__(
        self,
        folder: Path,
        *,
        grace: float = 30.0,
        lock: Path | None = None,
        network: int | None = None,
        address: str = "",
    ) -> None:
        if os.getuid() != 0:
            pytest.skip("PID namespaces with another user need root")
        self.folder = folder
        folder.mkdir(exist_ok=True)
        os.chown(folder, USER, USER)
        for parent in folder.parents:  # pytest's folders are for their maker alone
            if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
        self.log = folder / "log"
        self._connection: socket.socket | None = None
        helpers = {
            "agent": [sys.executable, str(HERE / "stand_in_agent.py"), str(folder)],
            "heartbeat": [sys.executable, str(HERE / "stand_in_heartbeat.py"), str(folder / "deadline")],
        }
        if network is not None:
            (folder / "heartbeat.key").write_text("ab" * 32)
            helpers["heartbeat"] = [
                *(sys.executable, "-m", "matriarch.agent.heartbeat"),
                *(f"--run={folder}", f"--key={folder}/heartbeat.key"),
            ]
        enter = ["unshare", "--net"] if network is None else ["nsenter", "-t", str(network), "-n", "unshare"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(*enter, "--pid", "--mount-proc", "--fork", "--kill-child"),
                    *AS_USER,
                    *(sys.executable, "-m", "matriarch.agent.supervisor", f"--run={folder}"),
                    f"--lock={lock or folder / 'lock'}",
                    *(f"--{name}={json.dumps(argv)}" for name, argv in helpers.items()),
                ],
                env={
                    **ENVIRONMENT,
                    "MATRIARCH_GRACE_SECONDS": str(grace),
                    "MATRIARCH_POD_IP": address,
                    "MATRIARCH_NAMESPACE": "prod",
                    "MATRIARCH_CLUSTER": "orders",
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def pid1(self) -> int:
        return wait_for(lambda: children(self.process.pid))[0]

    def child(self, word: str, *, other_than: int = 0) -> int:
        """The child of PID 1 whose command line holds `word`."""

        def find() -> int:
            found = [c for c in children(self.pid1) if word in command_line(c) and c != other_than]
            return found[0] if found else 0

        return wait_for(find)

    def call(self, call: str, *arguments: Any, **order: Any) -> Any:
        """Let the stand-in agent do something; its result. AssertionError with the error's text otherwise."""
        answer = self.try_call(call, *arguments, **order)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def try_call(self, call: str, *arguments: Any, **order: Any) -> dict[str, Any]:
        connection = self._connection or self._connect()
        connection.sendall(json.dumps({"call": call, "arguments": arguments, **order}).encode() + b"\n")
        raw = b""
        while not raw.endswith(b"\n"):
            piece = connection.recv(65536)
            assert piece, f"the stand-in agent is gone: {self.said}"
            raw += piece
        answer: dict[str, Any] = json.loads(raw)
        return answer

    def forget_agent(self) -> None:
        """The next call talks to the agent that runs then."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def deadline_in(self, seconds: float) -> int:
        """The heartbeat tells the supervisor of a deadline; the deadline (boot-time ns)."""
        sent = self.folder / "deadline.sent"
        sent.unlink(missing_ok=True)
        self._write("deadline", str(round(seconds * 1e9)))
        return int(wait_for(lambda: sent.exists() and sent.read_text()))

    def hang_heartbeat(self) -> None:
        self._write("deadline", "hang")
        wait_for(lambda: not (self.folder / "deadline").exists())

    def exit_status(self, seconds: float = 20.0) -> int:
        return self.process.wait(seconds)

    def close(self) -> None:
        self.forget_agent()
        self.process.kill()  # --kill-child takes PID 1 along, and the kernel all the rest
        self.process.wait()

    def _write(self, name: str, text: str) -> None:
        temporary = self.folder / f".{name}"
        temporary.write_text(text)
        os.chown(temporary, USER, USER)
        temporary.replace(self.folder / name)

    def _connect(self) -> socket.socket:
        path = str(self.folder / "agent.sock")

        def attempt() -> socket.socket | None:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(path)
            except OSError:
                connection.close()
                return None
            return connection

        connection = wait_for(attempt)
        assert connection is not None
        connection.settimeout(20)
        self._connection = connection
        return connection


class Network:
    """Machines on one switch, each a network namespace that outlives the Pods on it, as a node's kernel does."""

    def __init__(self) -> None:
        self._keepers = [self._keeper()]
        self._run(0, "ip link add switch type bridge")
        self._run(0, "ip link set switch up")

    def add(self) -> tuple[int, str]:
        """A new machine: pid whose network namespace it is, and its address."""
        number = len(self._keepers)
        self._keepers.append(self._keeper())
        pid = self._keepers[number].pid
        self._run(0, f"ip link add port{number} type veth peer name eth0 netns {pid}")
        self._run(0, f"ip link set port{number} master switch up")
        address = f"10.77.0.{number}"
        self._run(number, "ip link set lo up")
        self._run(number, f"ip addr add {address}/24 dev eth0")
        self._run(number, "ip link set eth0 up")
        return pid, address

    def cut(self, number: int) -> None:
        """Silently: nothing goes in or out, and no kernel says so."""
        self._run(0, f"ip link set port{number} down")

    def heal(self, number: int) -> None:
        self._run(0, f"ip link set port{number} up")

    def deafen(self, number: int) -> None:
        """One way: it still sends, and hears nothing."""
        self._run(number, "nft add table inet deaf")
        self._run(number, "nft add chain inet deaf input { type filter hook input priority 0 ; policy drop ; }")

    def close(self) -> None:
        for keeper in self._keepers:
            keeper.kill()
            keeper.wait()

    def _keeper(self) -> subprocess.Popen[bytes]:
        keeper = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        outside = Path("/proc/self/ns/net").readlink()
        wait_for(lambda: Path(f"/proc/{keeper.pid}/ns/net").readlink() != outside)
        return keeper

    def _run(self, number: int, command: str) -> None:
        subprocess.run(["nsenter", "-t", str(self._keepers[number].pid), "-n", *command.split()], check=True)
