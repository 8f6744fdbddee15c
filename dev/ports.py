"""TCP ports for servers of tests, several test processes at a time."""

from __future__ import annotations

import atexit
import random
import socket

from dev.host import DevError

RANGE = (20_000, 29_000)
"""Below those that connections begin at: one of theirs may be taken while a server is away for a moment, even by the
connection that asks whether it is back."""

_held: list[socket.socket] = []


def free_port(address: str) -> int:
    """A port that is this process's until it ends: no other call gives it, here or in another process.

    A socket that is bound and never listens keeps it. A server that binds with SO_REUSEADDR, as all of ours do, listens
    there all the same, again and again; a bind without that option is refused (socket(7)).
    """
    for _ in range(200):
        port = random.randrange(*RANGE)
        keeps = socket.socket()
        try:
            keeps.bind((address, port))  # before the option is set: two that ask at once do not both get it
        except OSError:
            keeps.close()
            continue
        keeps.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not _held:
            atexit.register(_close)
        _held.append(keeps)
        return port
    raise DevError(f"no port of {address} from {RANGE[0]} to {RANGE[1]} is free")


def _close() -> None:
    for held in _held:
        held.close()
