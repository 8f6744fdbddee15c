"""What a recovery says of PostgreSQL's last words, of the mark in the data, and of a moment that is none."""

from __future__ import annotations

import json
import os
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.backup.job import exit_code, reason_of
from matriarch.backup.jobresult import RecoverResult, Result
from matriarch.backup.jobspec import ClusterIdentity, Exit, JobSpec, LocalStore, Moment, Reason, RecoverTask, StoreSpec
from matriarch.errors import Corrupt, MatriarchError, Refused, Unavailable
from matriarch.postgres.restored import restored_by
from matriarch.recovery import identity
from matriarch.recovery.replay import NotReached, _settings, _why
from matriarch.recovery.way import target_of

LAST = "LOG:  last completed transaction was at log time 2026-03-01 14:05:00.123+00"


@pytest.mark.parametrize(
    ("said", "kind", "word"),
    [
        pytest.param(
            [LAST, "FATAL:  recovery ended before configured recovery target was reached"],
            NotReached,
            "2026-03-01 14:05:00.123+00",
            id="the WAL ended before",
        ),
        pytest.param(
            ["FATAL:  recovery ended before configured recovery target was reached"], NotReached, "before the backup",
            id="nothing was replayed",
        ),
        pytest.param(["PANIC:  WAL contains references to invalid pages"], Corrupt, "invalid pages", id="bad WAL"),
        pytest.param(
            ["FATAL:  requested timeline 4 is not a child of this server's history"], Corrupt, "timeline 4",
            id="another line",
        ),
        pytest.param(
            ['FATAL:  could not restore file "0000" from archive', "LOG:  database system is shut down"],
            Unavailable,
            "could not restore file",
            id="the store was away for too long",
        ),
        pytest.param([], Unavailable, "said nothing", id="killed"),
    ],
)  # fmt: skip
def test_what_postgresql_s_end_means(said: list[str], kind: type[MatriarchError], word: str) -> None:
    error = _why(deque(said))
    assert type(error) is kind
    assert word in str(error)


def test_a_moment_that_did_not_come_is_not_tried_again() -> None:
    error = NotReached("")
    result = Result(ok=False, task="recover", reason=reason_of(error), message=str(error))
    assert (result.reason, exit_code(result)) == (Reason.TARGET_NOT_REACHED, Exit.REFUSED)


@pytest.mark.parametrize("moment", [Moment(kind="time", value="2026-06-31T00:00:00Z"), Moment(kind="xid", value="-1")])
def test_a_moment_that_is_none_is_refused(moment: Moment) -> None:
    with pytest.raises(Refused):
        target_of(moment)


@given(st.text() | st.binary().map(lambda b: b.decode("latin-1")))
def test_only_a_mark_counts_as_one(text: str) -> None:
    assert restored_by(text) == ""
    assert restored_by(json.dumps({"restore": text})) == text
    assert restored_by(json.dumps([text])) == ""
    assert restored_by(json.dumps({"restore": [text]})) == ""


def test_the_source_s_settings_are_overruled() -> None:
    words = _settings(Path("/run/x"), {"max_prepared_transactions": 500, "max_connections": 900})
    values = dict(word.split("=", 1) for word in words[1::2])
    assert set(words[::2]) == {"-c"}
    assert values["archive_mode"] == "off"
    assert values["listen_addresses"] == ""
    assert values["shared_preload_libraries"] == ""
    assert values["max_connections"] == "900"
    assert values["max_prepared_transactions"] == "500"


def test_identifiers_are_like_initdb_s() -> None:
    made = identity.new_identifier()
    assert 0 < made < 1 << 64
    assert made & 0xFFF == os.getpid() & 0xFFF


def test_the_task_and_its_result_come_back_as_they_went() -> None:
    done = RecoverResult(
        backup_name="b",
        system_identifier="7",
        timeline=2,
        lsn="0/1",
        last_commit=None,
        archived_until="2026-03-01T00:00:00.000Z",
        size=1,
        wal=2,
    )
    result = Result(ok=True, task="recover", reason=Reason.COMPLETED, message="x" * 5000, recover=done)
    assert Result.from_json(result.to_json()).recover == done
    store = StoreSpec(local=LocalStore(path="/x"))
    identity_of = ClusterIdentity(namespace="prod", name="orders", uid="u")
    task = RecoverTask(backup="b", restore_id="r", volume="/v", moment=Moment(kind="latest"))
    spec = JobSpec(task="recover", cluster=identity_of, store=store, recover=task)
    assert JobSpec.from_json(spec.to_json()) == spec
    with pytest.raises(ValueError, match="needs the member recover"):
        JobSpec(task="recover", cluster=identity_of, store=store)
