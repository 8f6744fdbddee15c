"""What PostgreSQL runs with: the cluster's configuration, and the limits of this container."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import get_args

from matriarch.agent.instance import Instance
from matriarch.decide.logical import waited_for
from matriarch.errors import Unavailable
from matriarch.postgres.conninfo import slot_name
from matriarch.postgres.preload import DOOR, SYNC_WAIT, Door, split_by_presence
from matriarch.postgres.settings import ServerSettings

log = logging.getLogger(__name__)

VOLUME = "/var/lib/matriarch"
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
NO_LIMIT = 1 << 50


def server_settings(instance: Instance, names: str, *, door: Door) -> ServerSettings:
    """The settings for the next start or reload. `names`: synchronous_standby_names at a start."""
    config = instance.config
    assert config is not None
    preload, missing = split_by_presence(config.preload, _libraries(instance.server.paths.bin.parent / "lib"))
    instance.warnings.pop("libraries", None)
    if missing:
        instance.warnings["libraries"] = _without(missing)
    return ServerSettings(
        parameters=config.parameters,
        standby_names=names,
        preload=preload,
        memory=_memory_limit(),
        volume=instance.space.total_bytes or _volume_size(),
        standby_slots=tuple(slot_name(m.instance) for m in waited_for(instance.lease)) if instance.lease else (),
        delay=config.delays.get(instance.env.instance, 0),
        read_only=instance.space.writes_stopped,
        summarize=instance.summarizes,
        superuser_access=config.superuser_access,
        archive=config.archive is not None,
        door=door,
    )


async def apply_config(instance: Instance, names: str, *, door: Door) -> None:
    """Bring PostgreSQL to the configuration and the door as they are now. Raises Unavailable."""
    async with instance.applying:
        await _apply(instance, names, door)


async def _apply(instance: Instance, names: str, door: Door) -> None:
    config = instance.config
    if config is None:
        return
    if door == "open" and config.closed_by:
        door = "closed"
    here = (instance.space.total_bytes, instance.space.writes_stopped, instance.summarizes)
    wanted = (config, door, *here)
    if instance.applied == wanted and not instance.server.held_up:
        return
    only_the_door = instance.applied in [(config, other, *here) for other in get_args(Door) if other != door]
    instance.applied = None  # what fails below is done again
    if only_the_door:  # nobody may wait for the rest of it
        await instance.server.set_door(door)
    else:
        await instance.server.configure(server_settings(instance, names, door=door))
    if door == "closed":
        await _send_clients_away(instance)
    instance.closed_by = config.closed_by if door == "closed" else ""
    instance.applied = wanted


async def _send_clients_away(instance: Instance) -> None:
    """From a standby as far as they go: who reads there writes nothing, and a standby has other things to do."""
    try:
        await instance.server.send_clients_away()
    except Unavailable as e:
        if instance.server_role == "primary":
            raise
        log.info("%s", e)


def _libraries(folder: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return [file.name for file in folder.iterdir() if file.suffix == ".so"]
    return []


def _without(missing: tuple[str, ...]) -> str:
    text = f"the image lacks {', '.join(missing)}, so PostgreSQL runs without"
    if SYNC_WAIT in missing:
        text += "; a cancelled wait for replication is answered as a success with a warning"
    if DOOR in missing:
        text += "; clients are refused, and do not wait, while a new primary gets ready"
    return text


def _memory_limit() -> int:
    """Bytes that the container may use; 0 when there is no limit (cgroup v1 says so by a huge number)."""
    for path in LIMITS:
        with contextlib.suppress(OSError, ValueError):
            limit = int(Path(path).read_text())
            return limit if limit < NO_LIMIT else 0
    return 0


def _volume_size() -> int:
    with contextlib.suppress(OSError):
        found = os.statvfs(VOLUME)
        return found.f_blocks * found.f_frsize
    return 0
