"""What a Job tells of its progress while it works, and at its end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from matriarch.backup import job as module
from matriarch.backup.job import Job
from matriarch.backup.jobresult import Result
from matriarch.errors import Unavailable
from matriarch.kube import client
from tests.unit.test_backup_jobspec import SPEC


@dataclass
class Api:
    """Remembers what it was told; with `away`, nothing."""

    away: bool = False
    told: list[Mapping[str, Any]] = field(default_factory=list)

    async def apply_status(self, obj: Mapping[str, Any], **_: object) -> None:
        if self.away:
            raise Unavailable("the API server is away")
        self.told.append(obj["status"]["progress"])

    async def close(self) -> None: ...


class Copying(Job):
    """Half of its work is done when it ends."""

    seconds = 0.2

    async def _work(self) -> Result:
        self.tracker.step("Copying", bytes_total=100)
        self.tracker.bytes_done = 50
        await asyncio.sleep(self.seconds)
        return Result(ok=True, task="backup", reason="Completed", message="")


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    made = Api()
    monkeypatch.setattr(module, "EVERY", 0.05)
    monkeypatch.setattr(client.Kube, "connect", lambda **_: made)
    return made


async def test_the_last_word_is_of_the_end(api: Api) -> None:
    assert (await Copying(SPEC).run()).ok
    assert (api.told[0]["step"], api.told[0]["percent"]) == ("Copying", 50)
    assert api.told[-1]["step"] == "Done"
    assert "percent" not in api.told[-1], "what is over has no share that is done"


async def test_a_job_that_is_over_in_a_moment_tells_nothing(api: Api) -> None:
    job = Copying(SPEC)
    job.seconds = 0.0
    assert (await job.run()).ok
    assert api.told == []


async def test_an_api_server_that_is_away_holds_up_no_job(api: Api) -> None:
    api.away = True
    async with asyncio.timeout(20):
        assert (await Copying(SPEC).run()).ok


async def test_a_job_that_failed_leaves_where_it_was(api: Api) -> None:
    class Failing(Copying):
        async def _work(self) -> Result:
            return replace(await Copying._work(self), ok=False)

    assert not (await Failing(SPEC).run()).ok
    assert api.told[-1]["step"] == "Copying"
