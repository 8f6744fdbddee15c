"""The drill's Job: `python -m matriarch.drill.job`, told and answering as the engine's other Jobs are.

A program of its own because it needs the WAL archive's code, which stands above the engine.
"""

from __future__ import annotations

from matriarch.backup import job
from matriarch.backup.drillspec import DrillResult
from matriarch.backup.jobresult import Result
from matriarch.backup.jobspec import Reason
from matriarch.backup.progress import duration
from matriarch.backup.store import open_store
from matriarch.drill.drill import Clock, drill
from matriarch.errors import Refused


class DrillJob(job.Job):
    """One drill."""

    async def _work(self) -> Result:
        task = self.spec.drill
        if task is None:
            raise Refused("This program makes drills and nothing else.", reason=Reason.BAD_SPEC)
        clock = Clock()
        self.tracker = clock
        done = await drill(self.spec, task, open_store(self.spec.store, self.stop), self._keys(), clock, self.stop)
        message = sentence(done, task.method)
        return Result(ok=True, task="drill", reason=Reason.COMPLETED, message=message, drill=done)


def sentence(done: DrillResult, method: str) -> str:
    what = "replay" if method == "physical" else "load"
    return (
        f"{done.backup_name} came back in {duration(done.recovery)} ({duration(done.download)} to fetch and "
        f"{duration(done.replay)} to {what} it). {done.tables} tables: pg_amcheck and {done.queries} queries found no "
        f"fault. The newest transaction is of {done.newest_transaction}."
    )


if __name__ == "__main__":
    job.main(DrillJob)
