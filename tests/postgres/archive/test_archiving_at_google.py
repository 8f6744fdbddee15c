"""The archive in a bucket of Google Cloud Storage: the very tests of the other stores, on the emulator."""

from __future__ import annotations

from pathlib import Path

import pytest

from dev.gcs import GcsServer
from matriarch.backup.jobspec import StoreSpec
from tests.postgres.archive.test_archive_and_recover import (
    test_a_backlog_is_archived_and_replays_to_the_last_commit,
    test_a_timeline_switch_archives_its_history_first,
)
from tests.postgres.archive.test_expiring import test_old_wal_goes_and_the_backup_that_stays_replays_to_the_end
from tests.postgres.backup.gcsbed import gcs_spec

__all__ = [
    "test_a_backlog_is_archived_and_replays_to_the_last_commit",
    "test_a_timeline_switch_archives_its_history_first",
    "test_old_wal_goes_and_the_backup_that_stays_replays_to_the_end",
]


@pytest.fixture
def store(tmp_path: Path, gcsserver: GcsServer) -> StoreSpec:
    return StoreSpec(gcs=gcs_spec(gcsserver, "backups", tmp_path.name[:20]))
