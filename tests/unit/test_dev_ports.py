"""A port that a test has is nobody else's, also while the server of that test is away for a moment."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from dev import ports
from dev.host import DevError

ADDRESS = "127.0.0.1"


def test_a_server_listens_where_the_port_is_kept_and_comes_back_there() -> None:
    port = ports.free_port(ADDRESS)
    for _ in range(2):
        # With SO_REUSEADDR, as Go's and asyncio's servers.
        with socket.create_server((ADDRESS, port)) as server, socket.create_connection((ADDRESS, port)):
            server.accept()[0].close()


def test_no_other_process_is_given_it(monkeypatch: pytest.MonkeyPatch) -> None:
    port = ports.free_port(ADDRESS)
    asks = f"""
from dev import ports
ports.RANGE = ({port}, {port + 1})
ports.free_port("{ADDRESS}")
"""
    done = subprocess.run([sys.executable, "-c", asks], check=False, capture_output=True, text=True, timeout=60)
    assert "is free" in done.stderr
    monkeypatch.setattr(ports, "RANGE", (port, port + 1))
    with pytest.raises(DevError, match="is free"):
        ports.free_port(ADDRESS)
