"""Takes the heartbeat's place in a Pod of namespaces: sends the supervisor what a test writes to `deadline`.

The file holds nanoseconds from now, or "hang" for a heartbeat that says nothing any more.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

from matriarch.agent import fuse
from matriarch.agent.clock import boottime


def main(wanted: Path) -> None:
    line = socket.socket(fileno=int(os.environ[fuse.ENVIRONMENT]))
    told = ""
    while True:
        text = wanted.read_text() if wanted.exists() else ""
        while text == "hang":
            wanted.unlink()
            time.sleep(3600)
        if text and text != told:
            told = text
            deadline = boottime() + int(text)
            line.send(fuse.pack(1, deadline))
            (wanted.parent / "deadline.sent").write_text(str(deadline))
        line.send(fuse.pack(1, None))
        time.sleep(0.02)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
