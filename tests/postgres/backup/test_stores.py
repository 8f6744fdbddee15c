"""The promises of a store, kept by an S3 server, an emulator of Google's and a folder: conditions, refusals."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from dev import s3 as s3_server
from dev.s3 import S3Server
from matriarch.backup import catalog, gcsupload
from matriarch.backup import s3 as s3_module
from matriarch.backup.gcs import Gcs
from matriarch.backup.jobspec import LocalStore, S3Store
from matriarch.backup.local import Local
from matriarch.backup.s3 import S3
from matriarch.backup.stop import Stop
from matriarch.backup.store import Exists, Store
from matriarch.errors import Corrupt, MatriarchError, Refused, Unavailable
from tests.postgres.backup.bed import local, s3, s3_spec
from tests.postgres.backup.gcsbed import gcs


@pytest.fixture(params=["s3", "local", "gcs", "s3 over TLS"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return local(tmp_path / "store")
    if request.param == "gcs":
        return gcs(request.getfixturevalue("gcsserver"), "backups", f"{tmp_path.name}/deep")
    if request.param == "s3":
        s3server: S3Server = request.getfixturevalue("s3server")
        return s3(s3server, "backups", tmp_path / "credentials", prefix=f"{tmp_path.name}/deep")
    server: S3Server = request.getfixturevalue("tls_server")
    found = s3_spec(server, "backups", tmp_path / "credentials", prefix=tmp_path.name)
    assert server.ca_file is not None
    (tmp_path / "credentials" / "ca.crt").write_bytes(server.ca_file.read_bytes())
    return S3(found)


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]  # a generator of a server
    with s3_server.temporary(tmp_path_factory.mktemp("s3tls") / "s3", tls=True) as server:
        server.make_bucket("backups")
        yield server


def test_small_objects(store: Store) -> None:
    store.check()
    assert store.get("a/b") is None
    assert store.size("a/b") is None
    store.put("a/b", b"one")
    store.put("a/b", b"two")
    assert (store.get("a/b"), store.size("a/b")) == (b"two", 3)
    with pytest.raises(Exists):
        store.put("a/b", b"three", if_absent=True)
    store.put("a/c:d", b"", if_absent=True)
    store.put("ab/x", b"not below a")
    assert [e.key for e in store.list("a")] == ["a/b", "a/c:d"]
    assert abs((store.now() - next(iter(store.list("a"))).modified).total_seconds()) < 60
    store.delete("a/b")
    store.delete("a/b")
    assert [e.key for e in store.list("a")] == ["a/c:d"]
    with pytest.raises(Corrupt) as error, store.read("a/b") as pieces:
        next(pieces)
    assert error.value.reason == "ObjectMissing"


@pytest.mark.parametrize("size", [0, 1, (5 << 20) - 1, 5 << 20, (17 << 20) + 3])
def test_uploads_of_every_kind(store: Store, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "PART", 5 << 20)
    monkeypatch.setattr(gcsupload, "PART", 5 << 20)
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]
    upload = store.upload("big", estimate=0)
    for start in range(0, size, 700_001):
        upload.write(data[start : start + 700_001])
    assert store.size("big") is None  # nothing is seen before its end
    upload.finish()
    upload.abort()  # harmless then
    assert store.size("big") == size
    with store.read("big") as pieces:
        assert b"".join(pieces) == data
    second = store.upload("big", estimate=0)
    second.write(b"x" * size)
    with pytest.raises(Exists):
        second.finish()
    second.abort()
    with store.read("big") as pieces:
        assert b"".join(pieces) == data
    assert list(store.unfinished()) == []


def test_an_aborted_upload_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "PART", 5 << 20)
    monkeypatch.setattr(gcsupload, "PART", 5 << 20)
    upload = store.upload("big", estimate=0)
    upload.write(bytes(11 << 20))
    upload.abort()
    assert store.size("big") is None
    assert list(store.unfinished()) == []


def test_unfinished_uploads_are_found_and_discarded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "PART", 5 << 20)
    upload = store.upload("logical/big:1", estimate=0)
    upload.write(bytes(11 << 20))
    if isinstance(store, Gcs):  # it has none that could be found, and shows nothing of this one
        assert list(store.unfinished()) == []
        assert list(store.list("")) == []
        upload.abort()
        return
    (found,) = store.unfinished()
    assert found.key == "logical/big:1"
    store.discard(found)
    store.discard(found)
    assert list(store.unfinished()) == []


def refusal(store: Store) -> MatriarchError:
    with pytest.raises(MatriarchError) as error:
        store.check()
    return error.value


def test_what_is_wrong_is_said_by_name(s3server: S3Server, tmp_path: Path) -> None:
    good = s3_spec(s3server, "backups", tmp_path / "c")
    assert refusal(s3(s3server, "no-such-bucket", tmp_path / "c")).reason == "BucketMissing"
    (tmp_path / "c" / "secret-key").write_text("wrong")
    error = refusal(S3(good))
    assert (type(error), error.reason) == (Refused, "CredentialsRefused")
    assert "wrong" not in str(error)
    (tmp_path / "c" / "access-key").write_text("nobody")
    assert refusal(S3(good)).reason == "CredentialsRefused"
    assert refusal(Local(LocalStore(path=str(tmp_path / "nowhere")))).reason == "BucketMissing"


def test_no_credentials_at_all(s3server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    store = S3(S3Store(bucket="backups", endpoint=s3server.endpoint, credentials=""))
    assert refusal(store).reason == "CredentialsMissing"


def test_an_untrusted_certificate(tls_server: S3Server, tmp_path: Path) -> None:
    error = refusal(s3(tls_server, "backups", tmp_path / "c"))
    assert isinstance(error, Refused)
    assert "not trusted" in str(error)


@pytest.fixture
def own_server(tmp_path: Path):  # type: ignore[no-untyped-def]  # a generator of a server
    """One that a test may kill."""
    with s3_server.temporary(tmp_path / "s3") as server:
        server.make_bucket("backups")
        yield server


def test_the_server_dies_in_the_middle_and_comes_back(
    own_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "PART", 5 << 20)
    store = s3(own_server, "backups", tmp_path / "c")
    data = bytes(range(256)) * (1 << 17)  # 32 MiB
    upload = store.upload("big", estimate=0)
    upload.write(data[: 12 << 20])
    own_server.stop()
    threading.Timer(3.0, own_server.start).start()
    upload.write(data[12 << 20 :])
    upload.finish()
    with store.read("big") as pieces:
        assert b"".join(pieces) == data


def test_a_reader_goes_on_after_an_outage(own_server: S3Server, tmp_path: Path) -> None:
    store = s3(own_server, "backups", tmp_path / "c")
    data = bytes(range(256)) * (1 << 18)  # 64 MiB: more than the sockets hold
    upload = store.upload("big", estimate=0)
    upload.write(data)
    upload.finish()
    with store.read("big") as pieces:
        first = next(pieces)
        own_server.stop()
        threading.Timer(2.0, own_server.start).start()
        assert first + b"".join(pieces) == data


def test_an_object_that_changes_under_the_reader_is_noticed(own_server: S3Server, tmp_path: Path) -> None:
    store = s3(own_server, "backups", tmp_path / "c")
    store.put("big", bytes(40 << 20))
    with store.read("big") as pieces:
        next(pieces)
        own_server.stop()
        own_server.start()
        store.put("big", b"\1" * (40 << 20))
        with pytest.raises(Corrupt, match="was replaced while it was read"):
            b"".join(pieces)


def test_the_server_stays_away(own_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "PART", 5 << 20)
    monkeypatch.setattr(s3_module, "OUTAGE", 3.0)
    store = s3(own_server, "backups", tmp_path / "c")
    upload = store.upload("big", estimate=0)
    upload.write(bytes(12 << 20))
    own_server.stop()

    def go_on() -> None:
        for _ in range(10):
            upload.write(bytes(5 << 20))
        upload.finish()

    with pytest.raises(Unavailable) as error:
        go_on()
    assert error.value.reason == "StoreUnavailable"
    upload.abort()


def test_a_store_that_hangs_does_not_hold_up_the_end(own_server: S3Server, tmp_path: Path) -> None:
    stop = Stop()
    store = S3(s3_spec(own_server, "backups", tmp_path / "c"), stop)
    own_server.stop()
    threading.Timer(1.0, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Unavailable) as error:
        store.get("x")
    assert error.value.reason == "Cancelled"
    assert time.monotonic() - began < 60


def test_two_claim_a_prefix_at_the_same_time(store: Store) -> None:
    outcomes: list[str] = []

    def claim(system: str) -> None:
        try:
            catalog.claim(store, None, system, "now")
            outcomes.append("owner")
        except Refused as error:
            outcomes.append(error.reason)

    threads = [threading.Thread(target=claim, args=(str(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["PrefixOwnedByAnother"] * 3 + ["owner"]
