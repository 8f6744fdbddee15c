"""Each call of a store on a real S3 server, with each fault at each of its requests: nothing of it is seen outside.

What a call does is known from a run without faults. A fault that passes must leave the very same result and the very
same objects; one that stays must be named, and a refusal must be named at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dev import s3 as s3_server
from dev.s3 import S3Server
from matriarch.backup import s3 as s3_module
from matriarch.backup.s3 import S3
from matriarch.backup.store import Exists
from matriarch.errors import Refused, Unavailable
from tests.postgres.backup import faultproxy
from tests.postgres.backup.bed import s3_spec
from tests.postgres.backup.faultbed import OUTAGE, Hasty, Place, count, proxy, rounds
from tests.postgres.backup.faultproxy import PASSING, Fault, FaultProxy, Request

__all__ = ["proxy"]

SMALL = b"small " * 100
BIG = bytes(range(256)) * (11 << 12)  # 11 MiB: three parts of the size that is set below


def put(store: S3) -> str:
    try:
        store.put("there", b"new", if_absent=True)
    except Exists:
        return "exists"
    return "replaced"


def upload(key: str, data: bytes) -> Callable[[S3], str]:
    def work(store: S3) -> str:
        uploading = store.upload(key, estimate=0)
        try:
            uploading.write(data)
            uploading.finish()
        except Exists:
            return "exists"
        finally:
            uploading.abort()
        return "done"

    return work


def read(store: S3) -> bytes:
    with store.read("big") as pieces:
        return b"".join(pieces)


def give_up(store: S3) -> None:
    uploading = store.upload("new", estimate=0)
    uploading.write(BIG)
    uploading.abort()


CALLS: dict[str, Callable[[S3], Any]] = {
    "check": lambda s: s.check(),
    "get": lambda s: s.get("there"),
    "get nothing": lambda s: s.get("nowhere"),
    "put": lambda s: s.put("there", b"new"),
    "put if absent": lambda s: s.put("new", SMALL, if_absent=True),
    "put if absent, taken": put,
    "upload": upload("new", SMALL),
    "upload, taken": upload("there", SMALL[::-1]),
    "upload in parts": upload("new", BIG),
    "upload in parts, taken": upload("there", BIG),
    "read": read,
    "size": lambda s: s.size("there"),
    "size of nothing": lambda s: s.size("nowhere"),
    "list": lambda s: [(e.key, e.size) for e in s.list("")],
    "delete": lambda s: s.delete("there"),
    "delete nothing": lambda s: s.delete("nowhere"),
    "unfinished": lambda s: [u.key for u in s.unfinished()],
}


@pytest.fixture(scope="module")
def origin(s3server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("calls")
    with faultproxy.before(s3server) as unused:
        found = Place(unused, s3server, folder, folder.name)
    found.straight.put("there", SMALL)
    found.straight.put("big", BIG[: 3 << 20])
    return found


@pytest.fixture
def fresh(
    origin: Place, proxy: FaultProxy, s3server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Place]:
    """A place like `origin`, each time another one."""
    monkeypatch.setattr(s3_module, "PART", 5 << 20)
    made: list[Place] = []

    def make() -> Place:
        made.append(origin.copied(f"{tmp_path.name}-{len(made)}"))
        made[-1].proxy = proxy
        return made[-1]

    return make


def left(place: Place) -> dict[str, bytes]:
    found = {}
    for key in place.content():
        with place.straight.read(key) as pieces:
            found[key] = b"".join(pieces)
    return found


@pytest.mark.parametrize("name", CALLS)
def test_a_fault_that_passes_is_not_seen(name: str, fresh: Callable[[], Place]) -> None:
    call, place = CALLS[name], fresh()
    wanted: list[Any] = []
    requests = count(place, lambda: wanted.append(call(place.struck())))
    objects = left(place)
    assert requests >= 1
    for at, fault in rounds(requests, PASSING):
        place = fresh()
        place.proxy.strike(at, fault)
        got = call(place.struck())
        assert len(place.proxy.struck) == 1, (at, fault)
        place.proxy.calm()
        assert got == wanted[0], (at, fault, place.proxy.struck)
        assert left(place) == objects, (at, fault)


@pytest.mark.long
@pytest.mark.parametrize("name", CALLS)
def test_a_refusal_is_named(name: str, fresh: Callable[[], Place]) -> None:
    call, place = CALLS[name], fresh()
    before = left(place)
    requests = count(place, lambda: call(place.struck()))
    for at, fault in rounds(requests, (Fault.DENIED,)):
        place = fresh()
        place.proxy.strike(at, fault)
        if name == "upload in parts, taken" and at == requests:  # the abort, which is left to the sweeper
            assert call(place.struck()) == "exists"
        else:
            with pytest.raises(Refused) as error:
                call(place.struck())
            assert error.value.reason == "CredentialsRefused"
        assert len(place.proxy.struck) == 1
        assert left(place) == before, at


@pytest.mark.long
@pytest.mark.parametrize("fault", [*PASSING], ids=lambda f: f.name)
@pytest.mark.parametrize("name", ["get", "put if absent", "upload in parts", "read", "list", "delete"])
def test_an_outage_that_stays_is_named(name: str, fault: Fault, fresh: Callable[[], Place]) -> None:
    if fault is Fault.CUT_HEAD and name in ("put if absent", "delete"):
        pytest.skip("the status line alone says that this call is done, so an answer cut behind it is no fault")
    place = fresh()
    place.proxy.strike(1, fault, for_good=True)
    with pytest.raises(Unavailable) as error:
        CALLS[name](place.struck())
    assert error.value.reason == "StoreUnavailable"
    assert place.straight.address in str(error.value)
    assert len(place.proxy.struck) > 1  # it was tried again


@pytest.mark.long
@pytest.mark.parametrize("fault", [f for f in Fault if f is not Fault.STALLED], ids=lambda f: f.name)
def test_giving_up_an_upload_never_fails(fault: Fault, fresh: Callable[[], Place]) -> None:
    place = fresh()
    place.proxy.strike(1, fault, for_good=True, of=lambda r: r.method == "DELETE")
    give_up(place.struck())
    assert place.proxy.struck
    assert place.straight.size("new") is None
    place.proxy.strike(1, fault, of=lambda r: r.method == "DELETE")
    for unfinished in place.straight.unfinished():
        if fault is Fault.DENIED:
            with pytest.raises(Refused):
                place.struck().discard(unfinished)
        place.struck().discard(unfinished)
    assert list(place.straight.unfinished()) == []


def completes(request: Request) -> bool:
    return request.method == "POST" and "uploadId" in request.target


def test_completing_may_say_200_and_mean_an_error(fresh: Callable[[], Place]) -> None:
    place = fresh()
    place.proxy.strike(1, Fault.ERROR_IN_200, of=completes)
    assert upload("new", BIG)(place.struck()) == "done"
    assert (len(place.proxy.struck), left(place)["new"]) == (1, BIG)
    place.proxy.strike(1, Fault.ERROR_IN_200, for_good=True, of=completes)
    with pytest.raises(Unavailable):
        upload("other", BIG)(place.struck())
    assert "other" not in left(place)


def decides(request: Request) -> bool:
    """The one request that makes an object, or does not."""
    return completes(request) or (request.method == "PUT" and "partNumber" not in request.target)


# Completing is repeatable by the protocol: a server may say that it is done, whatever lies there by then.
@pytest.mark.parametrize(
    ("data", "key"),
    [(SMALL, "new"), (SMALL, "there"), (BIG, "there")],
    ids=["one request", "one request, taken", "in parts, taken"],
)
@pytest.mark.parametrize("fault", [Fault.LATE_ERROR, Fault.LOST, Fault.STALLED], ids=lambda f: f.name)
def test_somebody_elses_object_is_never_taken_for_our_own(
    data: bytes, key: str, fault: Fault, fresh: Callable[[], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody said what became of the write, and before the next try another writer's object is in the place."""
    place = fresh()
    other = data[::-1]  # of the same size
    pass_on, done = FaultProxy._pass_on, threading.Event()

    def replaced(proxy: FaultProxy, request: bytes) -> bytes:
        answer = pass_on(proxy, request)
        if proxy.struck and not done.is_set():
            done.set()
            place.straight.put(key, other)
        return answer

    monkeypatch.setattr(FaultProxy, "_pass_on", replaced)
    place.proxy.strike(1, fault, of=decides)
    assert upload(key, data)(place.struck()) == "exists"
    assert done.is_set()
    assert left(place)[key] == other


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]  # a generator of a server
    with s3_server.temporary(tmp_path_factory.mktemp("s3tls") / "s3", tls=True) as server:
        server.make_bucket("backups")
        yield server


@pytest.mark.parametrize("fault", PASSING, ids=lambda f: f.name)
def test_over_tls(fault: Fault, tls_server: S3Server, proxy: FaultProxy, tmp_path: Path) -> None:
    with faultproxy.before(tls_server) as secured:
        spec = s3_spec(secured.server, "backups", tmp_path / "credentials", prefix=tmp_path.name)
        assert tls_server.ca_file is not None
        (tmp_path / "credentials" / "ca.crt").write_bytes(tls_server.ca_file.read_bytes())
        store = S3(spec, Hasty(), outage=OUTAGE)
        secured.strike(1, fault)
        store.put("new", SMALL, if_absent=True)
        assert len(secured.struck) == 1
        secured.strike(1, fault)
        assert store.get("new") == SMALL
        assert len(secured.struck) == 1
