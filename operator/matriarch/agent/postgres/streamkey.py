"""TLS files for PostgreSQL, and the folder without which no WAL receiver can connect.

Kubernetes mounts a Secret with modes and links that PostgreSQL refuses for a key, so there are copies. The receiver
has its own copy, beside the service file that names it: a promise removes both, and puts them back nowhere else.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from matriarch.agent.postgres import files
from matriarch.postgres.conninfo import SERVICE_FILE, render_service
from matriarch.postgres.outside import FILES, PASS_FILE, render_pass_file, render_source_service

if TYPE_CHECKING:
    from matriarch.agent.postgres.facts import Paths

_FILES = ("ca.crt", "tls.crt", "tls.key")


def copy_tls(paths: Paths) -> bool:
    """The mounted certificate into the server's folder; True if something differed."""
    paths.tls.mkdir(mode=0o700, parents=True, exist_ok=True)
    changed = [files.write_durably(paths.tls / name, (paths.secret / name).read_bytes()) for name in _FILES]
    other = False
    with suppress(ValueError):
        _, other = copy_source_keys(paths)
    if (any(changed) or other) and (paths.stream / SERVICE_FILE).exists():
        put(paths)
    return any(changed)


def copy_source_keys(paths: Paths) -> tuple[tuple[str, ...], bool]:
    """What opens the source, as far as it is mounted, in the modes that libpq wants; and whether something differed.

    Raises ValueError for a password that no file can hold.
    """
    present = tuple(name for name in FILES if (paths.source / name).exists())
    if not present:
        return (), False
    paths.source_keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    changed = [
        files.write_durably(paths.source_keys / name, (paths.source / name).read_bytes())
        for name in present
        if name != "password"
    ]
    if "password" in present:
        line = render_pass_file((paths.source / "password").read_text().rstrip("\n"))
        changed.append(files.write_durably(paths.source_keys / PASS_FILE, line))
    return present, any(changed)


def put(paths: Paths) -> None:
    """What a receiver needs, the service file last."""
    paths.stream.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in _FILES:
        files.write_durably(paths.stream / name, (paths.tls / name).read_bytes())
    service = render_service(str(paths.stream))
    with suppress(ValueError):  # of the source's password: said where the source is asked, and no member's business
        if present := copy_source_keys(paths)[0]:
            service += render_source_service(str(paths.source_keys), present)
    files.write_durably(paths.stream / SERVICE_FILE, service)


def take_away(paths: Paths) -> None:
    """From here on no new receiver connects. The service file goes first."""
    if paths.stream.is_dir():
        for name in (SERVICE_FILE, "tls.key", "tls.crt", "ca.crt"):
            (paths.stream / name).unlink(missing_ok=True)
