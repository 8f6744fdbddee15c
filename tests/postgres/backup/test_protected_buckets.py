"""Buckets that protect what is in them: object lock, an identity that cannot delete, earlier versions."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest
from botocore.exceptions import ClientError

from dev.s3 import S3Server
from matriarch.backup import catalog, expire, restore
from matriarch.backup import s3 as s3_module
from matriarch.backup.jobspec import ObjectLock, Retention, S3Store, StoreSpec
from matriarch.backup.physical.restore import verify as verify_physical
from matriarch.backup.progress import Tracker
from matriarch.backup.s3 import S3
from matriarch.backup.stop import Stop
from matriarch.backup.store import Exists, Store, open_store
from matriarch.cli.bare import parse_store
from matriarch.errors import Corrupt, Refused
from tests.postgres.backup.bed import KEY, Postgres, make_backup, s3_spec
from tests.postgres.backup.physbed import physical_backup

WRITES = ("s3:ListBucket", "s3:GetBucketObjectLockConfiguration", "s3:GetObject", "s3:PutObject",
          "s3:PutObjectRetention", "s3:AbortMultipartUpload", "s3:ListBucketMultipartUploads")  # fmt: skip


@pytest.fixture
def locked(s3server: S3Server, tmp_path: Path) -> S3Store:
    s3server.make_bucket("locked", object_lock=True)
    spec = s3_spec(s3server, "locked", tmp_path / "credentials", prefix=tmp_path.name)
    return replace(spec, lock=ObjectLock(mode="GOVERNANCE", days=3))


def _until(server: S3Server, spec: S3Store, key: str) -> tuple[str, timedelta] | None:
    try:
        found = server.client().get_object_retention(Bucket=spec.bucket, Key=f"{spec.prefix}/{key}")["Retention"]
    except ClientError:
        return None
    return found["Mode"], found["RetainUntilDate"] - datetime.now(UTC)


@pytest.mark.parametrize("mode", ["GOVERNANCE", "COMPLIANCE"])
def test_what_is_written_for_good_is_locked_and_markers_are_not(
    s3server: S3Server, locked: S3Store, mode: Literal["GOVERNANCE", "COMPLIANCE"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "PART", 5 << 20)
    store = S3(replace(locked, lock=ObjectLock(mode=mode, days=3)))
    store.check()
    store.put("manifests/1.json", b"m", if_absent=True)
    store.put("running/x.json", b"r")
    upload = store.upload("physical/x/0001.pack", estimate=0)
    upload.write(b"p" * (11 << 20))
    upload.finish()
    for key in ("manifests/1.json", "physical/x/0001.pack"):
        found = _until(s3server, locked, key)
        assert found is not None
        assert found[0] == mode
        assert timedelta(days=2, hours=23) < found[1] <= timedelta(days=3)
    assert _until(s3server, locked, "running/x.json") is None
    with pytest.raises(Exists):
        store.put("manifests/1.json", b"other", if_absent=True)
    # A deletion hides it; nobody takes the data away, not even the owner of the bucket.
    version = s3server.client().head_object(Bucket="locked", Key=f"{locked.prefix}/manifests/1.json")["VersionId"]
    store.delete("manifests/1.json")
    assert store.get("manifests/1.json") is None
    with pytest.raises(ClientError, match="object lock"):
        s3server.client().delete_object(Bucket="locked", Key=f"{locked.prefix}/manifests/1.json", VersionId=version)


def test_a_bucket_without_lock_is_refused_before_anything_is_written(s3server: S3Server, tmp_path: Path) -> None:
    spec = s3_spec(s3server, "backups", tmp_path / "credentials", prefix=tmp_path.name)
    with pytest.raises(Refused) as error:
        S3(replace(spec, lock=ObjectLock(mode="COMPLIANCE", days=1))).check()
    assert error.value.reason == "BucketNotLocked"
    assert "make a bucket" in str(error.value)
    S3(spec).check()


def test_the_identity_that_writes_needs_no_right_to_delete(
    s3server: S3Server, locked: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "PART", 5 << 20)
    access, secret = s3server.user("locked", *WRITES)
    folder = tmp_path / "writer"
    folder.mkdir()
    (folder / "access-key").write_text(access)
    (folder / "secret-key").write_text(secret)
    store = S3(replace(locked, credentials=str(folder)))
    store.check()
    store.put("owner.json", b"{}", if_absent=True)
    upload = store.upload("logical/x", estimate=0)
    upload.write(b"p" * (6 << 20))
    upload.finish()
    half = store.upload("logical/y", estimate=0)
    half.write(b"p" * (6 << 20))
    half.abort()
    assert list(store.unfinished()) == []
    assert [e.key for e in store.list("logical")] == ["logical/x"]
    assert store.get("owner.json") == b"{}"
    with pytest.raises(Refused) as error:
        store.delete("owner.json")
    assert error.value.reason == "CredentialsRefused"
    assert store.get("owner.json") == b"{}"


def _as(server: S3Server, spec: S3Store, folder: Path, *actions: str) -> S3:
    access, secret = server.user(spec.bucket, *actions)
    folder.mkdir()
    (folder / "access-key").write_text(access)
    (folder / "secret-key").write_text(secret)
    return S3(replace(spec, credentials=str(folder)))


def test_whole_backups_are_made_and_verified_by_an_identity_that_cannot_delete(
    source: Postgres, s3server: S3Server, locked: S3Store, tmp_path: Path
) -> None:
    writer = _as(s3server, locked, tmp_path / "writer", *WRITES[:6])
    made = [make_backup(writer, source), physical_backup(writer, source)]
    assert [m.body.sequence for m in made] == [1, 2]
    restore.check_object(writer, made[0], Tracker(), Stop())
    verify_physical(writer, made[1], Tracker(), Stop())
    data = [e.key for f in ("logical", "physical", "manifests", "keys") for e in writer.list(f)]
    assert len(data) >= 5
    for key in ("owner.json", *data):
        assert _until(s3server, locked, key) is not None, key
    # Their markers stay behind, and the identity that deletes takes them with what dead backups left.
    assert len([*writer.list("running")]) == 2
    deleter = _as(s3server, locked, tmp_path / "deleter", *WRITES, "s3:DeleteObject")
    catalog.sweep(deleter)
    assert [*writer.list("running")] == []
    system = made[0].body.origin.system_identifier
    done = expire.retain(deleter, (KEY,), Retention(count=1), system)
    assert done.deleted == (made[0].body.id,)
    assert [m.body.id for m in catalog.read_catalog(writer).manifests] == [made[1].body.id]


def test_a_backup_into_a_bucket_without_lock_writes_nothing(
    source: Postgres, s3server: S3Server, tmp_path: Path
) -> None:
    spec = s3_spec(s3server, "backups", tmp_path / "credentials", prefix=tmp_path.name)
    store = S3(replace(spec, lock=ObjectLock(mode="COMPLIANCE", days=1)))
    for make in (make_backup, physical_backup):
        with pytest.raises(Refused) as error:
            make(store, source)
        assert error.value.reason == "BucketNotLocked"
    assert list(S3(spec).list("")) == []


@pytest.fixture
def versioned(s3server: S3Server, tmp_path: Path) -> S3Store:
    s3server.make_bucket("versioned", versioning=True)
    return s3_spec(s3server, "versioned", tmp_path / "credentials", prefix=tmp_path.name)


def _next_second(store: Store) -> datetime:
    """A moment by the store's clock that lies between what was done and what is to come: versions tell seconds."""
    time.sleep(2.2)  # a server may tell the time of up to a second ago: fasthttp writes it down once a second
    moment = store.now()
    time.sleep(1.1)
    return moment


def test_an_earlier_state_is_read_as_if_nothing_had_happened_since(versioned: S3Store) -> None:
    store = S3(versioned)
    store.put("manifests/1", b"one")
    store.put("manifests/2", b"two")
    store.put("manifests/gone", b"x")
    store.delete("manifests/gone")
    before = _next_second(store)
    store.put("manifests/1", b"encrypted by a stranger")
    store.delete("manifests/2")
    store.put("manifests/3", b"three")
    store.put("manifests/gone", b"again")
    was = open_store(StoreSpec(s3=replace(versioned, as_of=before.isoformat())))
    was.check()
    assert [(e.key, e.size) for e in was.list("manifests")] == [("manifests/1", 3), ("manifests/2", 3)]
    assert [was.get(f"manifests/{n}") for n in ("1", "2", "3", "gone")] == [b"one", b"two", None, None]
    assert (was.size("manifests/2"), was.size("manifests/3")) == (3, None)
    with was.read("manifests/2") as pieces:
        assert b"".join(pieces) == b"two"
    with pytest.raises(Corrupt), was.read("manifests/3") as pieces:
        next(pieces)
    for change in (lambda: was.put("a", b""), lambda: was.delete("manifests/1"), lambda: was.upload("a", estimate=1)):
        with pytest.raises(Refused, match="is the past"):
            change()
    assert [e.key for e in store.list("manifests")] == ["manifests/1", "manifests/3", "manifests/gone"]


def test_a_bucket_without_versions_and_a_time_that_is_none(versioned: S3Store, s3server: S3Server) -> None:
    with pytest.raises(Refused) as error:
        open_store(StoreSpec(s3=replace(versioned, bucket="backups", as_of="2026-03-01T14:05:00Z"))).check()
    assert error.value.reason == "NotVersioned"
    for text in ("yesterday", "2026-03-01T14:05:00"):
        with pytest.raises(Refused):
            open_store(StoreSpec(s3=replace(versioned, as_of=text)))


def test_the_command_line_names_the_moment_behind_the_store() -> None:
    found = parse_store("s3://b/p/q?as-of=2026-03-01T14:05:00+01:00", None).s3
    assert found is not None
    assert (found.bucket, found.prefix, found.as_of) == ("b", "p/q", "2026-03-01T14:05:00+01:00")
    assert parse_store("s3://b", None).s3 == replace(found, prefix="", as_of=None)
    with pytest.raises(Refused):
        parse_store("s3://b?versions=all", None)
