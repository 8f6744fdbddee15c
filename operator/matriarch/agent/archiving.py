"""Keeps the archiver running beside this agent, tells it whether this member leads, and remembers what it says.

The archiver is a process of its own (see archive/main.py for why). Nothing else of the agent waits for it: this task
alone talks to it, and the loop and the elections know neither it nor the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from typing import Any

from matriarch.agent.config import ArchiveWish
from matriarch.agent.instance import Instance
from matriarch.archive.config import ENVIRONMENT, KEY_FOLDER, SOCKET, STORE_FOLDER, ArchiveConfig
from matriarch.backup.jobspec import ClusterIdentity, GcsStore, ObjectLock, S3Store, StoreSpec
from matriarch.errors import Unavailable

log = logging.getLogger(__name__)

EVERY = 1.0  # seconds between two words with the archiver
ANSWER = 5.0
SILENCE = 60.0  # an archiver that says nothing for so long is started again
LONGEST_PAUSE = 10.0
LAST_WORDS = 5.0  # when the Pod ends: for what PostgreSQL finished as it stopped
_LINE = 1 << 16


class Archiving:
    """One for each agent; `socket` is for tests."""

    def __init__(self, instance: Instance, socket: str = SOCKET) -> None:
        self._instance, self._socket = instance, socket
        self._process: asyncio.subprocess.Process | None = None
        self._wish: ArchiveWish | None = None
        self._woken: int | None = None

    async def keep(self) -> None:
        """Until cancelled."""
        pause = EVERY
        heard = asyncio.get_running_loop().time()
        while True:
            config = self._instance.config
            wish = config.archive if config is not None else None
            now = asyncio.get_running_loop().time()
            if wish != self._wish or now - heard > SILENCE:
                await self.stop()
                self._wish, heard = wish, now
            if wish is None:
                self._instance.archive = None
            elif self._process is None or self._process.returncode is not None:
                if self._process is not None:
                    self._instance.archive = None
                    log.warning("the archiver ended with %s and is started again", self._process.returncode)
                    pause = min(2 * pause, LONGEST_PAUSE)
                await self._start(wish)
            else:
                try:
                    self._instance.archive = await self._speak()
                    heard, pause = now, EVERY
                except (OSError, ValueError, TimeoutError) as error:
                    log.debug("the archiver: %s", error)
            if wish is not None:
                self._wake_checkpointer()
            await asyncio.sleep(pause)

    def _wake_checkpointer(self) -> None:
        """Once for each start of a primary: archive_timeout counts from then on.

        PostgreSQL's checkpointer starts before the recovery is over, when that limit is not in force yet, and then
        sleeps for up to checkpoint_timeout (5 minutes) without it. A reload wakes it.
        """
        pid = self._instance.server.postmaster()
        if pid is not None and pid != self._woken and self._instance.server_role == "primary":
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP)
            self._woken = pid

    async def close(self) -> None:
        """The Pod ends, and PostgreSQL has: what it finished last is stored if that is quickly done."""
        with contextlib.suppress(OSError, ValueError, TimeoutError):
            async with asyncio.timeout(LAST_WORDS):
                while self._process is not None and (await self._speak())["pending"]:  # noqa: ASYNC110 - in a process
                    await asyncio.sleep(0.1)
        await self.stop()

    async def stop(self) -> None:
        """At once: whatever is under way is either stored or done again later."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _start(self, wish: ArchiveWish) -> None:
        environment = {**os.environ, ENVIRONMENT: config_for(self._instance, wish, self._socket).to_json()}
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "matriarch.archive.main", env=environment, stdin=asyncio.subprocess.DEVNULL
            )
        except OSError as error:
            raise Unavailable(f"the archiver cannot be started: {error}") from error

    async def _speak(self) -> dict[str, Any]:
        word = "leads" if self._instance.is_holder else "follows"
        async with asyncio.timeout(ANSWER):
            reader, writer = await asyncio.open_unix_connection(self._socket, limit=_LINE)
            try:
                writer.write(f"status {word}\n".encode())
                told = json.loads(await reader.readline())
            finally:
                writer.close()
        if not isinstance(told, dict):
            raise TypeError("the archiver says no object")
        return told


def config_for(instance: Instance, wish: ArchiveWish, socket: str = SOCKET) -> ArchiveConfig:
    """What the archiver is told. Credentials and keys are files of the Pod."""
    env, paths = instance.env, instance.server.paths
    return ArchiveConfig(
        cluster=ClusterIdentity(
            namespace=env.namespace, name=env.cluster, uid=instance.config.uid if instance.config is not None else ""
        ),
        store=_store(wish),
        own_folder=True,
        pgdata=str(paths.pgdata),
        keys=wish.keys,
        key_folder=KEY_FOLDER,
        socket=socket,
        spool=str(paths.volume / "archive-spool"),
        max_rate=wish.max_rate,
    )


def _store(wish: ArchiveWish) -> StoreSpec:
    if wish.kind == "gcs":
        return StoreSpec(
            gcs=GcsStore(
                bucket=wish.bucket,
                prefix=wish.prefix,
                project=wish.project,
                endpoint=wish.endpoint,
                credentials=STORE_FOLDER,
            )
        )
    return StoreSpec(
        s3=S3Store(
            bucket=wish.bucket,
            prefix=wish.prefix,
            region=wish.region,
            endpoint=wish.endpoint,
            path_style=wish.path_style,
            credentials=STORE_FOLDER,
            lock=_lock(wish.lock),
        )
    )


def _lock(asked: tuple[str, int] | None) -> ObjectLock | None:
    if asked is None:
        return None
    return ObjectLock(mode="GOVERNANCE" if asked[0] == "GOVERNANCE" else "COMPLIANCE", days=asked[1])
