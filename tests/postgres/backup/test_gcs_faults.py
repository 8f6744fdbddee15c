"""Each call of a store on the emulator of Google Cloud Storage, with each fault at each of its requests.

As test_store_call_faults.py does with the S3 server: what passes by itself is not seen outside, the rest is named.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.gcs import GcsServer
from matriarch.backup import gcs as gcs_module
from matriarch.backup import gcsupload
from matriarch.backup.gcs import Gcs
from matriarch.errors import Refused, Unavailable
from tests.postgres.backup import faultproxy
from tests.postgres.backup.faultbed import Hasty, rounds
from tests.postgres.backup.faultproxy import PASSING, Fault, Request
from tests.postgres.backup.gcsbed import Google, gcs, gcs_spec
from tests.postgres.backup.test_store_call_faults import BIG, CALLS, SMALL, give_up, upload

OUTAGE = 3.0  # seconds that a call waits for a store that is away
READ_TIMEOUT = 1.5  # seconds; longer than the emulator ever takes for the little that is sent here
CUT_SHORT = {"delete"}
"""Whose answer has nothing behind its first line that anybody needs."""


@pytest.fixture
def google(gcsserver: GcsServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Google]:
    monkeypatch.setattr(gcs_module, "READ_TIMEOUT", READ_TIMEOUT)
    monkeypatch.setattr(gcsupload, "PART", 5 << 20)
    with faultproxy.before(gcsserver, Google) as found:
        assert isinstance(found, Google)
        yield found


@pytest.fixture
def fresh(google: Google, gcsserver: GcsServer, tmp_path: Path) -> Callable[[], tuple[Gcs, Gcs]]:
    """A prefix with two objects, each time another one: straight and through the proxy."""
    made: list[Gcs] = []

    def make() -> tuple[Gcs, Gcs]:
        prefix = f"{tmp_path.name}-{len(made)}"
        google.calm()
        straight = gcs(gcsserver, "backups", prefix)
        straight.put("there", SMALL)
        straight.put("big", BIG[: 3 << 20])
        made.append(straight)
        return straight, Gcs(gcs_spec(google.server, "backups", prefix), Hasty(), outage=OUTAGE)

    return make


def left(store: Gcs) -> dict[str, bytes]:
    found = {}
    for entry in store.list(""):
        with store.read(entry.key) as pieces:
            found[entry.key] = b"".join(pieces)
    return found


@pytest.mark.parametrize("name", [n for n in CALLS if n != "unfinished"])
def test_a_fault_that_passes_is_not_seen(name: str, google: Google, fresh: Callable[[], tuple[Gcs, Gcs]]) -> None:
    call: Callable[[Any], Any] = CALLS[name]
    straight, store = fresh()
    google.calm()
    wanted = call(store)
    requests, objects = len(google.seen), left(straight)
    assert requests >= 1
    for at, fault in rounds(requests, PASSING):
        straight, store = fresh()
        google.strike(at, fault)
        got = call(store)
        assert len(google.struck) == 1, (at, fault)
        google.calm()
        assert got == wanted, (at, fault)
        assert left(straight) == objects, (at, fault)


# Where the status line alone says that a call is done, an answer that is cut behind it is no fault.
OUTAGES = [
    (name, fault)
    for name in ("get", "put if absent", "upload in parts", "read", "list", "delete")
    for fault in (Fault.SLOW_DOWN, Fault.LOST, Fault.CUT_HEAD)
    if fault is not Fault.CUT_HEAD or name not in CUT_SHORT
]


@pytest.mark.parametrize(("name", "fault"), OUTAGES, ids=lambda v: getattr(v, "name", v))
def test_an_outage_that_stays_is_named(
    name: str, fault: Fault, google: Google, fresh: Callable[[], tuple[Gcs, Gcs]]
) -> None:
    straight, store = fresh()
    google.strike(1, fault, for_good=True)
    call: Callable[[Any], Any] = CALLS[name]
    with pytest.raises(Unavailable) as error:
        call(store)
    assert error.value.reason == "StoreUnavailable"
    assert straight.address in str(error.value)
    assert len(google.struck) > 1  # it was tried again


@pytest.mark.parametrize("name", ["check", "get", "put if absent", "upload in parts", "read", "list", "delete"])
def test_a_refusal_is_named_at_once(name: str, google: Google, fresh: Callable[[], tuple[Gcs, Gcs]]) -> None:
    straight, store = fresh()
    before = left(straight)
    google.strike(1, Fault.DENIED)
    call: Callable[[Any], Any] = CALLS[name]
    with pytest.raises(Refused) as error:
        call(store)
    assert (error.value.reason, len(google.struck)) == ("CredentialsRefused", 1)
    assert left(straight) == before


def decides(request: Request) -> bool:
    """The one request that makes an object of the small ones, or does not."""
    return request.method == "POST"


@pytest.mark.parametrize("key", ["new", "there"])
@pytest.mark.parametrize("fault", [Fault.LATE_ERROR, Fault.LOST, Fault.STALLED], ids=lambda f: f.name)
def test_somebody_elses_object_is_never_taken_for_our_own(
    key: str,
    fault: Fault,
    google: Google,
    fresh: Callable[[], tuple[Gcs, Gcs]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody said what became of the write, and before the next try another writer's object is in the place."""
    straight, store = fresh()
    other = SMALL[::-1]
    pass_on, done = Google._pass_on, threading.Event()

    def replaced(proxy: Google, request: bytes) -> bytes:
        answer = pass_on(proxy, request)
        if proxy.struck and not done.is_set():
            done.set()
            straight.put(key, other)
        return answer

    monkeypatch.setattr(Google, "_pass_on", replaced)
    google.strike(1, fault, of=decides)
    assert upload(key, SMALL)(store) == "exists"  # type: ignore[arg-type]  # a store is a store
    assert done.is_set()
    assert straight.get(key) == other


def test_our_own_object_is_known_after_the_look_for_it_failed_too(
    google: Google, fresh: Callable[[], tuple[Gcs, Gcs]]
) -> None:
    """The answer is lost, and the store is away when we look: the next try meets what the first one made."""
    straight, store = fresh()
    made: list[Request] = []

    def first_and_looks(request: Request) -> bool:
        made.extend([request] if request.method == "POST" else [])
        return len(made) == 1

    google.strike(1, Fault.LOST, for_good=True, of=first_and_looks)
    store.put("new", SMALL, if_absent=True)
    assert len(google.struck) > 2
    assert straight.get("new") == SMALL


def test_giving_up_an_upload_ends_it_at_the_store(google: Google, fresh: Callable[[], tuple[Gcs, Gcs]]) -> None:
    straight, store = fresh()
    before = left(straight)
    google.strike(0, Fault.RESET, of=lambda r: r.method == "DELETE")
    give_up(store)  # type: ignore[arg-type]  # a store is a store
    assert len(google.seen) == 1
    assert left(straight) == before


def test_what_arrives_altered_is_not_kept(
    google: Google, fresh: Callable[[], tuple[Gcs, Gcs]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bit that flips between us and the store, in the middle of an upload."""
    straight, store = fresh()
    pass_on = Google._pass_on

    def altered(proxy: Google, request: bytes) -> bytes:
        if len(request) > 5 << 20:
            request = request[: 2 << 20] + bytes([request[2 << 20] ^ 1]) + request[(2 << 20) + 1 :]
        return pass_on(proxy, request)

    monkeypatch.setattr(Google, "_pass_on", altered)
    with pytest.raises(Unavailable, match="altered"):
        upload("new", BIG)(store)  # type: ignore[arg-type]  # a store is a store
    assert straight.size("new") is None
