"""What is the store's own at Google: who it says it is, what is refused by name, and what an outage does to it.

The promises of every store are in test_stores.py, a fault at each request in test_gcs_faults.py.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev import gcs as gcs_server
from dev.gcs import GcsServer
from matriarch.backup import gcs as gcs_module
from matriarch.backup import gcsupload
from matriarch.backup.gcs import Gcs
from matriarch.backup.jobspec import GcsStore
from matriarch.backup.stop import Stop
from matriarch.errors import Corrupt, MatriarchError, Refused, Unavailable
from tests.postgres.backup.gcsbed import Tokens, gcs, gcs_spec, tokens


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcsServer]:
    with gcs_server.temporary(tmp_path_factory.mktemp("gcstls") / "gcs", tls=True) as server:
        server.make_bucket("backups")
        yield server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[GcsServer]:
    """One that a test may kill."""
    with gcs_server.temporary(tmp_path / "gcs") as server:
        server.make_bucket("backups")
        yield server


@pytest.fixture
def service() -> Iterator[Tokens]:
    with tokens() as found:
        yield found


def secured(server: GcsServer, folder: Path) -> Gcs:
    """Over TLS, with whatever credentials lie in `folder`."""
    assert server.ca_file is not None
    folder.mkdir(exist_ok=True)
    (folder / "ca.crt").write_bytes(server.ca_file.read_bytes())
    return Gcs(gcs_spec(server, "backups", credentials=str(folder)), outage=2.0)


def refusal(store: Gcs) -> MatriarchError:
    with pytest.raises(MatriarchError) as error:
        store.check()
    return error.value


def test_a_service_accounts_key(tls_server: GcsServer, service: Tokens, tmp_path: Path) -> None:
    service.key_file(tmp_path / "c")
    store = secured(tls_server, tmp_path / "c")
    store.check()
    store.put("a/b", b"one", if_absent=True)
    upload = store.upload("big", estimate=0)
    upload.write(bytes(20 << 20))
    upload.finish()
    assert (store.get("a/b"), store.size("big")) == (b"one", 20 << 20)
    assert service.given == ["https://www.googleapis.com/auth/devstorage.read_write"], "one token is enough"


def test_what_is_wrong_with_credentials_is_said_by_name(tls_server: GcsServer, service: Tokens, tmp_path: Path) -> None:
    secret = service.key_file(tmp_path / "c", of_another=True).read_text()
    error = refusal(secured(tls_server, tmp_path / "c"))
    assert (type(error), error.reason) == (Refused, "CredentialsRefused")
    assert "PRIVATE KEY" not in str(error)

    for text in ("", "no JSON", "[]", '{"type": "service_account"}', secret.replace("BEGIN PRIVATE", "BEGIN PUBLIC")):
        (tmp_path / "c" / "key.json").write_text(text)
        error = refusal(secured(tls_server, tmp_path / "c"))
        assert (type(error), error.reason) == (Refused, "CredentialsRefused"), text[:20]
        assert "key.json" in str(error)
        assert "PRIVATE" not in str(error)
        assert error.__cause__ is None, "it may quote the key"

    service.key_file(tmp_path / "c")
    service.away = True
    with pytest.raises(Unavailable) as away:
        secured(tls_server, tmp_path / "c").get("x")
    assert away.value.reason == "StoreUnavailable"


def test_no_credentials_at_all(tls_server: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    assert refusal(Gcs(gcs_spec(tls_server, "backups"))).reason == "CredentialsMissing"


def test_none_are_sent_in_the_clear(gcsserver: GcsServer, service: Tokens, tmp_path: Path) -> None:
    service.key_file(tmp_path / "c")
    Gcs(gcs_spec(gcsserver, "backups", credentials=str(tmp_path / "c"))).check()
    assert service.given == []


def test_a_bucket_that_is_not_there(gcsserver: GcsServer) -> None:
    error = refusal(gcs(gcsserver, "no-such-bucket"))
    assert (type(error), error.reason) == (Refused, "BucketMissing")
    assert "no-such-bucket" in str(error)


def test_an_untrusted_certificate(tls_server: GcsServer, service: Tokens, tmp_path: Path) -> None:
    service.key_file(tmp_path / "c")
    error = refusal(Gcs(gcs_spec(tls_server, "backups", credentials=str(tmp_path / "c"))))
    assert isinstance(error, Refused)
    assert "not trusted" in str(error)


def test_an_address_that_is_none() -> None:
    for endpoint in ("http://", "nonsense", "localhost:4443", "ftp://x"):
        error = refusal(Gcs(GcsStore(bucket="backups", endpoint=endpoint, credentials="")))
        assert (type(error), error.reason) == (Refused, "StoreRefused")


def test_a_reader_goes_on_after_an_outage(own_server: GcsServer) -> None:
    store = gcs(own_server, "backups")
    data = bytes(range(256)) * (1 << 18)  # 64 MiB: more than the sockets hold
    upload = store.upload("big", estimate=0)
    upload.write(data)
    upload.finish()
    with store.read("big") as pieces:
        first = next(pieces)
        own_server.stop()
        threading.Timer(2.0, own_server.start).start()
        assert first + b"".join(pieces) == data


def test_an_object_that_changes_under_the_reader_is_noticed(own_server: GcsServer) -> None:
    store = gcs(own_server, "backups")
    store.put("big", bytes(40 << 20))
    with store.read("big") as pieces:
        next(pieces)
        own_server.stop()
        own_server.start()
        store.put("big", b"\1" * (40 << 20))
        with pytest.raises(Corrupt, match="was replaced while it was read"):
            b"".join(pieces)


def test_an_upload_that_the_store_forgot_is_begun_anew_by_another_try(
    own_server: GcsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The emulator forgets all of them when it ends. Nothing is left, and it is said that another try can help."""
    monkeypatch.setattr(gcsupload, "PART", 5 << 20)
    store = gcs(own_server, "backups")
    upload = store.upload("big", estimate=0)
    upload.write(bytes(12 << 20))
    own_server.stop()
    own_server.start()

    def go_on() -> None:
        upload.write(bytes(12 << 20))
        upload.finish()

    with pytest.raises(Unavailable, match="does not know the upload any more"):
        go_on()
    upload.abort()
    assert list(store.list("")) == []


def test_the_server_stays_away(own_server: GcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcsupload, "PART", 5 << 20)
    monkeypatch.setattr(gcs_module, "OUTAGE", 3.0)
    store = gcs(own_server, "backups")
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


def test_a_store_that_hangs_does_not_hold_up_the_end(own_server: GcsServer) -> None:
    stop = Stop()
    store = Gcs(gcs_spec(own_server, "backups"), stop)
    own_server.stop()
    threading.Timer(1.0, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Unavailable) as error:
        store.get("x")
    assert error.value.reason == "Cancelled"
    assert time.monotonic() - began < 60


def test_other_stores_pay_no_memory_for_it() -> None:
    program = """
import sys
from matriarch.backup import job
from matriarch.backup.jobspec import LocalStore, S3Store, StoreSpec
from matriarch.backup.store import open_store
open_store(StoreSpec(s3=S3Store(bucket="b", endpoint="http://127.0.0.1:1", credentials=""))).client
open_store(StoreSpec(local=LocalStore(path="/x")))
print([m for m in sys.modules if m.startswith(("google", "requests", "matriarch.backup.gcs"))])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": "operator", "PATH": "/usr/bin", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
