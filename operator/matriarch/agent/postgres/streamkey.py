"""TLS files for PostgreSQL, and the folder without which no WAL receiver can connect.

Kubernetes mounts a Secret with modes and links that PostgreSQL refuses for a key, so there are copies. The receiver
has its own copy, beside the service file that names it: a promise removes both, and puts them back nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from matriarch.agent.postgres import files
from matriarch.postgres.conninfo import SERVICE_FILE, render_service

if TYPE_CHECKING:
    from matriarch.agent.postgres.facts import Paths

_FILES = ("ca.crt", "tls.crt", "tls.key")


def copy_tls(paths: Paths) -> bool:
    """The mounted certificate into the server's folder; True if something differed."""
    paths.tls.mkdir(mode=0o700, parents=True, exist_ok=True)
    changed = [files.write_durably(paths.tls / name, (paths.secret / name).read_bytes()) for name in _FILES]
    if any(changed) and (paths.stream / SERVICE_FILE).exists():
        put(paths)
    return any(changed)


def put(paths: Paths) -> None:
    """What a receiver needs, the service file last."""
    paths.stream.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in _FILES:
        files.write_durably(paths.stream / name, (paths.tls / name).read_bytes())
    files.write_durably(paths.stream / SERVICE_FILE, render_service(str(paths.stream)))


def take_away(paths: Paths) -> None:
    """From here on no new receiver connects. The service file goes first."""
    if paths.stream.is_dir():
        for name in (SERVICE_FILE, "tls.key", "tls.crt", "ca.crt"):
            (paths.stream / name).unlink(missing_ok=True)
