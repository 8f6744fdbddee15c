"""The process of a recovery's Job: `python -m matriarch.recovery.job`, told and heard as backup/job.py is.

Two tasks. `verify` with a moment says whether backup and archive lead there, and changes nothing. `recover` fills the
volume of a new cluster's first instance.
"""

from __future__ import annotations

import asyncio

from matriarch.backup.job import Job, describe, main
from matriarch.backup.jobresult import Result
from matriarch.backup.jobspec import Reason
from matriarch.backup.keys import Kek
from matriarch.backup.store import Store, open_store
from matriarch.errors import Refused
from matriarch.postgres.lsn import format_lsn
from matriarch.recovery.volume import Request, answered, recover
from matriarch.recovery.way import find_way


class RecoveryJob(Job):
    """One run."""

    async def _work(self) -> Result:
        spec = self.spec
        keys = await asyncio.to_thread(self._keys)
        store = open_store(spec.store, self.stop)
        if spec.task == "verify":
            return await asyncio.to_thread(self._check, store, keys)
        if spec.recover is None:
            raise Refused(f"Task {spec.task} is not a recovery's.", reason=Reason.BAD_SPEC)
        request = Request(
            spec=spec,
            task=spec.recover,
            store=store,
            keys=keys,
            key_folder=self.folder,
            tracker=self.tracker,
            stop=self.stop,
        )
        done = await recover(request)
        message = answered(done, spec.recover.moment)
        return Result(ok=True, task="recover", reason=Reason.COMPLETED, message=message, recover=done)

    def _check(self, store: Store, keys: tuple[Kek, ...]) -> Result:
        task = self.spec.verify
        if task is None or task.moment is None:
            raise Refused("A recovery's check needs a moment.", reason=Reason.BAD_SPEC)
        way = find_way(
            store,
            task.backup,
            keys,
            task.moment,
            allow_unencrypted=task.allow_unencrypted,
            manifest_sha256=task.manifest_sha256,
        )
        message = f"{way.opened.body.name} and all of its objects are there"
        if way.route is not None:
            message += f", and WAL leads on to {format_lsn(way.route.end)} on timeline {way.route.timeline}"
        return Result(
            ok=True, task="verify", reason=Reason.COMPLETED, message=f"{message}.", backup=describe(store, way.opened)
        )


if __name__ == "__main__":
    main(RecoveryJob)
