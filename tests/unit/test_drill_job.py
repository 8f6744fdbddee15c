"""The drill's Job and what its words become: in the status, in figures, in alerts."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from matriarch.backup.drillspec import DrillQuery, DrillResult, DrillTask
from matriarch.backup.jobresult import Result
from matriarch.backup.jobspec import ClusterIdentity, JobSpec, LocalStore, Reason, StoreSpec
from matriarch.cli.drill import record_of
from matriarch.controller.backup_around import _drilled
from matriarch.controller.drill_status import figures
from matriarch.controller.metrics import Metrics
from matriarch.drill.server import Throwaway
from matriarch.drill.settings import last_word, settings
from matriarch.postgres.catalogue_17 import PARAMETERS
from matriarch.resources.drilljob import FOLDER, DrillVolume, DrillWish, drill_job
from tests.unit.test_job import WISH

DRILL = DrillWish(timeout=600, volume=DrillVolume(size="5Gi", needed=1 << 30))


def pod(drill: DrillWish = DRILL, **wish: Any) -> dict[str, Any]:
    from dataclasses import replace

    found: dict[str, Any] = drill_job(replace(WISH, tls=None, **wish), drill)["spec"]["template"]["spec"]
    return found


def test_it_can_change_nothing_but_its_own_volume() -> None:
    made = pod(claim="orders-store-main")
    assert made["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in made
    (container,) = made["containers"]
    writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
    assert writable == {"/tmp", FOLDER}
    assert not any(m["name"] == "tls" for m in container["volumeMounts"]), "nothing that a server would let in"
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_it_comes_to_an_end() -> None:
    spec = drill_job(WISH, DRILL)["spec"]
    assert spec["activeDeadlineSeconds"] > DRILL.timeout
    assert 0 < spec["backoffLimit"] < 5
    assert spec["ttlSecondsAfterFinished"] > 3600, "its log is looked for after a night"
    # An instance that outgrows its node is evicted each time: such pods must count.
    assert [rule["action"] for rule in spec["podFailurePolicy"]["rules"]] == ["FailJob"]


def test_the_volume_goes_with_the_pod() -> None:
    (volume,) = [v for v in pod()["volumes"] if v["name"] == "drill"]
    assert volume["emptyDir"] == {"sizeLimit": "5Gi"}
    assert pod()["containers"][0]["resources"]["requests"]["ephemeral-storage"] == str(1 << 30)
    made = pod(DrillWish(timeout=1, volume=DrillVolume(size="5Gi", needed=1, storage_class="fast")))
    (volume,) = [v for v in made["volumes"] if v["name"] == "drill"]
    spec = volume["ephemeral"]["volumeClaimTemplate"]["spec"]
    assert (spec["storageClassName"], spec["resources"]["requests"]["storage"]) == ("fast", "5Gi")
    assert "ephemeral-storage" not in made["containers"][0]["resources"]["requests"]


@pytest.mark.parametrize(
    ("requests", "limits", "memory"),
    [
        ({}, {}, ("512Mi", "1Gi")),
        ({}, {"memory": "256Mi"}, (None, "256Mi")),
        ({"memory": "4Gi"}, {}, ("4Gi", None)),
        ({"memory": "2Gi"}, {"memory": "3Gi"}, ("2Gi", "3Gi")),
    ],
)
def test_defaults_never_contradict_what_is_given(
    requests: dict[str, str], limits: dict[str, str], memory: tuple[str | None, str | None]
) -> None:
    found = pod(DrillWish(timeout=1, volume=DRILL.volume, requests=requests, limits=limits))["containers"][0][
        "resources"
    ]
    assert (found["requests"].get("memory"), found["limits"].get("memory")) == memory


def test_the_task_survives_its_json() -> None:
    task = DrillTask(
        backup="b", method="physical", folder="/d", archive=True, archived_to="0/3000148",
        queries=(DrillQuery(name="q", sql="SELECT 'ä'", database="app", expect=""),),
    )  # fmt: skip
    cluster = ClusterIdentity(namespace="prod", name="orders", uid="u")
    spec = JobSpec(task="drill", cluster=cluster, store=StoreSpec(local=LocalStore(path="/x")), drill=task)
    assert JobSpec.from_json(spec.to_json()) == spec


def test_every_setting_is_one_of_postgresql_s() -> None:
    known = {row.partition("|")[0] for row in PARAMETERS.splitlines()}
    assert set(settings("/s", "/h", "/i", 0)) <= known


@pytest.mark.parametrize(
    ("log", "word"),
    [
        ("", "it said nothing"),
        ("LOG:  starting\nLOG:  database system is shut down\n", "LOG:  database system is shut down"),
        (
            'FATAL:  the database system is starting up\nFATAL:  could not restore file "x"\nLOG:  bye\n',
            'FATAL:  could not restore file "x"',
        ),
        (
            "FATAL:  the database system is not accepting connections\nDETAIL:  It is off.\nPANIC:  WAL is odd\n",
            "PANIC:  WAL is odd",
        ),
    ],
)  # fmt: skip
def test_the_server_s_last_word(log: str, word: str) -> None:
    assert last_word(log) == word


GOOD = {
    "result": "Passed", "finishedAt": "2026-11-25T00:00:10Z", "downloadSeconds": 3.5, "replaySeconds": 9.0,
    "checkSeconds": 2.0, "rtoSeconds": 12.5, "rpoSeconds": 41.0,
}  # fmt: skip
FAILED = {"result": "Failed", "reason": "WalMissing", "finishedAt": "2026-11-26T00:00:10Z"}


def test_figures_of_a_schedule() -> None:
    assert figures({}, overdue=False) == {}, "no drill was asked for"
    found = figures({"lastDrill": FAILED, "drills": [FAILED, GOOD]}, overdue=True)
    metrics = Metrics(schedules={("prod", "orders", "nightly"): found})
    lines = set(metrics.text({}, {}).splitlines())
    place = '{namespace="prod",cluster="orders",schedule="nightly"}'
    wanted = {
        "failed": 1, "overdue": 1, "last_success_timestamp_seconds": 1795564810, "download_seconds": 3.5,
        "replay_seconds": 9, "check_seconds": 2, "rto_seconds": 12.5, "rpo_seconds": 41,
    }  # fmt: skip
    assert {f"matriarch_drill_{name}{place} {value}" for name, value in wanted.items()} <= lines
    metrics.forget_schedule("prod", "nightly")
    assert "nightly" not in metrics.text({}, {})


def test_a_long_result_still_fits() -> None:
    done = DrillResult(
        backup_id="i", backup_name="b", started="2026-11-25T00:00:10.000Z", download=1.0, replay=1.0, checks=1.0,
        size=1, databases=1, tables=1, queries=0, newest_transaction="2026-11-25T00:00:00.000Z", age=10.0,
    )  # fmt: skip
    text = Result(ok=True, task="drill", reason=Reason.COMPLETED, message="ä" * 9000, drill=done).to_json()
    assert len(text.encode()) <= 4096
    assert Result.from_json(text).drill == done


def test_the_command_waits_for_its_own_drill() -> None:
    before = {"status": {"drill": {"handled": "1"}, "lastDrill": GOOD}}
    assert record_of(before, "2") is None
    at_work = {"status": {"drill": {"handled": "2", "active": {"job": "j"}}, "lastDrill": GOOD}}
    assert record_of(at_work, "2") is None
    assert record_of({"status": {"drill": {"handled": "2"}, "lastDrill": FAILED}}, "2") == FAILED
    assert record_of({}, "2") is None


def test_a_drill_proves_a_backup_to_retention() -> None:
    drills = [{"result": "Passed", "backupId": "a"}, {"result": "Failed", "backupId": "b"}, {"result": "Passed"}]
    assert _drilled([{"status": {"drills": drills}}, {}, {"status": {}}]) == {"a"}


def test_a_tool_that_a_stopped_drill_was_about_to_start_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that starts it outlives the task that was cancelled."""
    looked, go = threading.Event(), threading.Event()
    program = tmp_path / "initdb"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)

    def find(_: str) -> str:
        looked.set()
        assert go.wait(10)
        return str(program)

    monkeypatch.setattr("matriarch.drill.server.find_tool", find)
    place = Throwaway(tmp_path / "drill", tmp_path / "sockets")

    async def run() -> None:
        work = asyncio.ensure_future(place.create())
        await asyncio.to_thread(looked.wait, 10)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        stopping = asyncio.ensure_future(asyncio.to_thread(place.stop))
        await asyncio.sleep(0.1)
        go.set()
        await stopping

    asyncio.run(run())  # waits for its threads
    assert not (tmp_path / "ran").exists()
