"""pg_dump and psql as children: their streams, their last words, their end.

Nothing is read or written without a look at the stop flag, and a child that makes no progress for STALL seconds is
ended: a Job that was told to stop, or whose server vanished, comes to an end by itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from matriarch.backup.jobspec import Reason
from matriarch.backup.stop import Stop
from matriarch.errors import Refused, Unavailable

STALL = 900.0  # seconds without a byte
_PIPE = 1 << 20
_F_SETPIPE_SZ = 1031


class Child:
    """One running tool. Its stderr is kept line by line, the last 50."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        stdin: bool = False,
        stdout: bool = False,
        on_line: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.tool = arguments[0]
        try:
            self._process = subprocess.Popen(
                [find_tool(self.tool), *arguments[1:]],
                env=dict(environment),
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE if stdout else subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                bufsize=0,
            )
        except OSError as error:
            raise Refused(
                f"{self.tool} can't be started ({error.strerror}); install PostgreSQL's client tools.",
                reason=Reason.VERSION_UNSUPPORTED,
            ) from None
        self._lines: deque[str] = deque(maxlen=50)
        self._on_line = on_line
        assert self._process.stderr is not None
        self._reader = threading.Thread(target=self._read_errors, args=(self._process.stderr,), daemon=True)
        self._reader.start()
        if self._process.stdin is not None:
            os.set_blocking(self._process.stdin.fileno(), False)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # the user's limit of pipe memory: 64 KiB will do
                    fcntl.fcntl(pipe.fileno(), _F_SETPIPE_SZ, _PIPE)

    def copy_out(self, write: Callable[[memoryview], None], stop: Stop) -> None:
        """Everything it prints, in pieces; returns at its end of file."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        buffer = bytearray(_PIPE)
        view = memoryview(buffer)
        while True:
            self._wait(fd, stop, writing=False)
            count = os.readv(fd, [buffer])
            if count == 0:
                return
            write(view[:count])

    def feed(self, data: bytes | memoryview, stop: Stop) -> bool:
        """Write all of `data`; False when it no longer reads, which means that it has failed."""
        assert self._process.stdin is not None
        fd = self._process.stdin.fileno()
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(fd, view) :]
            except BlockingIOError:
                self._wait(fd, stop, writing=True)
            except BrokenPipeError:
                return False
        return True

    def end_input(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def wait(self, stop: Stop) -> int:
        """Its exit code, after everything it said was read."""
        while True:
            try:
                code = self._process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                stop.check()
                continue
            self._reader.join(timeout=10)
            return code

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """Never raises; nothing of it is left when this returns."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join(timeout=10)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    @property
    def complaint(self) -> str:
        """What it said about its failure: its lines with an error, or its last one."""
        lines = list(self._lines)
        errors = [line for line in lines if re.search(r"\b(error|fatal|ERROR|FATAL)\b", line)]
        return " ".join(errors[:3] or lines[-1:])[:600] or "it said nothing"

    def _wait(self, fd: int, stop: Stop, *, writing: bool) -> None:
        began = time.monotonic()
        poll = select.poll()
        poll.register(fd, select.POLLOUT if writing else select.POLLIN)
        while not poll.poll(500):
            stop.check()
            if time.monotonic() - began > STALL:
                raise Unavailable(
                    f"{self.tool} made no progress for {STALL:.0f} s; look at locks and at the server.",
                    reason=Reason.SOURCE_CHANGED,
                )
        stop.check()

    def _read_errors(self, pipe: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):  # closed under us by kill
            for raw in iter(pipe.readline, b""):
                line = raw.decode(errors="replace").rstrip()
                if line:
                    self._lines.append(line)
                    self._on_line(line)


def find_tool(tool: str) -> str:
    """Its path: PATH first, then where Debian keeps each version's programs, the newest first.

    Raises Refused (VersionUnsupported).
    """
    if (found := shutil.which(tool)) is not None:
        return found
    folders = Path("/usr/lib/postgresql").glob("*/bin")
    for folder in sorted(folders, key=lambda p: (len(p.parent.name), p.parent.name), reverse=True):
        if (folder / tool).exists():
            return str(folder / tool)
    raise Refused(
        f"{tool} is not installed here; install PostgreSQL's client tools (and contrib, for pg_amcheck).",
        reason=Reason.VERSION_UNSUPPORTED,
    )


def tool_version(tool: str) -> tuple[int, int]:
    """(17, 6) of `pg_dump (PostgreSQL) 17.6`. Raises Refused (VersionUnsupported)."""
    try:
        text = subprocess.run(
            [find_tool(tool), "--version"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        raise Refused(
            f"{tool} is not there or does not run; install PostgreSQL's client tools.",
            reason=Reason.VERSION_UNSUPPORTED,
        ) from None
    match = re.search(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?", text)
    if match is None:
        raise Refused(f"{tool} tells no version: {text.strip()[:100]}", reason=Reason.VERSION_UNSUPPORTED)
    return int(match[1]), int(match[2] or 0)
