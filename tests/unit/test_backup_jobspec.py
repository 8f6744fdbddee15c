"""The contract between controller and Job: what goes in comes out, what is unknown is refused with its path."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.backup import jobresult, jobspec
from matriarch.backup.jobresult import Result
from matriarch.backup.jobspec import JobSpec, Reason

SPEC = JobSpec(
    task="backup",
    cluster=jobspec.ClusterIdentity(namespace="prod", name="orders", uid="u-1"),
    store=jobspec.StoreSpec(s3=jobspec.S3Store(bucket="b", prefix="orders", endpoint="https://s3:9000")),
    keys=("orders-backup-key",),
    server=jobspec.ServerSpec(hosts=("orders-ro", "orders-rw"), prefer="standby"),
    backup=jobspec.BackupTask(retention=jobspec.Retention(days=30)),
    report=jobspec.Report(kind="Backup", namespace="prod", name="nightly", uid="u-2"),
)


def test_round_trip() -> None:
    assert JobSpec.from_json(SPEC.to_json()) == SPEC


def test_a_bucket_at_google_goes_through_and_no_other_store_mentions_it() -> None:
    """An engine of an earlier release refuses fields that it does not know."""
    gcs = jobspec.StoreSpec(gcs=jobspec.GcsStore(bucket="b", prefix="orders", project="acme"))
    spec = replace(SPEC, store=gcs)
    assert JobSpec.from_json(spec.to_json()) == spec
    assert "gcs" not in SPEC.to_json()


def test_a_folder_below_a_store() -> None:
    for kind, store in (
        ("s3", jobspec.StoreSpec(s3=jobspec.S3Store(bucket="b", prefix="/a/", region="r"))),
        ("gcs", jobspec.StoreSpec(gcs=jobspec.GcsStore(bucket="b", prefix="/a/", project="p"))),
        ("local", jobspec.StoreSpec(local=jobspec.LocalStore(path="/x", prefix="a"))),
    ):
        found, before = getattr(store.below("prod/orders-74"), kind), getattr(store, kind)
        assert found == replace(before, prefix="a/prod/orders-74")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"task": "drop"}, r"\$\.task: must be one of backup", id="unknown task"),
        pytest.param({"tusk": 1}, r"\$\.tusk: unknown field", id="unknown field"),
        pytest.param({"store": {"s3": {"bucket": 1}}}, r"\$\.store\.s3\.bucket: must be str", id="wrong type"),
        pytest.param({"store": {"s3": {}}}, r"\$\.store\.s3\.bucket: is missing", id="missing field"),
        pytest.param({"store": {}}, "exactly one", id="no store"),
        pytest.param(
            {"store": {"s3": {"bucket": "b"}, "gcs": {"bucket": "b"}}}, "exactly one of s3, gcs and local", id="two"
        ),
        pytest.param({"server": None}, "needs a server", id="no server"),
        pytest.param({"backup": None}, "needs the member backup", id="no task member"),
        pytest.param({"keys": "a"}, r"\$\.keys: must be a list", id="no list"),
        pytest.param({"cluster": None}, r"\$\.cluster: must be an object", id="null where none may be"),
        pytest.param({"server": {"hosts": ["a"], "port": True}}, r"\$\.server\.port: must be int", id="bool is no int"),
    ],
)
def test_bad_specs_are_refused_with_their_path(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JobSpec.from_json(json.dumps(json.loads(SPEC.to_json()) | change))


@given(
    st.text(max_size=6000),
    st.lists(st.text(max_size=300), max_size=20),
    st.lists(st.text("abcdef234567", min_size=10, max_size=10), max_size=100),
)
def test_a_result_always_fits_the_termination_log(message: str, warnings: list[str], deleted: list[str]) -> None:
    result = Result(
        ok=False,
        task="backup",
        reason=Reason.STORE_UNAVAILABLE,
        message=message,
        retryable=True,
        warnings=tuple(warnings),
        deleted=tuple(deleted),
    )
    text = result.to_json()
    assert len(text.encode()) <= jobresult.RESULT_LIMIT
    again = Result.from_json(text)
    assert replace(again, message="", warnings=(), deleted=()) == replace(result, message="", warnings=(), deleted=())


def test_progress_leaves_absent_values_out() -> None:
    status = jobresult.Progress(step="Dumping", bytes_done=5, bytes_total=4).to_status("2026-01-01T00:00:00.000Z")
    assert status == {
        "step": "Dumping",
        "percent": 100,
        "bytesDone": 5,
        "bytesTotal": 4,
        "updatedAt": "2026-01-01T00:00:00.000Z",
    }
    assert "percent" not in jobresult.Progress(step="Dumping", bytes_done=5).to_status("")
