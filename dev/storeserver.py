"""What the servers of objects have in common that tests run: an address, one process, and its faults."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import ClassVar

from dev.host import DevError
from dev.kubebox.processes import Processes, kill


class StoreServer:
    """`program` of dev.programs on `folder`; `start` is each one's own."""

    program: ClassVar[str]
    folder: str
    address: str
    port: int
    tls: bool

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.address}:{self.port}"

    @property
    def ca_file(self) -> Path | None:
        """The authority that signed the server's certificate; None without TLS."""
        return Path(self.folder) / "pki" / "ca.crt" if self.tls else None

    @property
    def _processes(self) -> Processes:
        return Processes(Path(self.folder))

    def _accepts(self) -> bool:
        try:
            with socket.create_connection((self.address, self.port), timeout=1) as s:
                return bool(s.getsockname() != s.getpeername())  # the kernel connects a port that is free with itself
        except OSError:
            return False

    def stop(self) -> None:
        """Kill the server, in the middle of whatever it does; finished objects stay."""
        self._processes.stop(self.program)

    def freeze(self) -> None:
        """Let the server hang: connections are accepted by the kernel, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        pid = self._processes.pid(self.program)
        if pid is None:
            raise DevError(f"the server at {self.endpoint} does not run")
        kill([pid], number)
