"""The command line: what it shows of a status, what it refuses, and that a store on a disk can be listed by it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from matriarch.api.model import refusals
from matriarch.api.restore import RecoveryTarget
from matriarch.backup.jobspec import GcsStore, Reason
from matriarch.cli import bare, terminal
from matriarch.cli import cluster as commands
from matriarch.cli.cluster import recovery_target, render_status
from matriarch.cli.terminal import Exit
from matriarch.decide.pitr import Target
from matriarch.errors import Corrupt, Refused, Unavailable

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)


def matriarch(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
    return subprocess.run(
        [sys.executable, "-m", "matriarch.cli.main", *arguments],
        env={**kept, "PYTHONPATH": "operator", "KUBECONFIG": "/nonexistent", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        pytest.param(("backup",), Exit.USAGE, "Say what to back up", id="nothing to back up"),
        pytest.param(("backup", "--url", "postgresql://x"), Exit.USAGE, "--url and --store", id="no store"),
        pytest.param(("backups",), Exit.USAGE, "either NAME", id="nothing to list"),
        pytest.param(("backups", "a", "--store", "b"), Exit.USAGE, "either NAME", id="both"),
        pytest.param(("restore", "--store", "b"), Exit.USAGE, "--to", id="no target"),
        pytest.param(("restore", "a"), Exit.USAGE, "--from", id="no source"),
        pytest.param(
            ("restore", "a", "--from", "b", "--as", "c", "--target-xid", "7"),
            Exit.USAGE,
            "--wal-archive",
            id="a moment and no archive",
        ),
        pytest.param(
            ("restore", "a", "--from", "b", "--as", "c", "--skip-safety-backup"),
            Exit.USAGE,
            "--in-place",
            id="no safety backup of what is new",
        ),
        pytest.param(
            ("restore", "a", "--from", "b", "--as", "c", "--application", "app=a"), Exit.USAGE, "--in-place", id="new"
        ),
        pytest.param(
            ("restore", "a", "--from", "b", "--in-place", "--application", "app"), Exit.USAGE, "labels", id="no label"
        ),
        pytest.param(("backups", "--store", "s3://"), Exit.USAGE, "names no bucket", id="no bucket"),
        pytest.param(("backups", "--store", "ftp://x/y"), Exit.USAGE, "is no store", id="no store of ours"),
        pytest.param(("backups", "--store", "gs:///x"), Exit.USAGE, "names no bucket", id="no bucket at Google"),
        pytest.param(
            ("backups", "--store", "gs://b/p?as-of=2026-03-01T14:05:00Z"), Exit.USAGE, "S3 buckets only", id="no past"
        ),
        pytest.param(("backups", "--store", "gs://b?x=1"), Exit.USAGE, "what no store has", id="no such wish"),
        pytest.param(("backups", "--store", "/no/such/folder"), Exit.NOT_FOUND, "does not exist", id="no folder"),
        pytest.param(("backups", "--store", ".", "-o", "yaml"), Exit.USAGE, "text or json", id="output"),
        pytest.param(
            ("verify", "--store", ".", "--recovery", "--backup", "x"), Exit.USAGE, "leave --backup", id="one or all"
        ),
        pytest.param(("expire", "--store", "/no/such/folder"), Exit.NOT_FOUND, "does not exist", id="no archive"),
        pytest.param(
            ("keys", "rotate", "--store", ".", "--new-key", "/no/such/key"), Exit.USAGE, "can't be read", id="no key"
        ),
        pytest.param(("nonsense",), Exit.USAGE, "No such command", id="no command"),
        pytest.param(("backup", "--url", "mysql://x", "--store", "."), Exit.USAGE, "postgresql://", id="no url"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], code: Exit, says: str) -> None:
    done = matriarch(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_folder_and_a_key_that_is_none(tmp_path: Path) -> None:
    done = matriarch("backups", "--store", str(tmp_path), "-o", "json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"backups": [], "damaged": []})
    assert list(tmp_path.iterdir()) == []  # looking leaves nothing
    done = matriarch("backups", "--store", str(tmp_path), BACKUP_ENCRYPTION_KEY="hunter2")
    assert done.returncode == Exit.USAGE
    assert "hunter2" not in done.stderr
    done = matriarch("verify", "--store", str(tmp_path))
    assert (done.returncode, "no complete backup" in done.stderr) == (Exit.NOT_FOUND, True)
    done = matriarch("verify", "--store", str(tmp_path), "--key-file", str(tmp_path / "none"))
    assert done.returncode == Exit.USAGE


def test_a_damaged_manifest_is_shown(tmp_path: Path) -> None:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "0000000001-abcdefghij.json").write_text("{}")
    done = matriarch("backups", "--store", str(tmp_path))
    assert done.returncode == Exit.DEGRADED
    assert "0000000001-abcdefghij.json is damaged" in done.stderr


def test_the_parent_of_several_clusters_is_recognised(tmp_path: Path) -> None:
    for name in ("prod/orders-1", "prod/users-2"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "owner.json").write_text("{}")
    done = matriarch("backups", "--store", str(tmp_path))
    assert done.returncode == Exit.NOT_FOUND
    assert done.stdout.split() == [f"{tmp_path}/prod/orders-1", f"{tmp_path}/prod/users-2"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unavailable("x", reason=Reason.STORE_UNAVAILABLE), 4),
        (Refused("x", reason=Reason.BACKUP_NOT_FOUND), 3),
        (Refused("x", reason=Reason.KEY_MISSING), 2),
        (Refused("x", reason=Reason.TARGET_NOT_EMPTY), 1),
        (Corrupt("x", reason=Reason.OBJECT_CORRUPT), 1),
    ],
)
def test_exit_codes(error: Any, code: int) -> None:
    assert terminal.exit_for(error) == code


@pytest.mark.parametrize(
    ("age", "text"),
    [(timedelta(seconds=5), "5s ago"), (timedelta(minutes=5), "5m ago"), (timedelta(hours=30), "30h ago"),
     (timedelta(days=40), "40d ago"), (timedelta(seconds=-5), "0s ago")],
)  # fmt: skip
def test_ago(age: timedelta, text: str) -> None:
    assert terminal.ago((NOW - age).isoformat(), NOW) == text
    assert terminal.ago("-", NOW) == "-"


def test_tables_show_no_control_signs() -> None:
    assert terminal.table(("A", "B"), [("x", "\x1b[31mred\n"), ("longer", "y")]) == (
        "A       B\nx       ?[31mred?\nlonger  y"
    )


@pytest.mark.parametrize(
    ("text", "bucket", "prefix"),
    [("s3://b/p/q/", "b", "p/q"), ("s3://b", "b", ""), ("s3://b/a%20b", "b", "a b")],
)
def test_stores(text: str, bucket: str, prefix: str) -> None:
    found = bare.parse_store(text, "http://x").s3
    assert found is not None
    assert (found.bucket, found.prefix, found.endpoint, found.credentials) == (bucket, prefix, "http://x", "")


@pytest.mark.parametrize(
    ("text", "bucket", "prefix"),
    [("gs://b/p/q/", "b", "p/q"), ("gs://b_c.example", "b_c.example", ""), ("gs://b/a%20b", "b", "a b")],
)
def test_stores_at_google(text: str, bucket: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "acme")
    found = bare.parse_store(text, None).gcs
    assert found == GcsStore(bucket=bucket, prefix=prefix, project="acme", credentials="")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://localhost:4443")
    assert (bare.parse_store(text, None).gcs or found).endpoint == "http://localhost:4443"
    assert (bare.parse_store(text, "https://x").gcs or found).endpoint == "https://x"


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text, path in (("x/y", f"{tmp_path}/x/y"), (f"file://{tmp_path}/z", f"{tmp_path}/z")):
        found = bare.parse_store(text, None).local
        assert found is not None
        assert found.path == path


def cluster(*conditions: dict[str, str], **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "orders", "namespace": "prod", "generation": 12},
        "spec": {"version": "17", "instances": 3},
        "status": {"observedGeneration": 12, "conditions": list(conditions), **status},
    }


def test_the_status_of_a_healthy_cluster() -> None:
    obj = cluster(
        {"type": "Ready", "status": "True", "reason": "Healthy"},
        {"type": "BackupHealthy", "status": "True", "reason": "BackedUp"},
        postgresVersion="17.6",
        primary="orders-1",
        readyInstances=2,
        instanceStatuses=[
            {"name": "orders-1", "role": "primary", "ready": True, "state": "running", "node": "a", "timeline": 4},
            {"name": "orders-2", "role": "replica", "ready": True, "state": "running", "node": "b", "lagBytes": 16384,
             "lagSeconds": 0.12},
        ],
        backup={"lastSuccessAt": "2026-11-23T02:00:00Z"},
    )  # fmt: skip
    assert render_status(obj, NOW).splitlines() == [
        "orders (prod)   PostgreSQL 17.6   READY   2/3   gen 12 seen",
        "primary     orders-1   a   ready   running   timeline 4",
        "replica     orders-2   b   ready   running   lag 16.0 KiB / 0.1 s",
        "backup      ok   last 7h ago",
    ]


def test_the_status_of_one_that_needs_somebody() -> None:
    obj = cluster(
        {"type": "Ready", "status": "False", "reason": "NoQuorum", "message": "Two of three are gone.\x1b[2J"},
        {"type": "Stalled", "status": "True", "reason": "NoQuorum"},
        {"type": "BackupHealthy", "status": "False", "reason": "Overdue", "message": "Nothing since Friday."},
    )
    obj["status"]["observedGeneration"] = 11
    text = render_status(obj, NOW)
    assert "STALLED (NoQuorum)" in text
    assert "gen 12, seen 11" in text
    assert "why         Two of three are gone.?[2J" in text
    assert "backup      NOT OK   none yet   Nothing since Friday." in text


def test_a_cluster_of_which_nothing_is_known_yet() -> None:
    obj = cluster()
    del obj["status"]
    assert "NOT READY (Unknown)" in render_status(obj, NOW)


def test_help_starts_without_the_engine() -> None:
    """Completion and --help answer at once: nothing heavy is imported for them."""
    code = "import sys, matriarch.cli.main; print([m for m in ('boto3', 'asyncpg', 'cryptography', 'aiohttp', 'isal')"
    code += " if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": "operator"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "moment",
    [
        Target("latest"),
        Target("immediate"),
        Target("time", "2026-03-01T14:05:00Z"),
        Target("lsn", "0/3000148"),
        Target("xid", "800"),
        Target("name", "before"),
    ],
)
def test_a_moment_is_one_that_the_resource_knows(moment: Target) -> None:
    given = recovery_target(moment)
    assert list(given) == ["to" if moment.kind in ("latest", "immediate") else moment.kind]
    assert refusals(RecoveryTarget.model_validate(given)) == []


async def test_a_command_that_waits_outlasts_an_api_server_that_is_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "WAIT_EVERY", 0.01)
    restore: dict[str, Any] = {"kind": "Restore", "metadata": {"name": "undo", "namespace": "prod"}}
    done = {**restore, "status": {"conditions": [{"type": "Complete", "status": "True"}]}}
    answers: list[Any] = [restore, *[Unavailable("Connection refused")] * 3, restore, done]

    class Kube:
        async def get(self, *_: object) -> Any:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    assert await commands.wait_for(Kube(), restore, 20) is done  # type: ignore[arg-type]
    assert capsys.readouterr().err.count("Connection refused") == 1, "said once"


async def test_a_command_that_waits_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "WAIT_EVERY", 0.01)

    class Kube:
        async def get(self, *_: object) -> Any:
            raise Unavailable("Connection refused")

    restore = {"kind": "Restore", "metadata": {"name": "undo", "namespace": "prod"}}
    with pytest.raises(Unavailable, match="goes on without this command"):
        await commands.wait_for(Kube(), restore, 0.1)  # type: ignore[arg-type]
