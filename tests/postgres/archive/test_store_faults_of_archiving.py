"""WAL over a real S3 server, with a fault at each request: stored once and as it was, or said to be not stored.

The calls of archiver and fetcher to their vault are struck one by one, each as a process that has just begun.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dev.s3 import S3Server
from matriarch.archive.keyring import Keyring
from matriarch.archive.names import WalName
from matriarch.archive.vault import Vault
from matriarch.backup.s3 import S3
from matriarch.backup.store import Store
from matriarch.errors import Refused, Unavailable
from matriarch.postgres.lsn import SEGMENT_SIZE, segment_name
from tests.postgres.archive.archivebed import CLUSTER, KEY
from tests.postgres.backup.faultbed import Place, count, proxy, rounds
from tests.postgres.backup.faultproxy import PASSING, Fault, FaultProxy
from tests.unit.archive_world import SYSTEM, named, wal

__all__ = ["proxy"]

SEGMENT = named(segment_name(1, SEGMENT_SIZE))
NEXT = named(segment_name(1, 2 * SEGMENT_SIZE))
HISTORY = named("00000002.history")
FILES: dict[WalName, bytes] = {
    SEGMENT: wal(1, 1, fill=b"one"),
    NEXT: wal(1, 2, fill=b"two"),
    HISTORY: b"1\t0/9000000\tpromoted\n",
}


def vault(store: Store) -> Vault:
    """A process that has just begun: it knows no data key."""
    return Vault(store, Keyring((KEY,), time.time), system=SYSTEM, cluster=CLUSTER)


def push(store: S3) -> None:
    where = vault(store)
    where.claim()
    for name, data in FILES.items():
        where.put(name, data)


def push_again(store: S3) -> None:
    """What is there already, as after a kill between the store's answer and PostgreSQL's being told."""
    for name, data in FILES.items():
        assert vault(store).put(name, data) == 0


def confirm(store: S3) -> None:
    for name, data in FILES.items():
        assert vault(store).confirm(name, data)


def fetch(store: S3) -> None:
    for name, data in FILES.items():
        assert vault(store).get(name) == data
    assert vault(store).get(named(segment_name(1, 3 * SEGMENT_SIZE))) is None


CALLS: dict[str, Callable[[S3], None]] = {
    "push": push,
    "push again": push_again,
    "confirm": confirm,
    "fetch": fetch,
}


@pytest.fixture
def fresh(proxy: FaultProxy, s3server: S3Server, tmp_path: Path) -> Callable[[str], Place]:
    filled = Place(proxy, s3server, tmp_path, f"{tmp_path.name}-filled")
    push(filled.straight)
    made: list[Place] = []

    def make(call: str) -> Place:
        name = f"{tmp_path.name}-{len(made)}"
        made.append(Place(proxy, s3server, tmp_path, name) if call == "push" else filled.copied(name))
        return made[-1]

    return make


def everything_is_there(place: Place) -> None:
    place.proxy.calm()
    fetch(place.straight)
    assert len([*place.straight.list("wal")]) == len(FILES)


@pytest.mark.parametrize("share", [25, pytest.param(None, marks=pytest.mark.long)], ids=["some", "every"])
@pytest.mark.parametrize("call", CALLS)
def test_a_fault_that_passes(call: str, share: int | None, fresh: Callable[[str], Place]) -> None:
    place = fresh(call)
    requests = count(place, lambda: CALLS[call](place.struck()))
    assert requests >= len(FILES)
    for at, fault in rounds(requests, PASSING, share):
        place = fresh(call)
        place.proxy.strike(at, fault)
        CALLS[call](place.struck())
        assert len(place.proxy.struck) == 1, (at, fault)
        everything_is_there(place)


@pytest.mark.long
@pytest.mark.parametrize("call", CALLS)
def test_a_fault_that_stays(call: str, fresh: Callable[[str], Place]) -> None:
    """What was acknowledged is there, nothing is said to be missing, and the next try finds its own."""
    place = fresh(call)
    requests = count(place, lambda: CALLS[call](place.struck()))
    for at, fault in rounds(requests, (Fault.DENIED, Fault.SLOW_DOWN, Fault.LOST), 9):
        place = fresh(call)
        place.proxy.strike(at, fault, for_good=True)
        kind, reason = (Refused, "CredentialsRefused") if fault is Fault.DENIED else (Unavailable, "StoreUnavailable")
        with pytest.raises(kind) as error:
            CALLS[call](place.struck())
        assert getattr(error.value, "reason", "") == reason
        place.proxy.calm()
        CALLS[call](place.struck())
        everything_is_there(place)


def test_two_servers_and_a_lost_answer_are_still_a_split_brain(fresh: Callable[[str], Place]) -> None:
    """Looking for one's own object must not take another's for it."""
    for fault in (Fault.LATE_ERROR, Fault.LOST, Fault.STALLED, Fault.SLOW_DOWN):
        place = fresh("fetch")
        place.proxy.strike(1, fault, of=lambda r: r.method == "PUT")
        with pytest.raises(Refused) as error:
            vault(place.struck()).put(SEGMENT, wal(1, 1, fill=b"other"))
        assert error.value.reason == "SplitBrain"
        assert len(place.proxy.struck) == 1
        everything_is_there(place)
