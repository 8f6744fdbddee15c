"""The archiver's process: `python -m matriarch.archive.main`, started and restarted by the agent, or by a restore.

A process and not a thread of the agent: compression and boto3 hold the interpreter for moments that a failover does not
have, and when memory runs out it is this process that the kernel shall end, not the agent and not PostgreSQL. It runs
with a low priority for the same reason. Killing it at any moment loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from pathlib import Path

from matriarch.archive.archiver import Archiver
from matriarch.archive.config import ENVIRONMENT, ArchiveConfig
from matriarch.archive.door import serve
from matriarch.archive.fetching import Fetcher
from matriarch.archive.keyring import Keyring
from matriarch.archive.report import Reason
from matriarch.archive.vault import Throttle, Vault
from matriarch.archive.walfolder import WalFolder
from matriarch.backup.jobspec import Reason as StoreReason
from matriarch.backup.jobspec import StoreSpec
from matriarch.backup.keys import Kek
from matriarch.backup.stop import Stop
from matriarch.backup.store import open_store
from matriarch.errors import Corrupt, Refused, Unavailable

log = logging.getLogger("matriarch.archive")

_NICE = 5  # below the agent and the heartbeat, beside PostgreSQL's own processes
_OOM_SCORE = 900  # of 1000: the first to go
_PARENT_EVERY = 1.0  # seconds between looks at whether the parent is still there
_DATA_EVERY = 1.0  # seconds between looks at which database system is here
_STORE_OUTAGE = 20.0  # seconds that a call waits for a store; the archiver's own back-off goes on from there


def make_vault(config: ArchiveConfig, system: int, stop: Stop, given: tuple[Kek, ...] | None = None) -> Vault:
    """`given`: in place of the keys that the configuration names.

    Raises Refused when a key can't be read: nothing is ever stored in the clear because of that.
    """

    def read_keys() -> list[Kek]:
        return [Kek.read(Path(config.key_folder) / name) for name in config.keys]

    keys = given if given is not None else read_keys()
    if keys and not keys[0].opens:
        # A file that is stored already is compared by a digest under its data key, which has to be opened for that.
        raise Refused(
            f"The WAL archive has to read what it wrote, and key {keys[0].id} is a public key, which can't; give the "
            "archive's store a key of its own, or the private key.",
            reason=StoreReason.BAD_KEY,
        )
    store = open_store(_with_folder(config, system), stop, outage=_STORE_OUTAGE, connections=config.parallel + 2)
    store.check()
    return Vault(
        store,
        Keyring(keys, time.time, None if given is not None else read_keys),
        system=system,
        cluster=config.cluster,
        level=config.level,
        before_put=Throttle(config.max_rate, stop.sleep) if config.max_rate else lambda _: None,
    )


def _with_folder(config: ArchiveConfig, system: int) -> StoreSpec:
    if not config.own_folder:
        return config.store
    return config.store.below(f"{config.cluster.namespace}/{config.cluster.name}-{system}")


async def _parent_ends(parent: int) -> None:
    """Until the process that started this one is gone. An agent that was killed is followed by another one, with an
    archiver of its own; this one would go on by a role that nobody corrects."""
    while os.getppid() == parent:  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(_PARENT_EVERY)


async def _other_data_comes(folder: WalFolder) -> None:
    """Until the data directory holds another database system. Everything here is of the one that was there: the folder
    of the archive, what was fetched ahead, what is known to be stored."""
    while True:
        try:
            await asyncio.to_thread(folder.own_system)
        except (Unavailable, Corrupt) as error:  # or there is no data, or half a file of it
            if error.reason == Reason.OTHER_SYSTEM:
                log.info("%s; the archiver ends and is started for that", error)
                return
        await asyncio.sleep(_DATA_EVERY)


async def amain(config: ArchiveConfig, keys: tuple[Kek, ...] | None = None) -> None:
    """Until it is told to end, or its parent does. `keys` as for `make_vault`."""
    parent = os.getppid()
    stop, folder = Stop(), WalFolder(Path(config.pgdata))
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    archiver = None
    if config.mode == "archive":
        archiver = Archiver(
            folder,
            lambda system: make_vault(config, system, stop, keys),
            parallel=config.parallel,
            leads=config.leads,
            patience=config.patience,
        )
    fetcher = Fetcher(
        lambda: make_vault(config, folder.own_system(), stop, keys),
        folder.own_system,
        Path(config.spool),
        prefetch=config.prefetch,
        parallel=config.parallel,
    )
    await serve(Path(config.socket), archiver, fetcher)
    running = asyncio.create_task(archiver.run()) if archiver is not None else None
    ends = (ended.wait(), _parent_ends(parent), _other_data_comes(folder))
    waits: list[asyncio.Task[object]] = [asyncio.create_task(end) for end in ends]
    waits += [running] if running is not None else []
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    if running is not None and running.done():
        running.result()  # a bug: whoever started this process sees it end, and starts another one


def main() -> None:
    logging.basicConfig(
        level=os.environ.get("MATRIARCH_LOG_LEVEL", "INFO"),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    status = 0
    try:
        asyncio.run(amain(ArchiveConfig.from_json(os.environ[ENVIRONMENT])))
    except Exception:
        log.exception("the archiver ends")
        status = 1
    finally:
        os._exit(status)  # a call to a store that hangs would keep its thread, and with it the process, for a minute


if __name__ == "__main__":
    main()
