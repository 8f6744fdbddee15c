"""Whole operations over a real S3 server, with a fault at each of their requests.

A fault that passes is not seen. Where one stays, or the store refuses, the operation says so in the product's words;
what counts as a backup is then whole, what was good before is still there, and the next run brings it to its end.
"""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dev.s3 import S3Server
from matriarch.archive import rotation
from matriarch.backup import catalog, expire, names
from matriarch.backup import restore as logical
from matriarch.backup.jobspec import Retention
from matriarch.backup.keys import Kek
from matriarch.backup.names import BackupName
from matriarch.backup.physical import restore as physical
from matriarch.backup.progress import Tracker
from matriarch.backup.s3 import S3
from matriarch.backup.stop import Stop
from matriarch.backup.store import Store
from matriarch.errors import MatriarchError, Refused
from tests.postgres.backup.bed import KEY, ROLES, Postgres, do_restore, make_backup
from tests.postgres.backup.faultbed import Place, count, proxy, rounds
from tests.postgres.backup.faultproxy import PASSING, Fault, FaultProxy
from tests.postgres.backup.physbed import physical_backup, physical_restore

__all__ = ["proxy"]

NEW = Kek.of(b"n" * 32)
PHYSICAL = ("physical backup", "physical restore", "verify physical")


@pytest.fixture(scope="module")
def tiny(tools: Path, short_folder: Path) -> Iterator[Postgres]:
    """A server with one small database."""
    server = Postgres(short_folder / "tiny")
    try:
        server.create().sql(*ROLES, "CREATE DATABASE app OWNER app")
        server.sql("CREATE TABLE t AS SELECT g, md5(g::text) AS m FROM generate_series(1, 2000) g", database="app")
        yield server
    finally:
        server.stop()


@dataclass(frozen=True, slots=True)
class Bed:
    """Places with backups, which rounds copy, and the servers."""

    logical: Place  # three of them
    physical: Place  # one
    tiny: Postgres
    folder: Path


@pytest.fixture(scope="module")
def origins(tiny: Postgres, s3server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Bed:
    folder = tmp_path_factory.mktemp("faults")
    no_proxy = FaultProxy(s3server, 0)
    several = Place(no_proxy, s3server, folder, f"{folder.name}-l")
    for _ in range(3):
        make_backup(several.straight, tiny)
    one = Place(no_proxy, s3server, folder, f"{folder.name}-p")
    physical_backup(one.straight, tiny)
    return Bed(several, one, tiny, folder)


def verify(store: Store, *keys: Kek) -> list[str]:
    """Ids of all that count as backups, each read in whole; the newest first."""
    known = catalog.read_catalog(store)
    for broken in known.broken:
        raise broken.error
    for manifest in known.manifests:
        opened = catalog.open_manifest(store, manifest, keys or (KEY,))
        if manifest.body.kind == "logical":
            logical.check_object(store, opened, Tracker(), Stop())
        else:
            physical.verify(store, opened, Tracker(), Stop(), keys=keys or (KEY,))
    ids = [m.body.id for m in known.manifests]
    assert len(set(ids)) == len(ids), "two manifests of one backup"
    return ids


@dataclass
class Round:
    """One run of an operation in a place of its own, and what must be true after it."""

    bed: Bed
    place: Place
    before: list[str]
    folder: Path  # for this round alone
    name: BackupName
    target: Postgres


def refusal(text: str) -> str:
    return "CredentialsRefused" if "The credentials may not do this" in text else text


def back_up(r: Round, store: S3) -> None:
    assert make_backup(store, r.bed.tiny, task={"name": str(r.name)}).body.id == r.name.id


def back_up_physically(r: Round, store: S3) -> None:
    made = physical_backup(store, r.bed.tiny, chosen=r.name)
    assert names.is_attempt_of(made.manifest.name, r.name)


def one_more(r: Round, ids: list[str], ended: bool) -> None:
    new = ids[: len(ids) - len(r.before)]
    assert ids[len(new) :] == r.before
    assert len(new) == 1 if ended else len(new) <= 1
    for backup_id in new:
        assert backup_id.startswith(r.name.id)  # a physical one's goes on with its attempt's
    for entry in (*r.place.straight.list("logical"), *r.place.straight.list("physical")):
        # What an attempt left that could not reach the store any more: the sweeper's, by its marker.
        assert any(i in entry.key for i in (*r.before, r.name.id)), entry.key


def retain(r: Round, store: S3) -> None:
    done = expire.retain(store, (KEY,), Retention(count=1), None)
    if done.frozen is not None:  # a manifest that cannot be read stops all deletion
        raise Refused(done.frozen, reason=refusal(done.frozen))


def only_the_newest(r: Round, ids: list[str], ended: bool) -> None:
    assert ids[0] == r.before[0]
    assert ids == r.before[:1] if ended else set(ids) <= set(r.before)


def rotate(r: Round, store: S3) -> None:
    done = rotation.rotate(store, [KEY], NEW)
    for holder in done:  # a backup that could not be done says why and stops no other
        if holder.error:
            raise Refused(holder.error, reason=refusal(holder.error))
    assert len(done) == len(r.before)


def both_open(r: Round, ids: list[str], ended: bool) -> None:
    assert ids == r.before
    if ended:
        assert verify(r.place.straight, NEW) == ids


def restore(r: Round, store: S3) -> None:
    do_restore(store, r.target, amcheck=False, restore_id=r.name.id)


def is_restored(r: Round, ids: list[str], ended: bool) -> None:
    assert ids == r.before
    if ended:
        assert r.target.dump("app") == r.bed.tiny.dump("app")
        r.target.sql('DROP DATABASE "app" WITH (FORCE)')
    else:
        assert r.target.databases() == ["postgres"]


def restore_physically(r: Round, store: S3) -> None:
    physical_restore(store, r.folder / "data")


def is_the_same(r: Round, ids: list[str], ended: bool) -> None:
    assert ids == r.before
    if ended:
        if not (good := r.bed.folder / "good").exists():
            physical_restore(r.place.straight, good)
        files = [str(p.relative_to(good)) for p in good.rglob("*") if p.is_file()]
        assert len(files) > 100
        assert filecmp.cmpfiles(good, r.folder / "data", files, shallow=False)[1:] == ([], [])
        shutil.rmtree(r.folder / "data")
    else:
        assert not (r.folder / "data").exists()


def check_all(r: Round, store: S3) -> None:
    verify(store)


def untouched(r: Round, ids: list[str], ended: bool) -> None:
    assert ids == r.before


Work = Callable[[Round, S3], None]
Check = Callable[[Round, list[str], bool], None]

OPERATIONS: dict[str, tuple[Work, Check, int]] = {  # and how many rounds of the short test
    "logical backup": (back_up, one_more, 14),
    "physical backup": (back_up_physically, one_more, 4),
    "expiry": (retain, only_the_newest, 20),
    "rotation": (rotate, both_open, 14),
    "restore": (restore, is_restored, 4),
    "physical restore": (restore_physically, is_the_same, 3),
    "verify": (check_all, untouched, 12),
    "verify physical": (check_all, untouched, 4),
}


@pytest.fixture
def new_round(
    origins: Bed, proxy: FaultProxy, tmp_path: Path, target: Postgres, request: pytest.FixtureRequest
) -> Callable[[str], Round]:
    made: list[Place] = []

    def make(operation: str) -> Round:
        origin = origins.physical if operation in PHYSICAL else origins.logical
        place = origin.copied(f"{tmp_path.name}-{len(made)}")
        place.proxy = proxy
        made.append(place)
        before = [m.body.id for m in catalog.read_catalog(place.straight).manifests]
        name = names.parse(str(BackupName(datetime.now(UTC), names.new_id())))  # as a task has it, in milliseconds
        assert name is not None
        folder = tmp_path / str(len(made))
        folder.mkdir()
        return Round(origins, place, before, folder, name, target)

    return make


def once(operation: str, new_round: Callable[[str], Round]) -> int:
    """The requests of a run without any fault, which has to be good."""
    work, check, _ = OPERATIONS[operation]
    good = new_round(operation)
    requests = count(good.place, lambda: work(good, good.place.struck()))
    check(good, verify(good.place.straight), True)
    print(f"{operation}: {requests} requests")
    return requests


def passing(operation: str, new_round: Callable[[str], Round], share: int | None) -> None:
    work, check, _ = OPERATIONS[operation]
    struck = 0
    for at, fault in rounds(once(operation, new_round), PASSING, share):
        r = new_round(operation)
        r.place.proxy.strike(at, fault)
        try:
            work(r, r.place.struck())
        except Exception as error:
            raise AssertionError(f"request {at} ({r.place.proxy.struck}) of {operation}: {fault}") from error
        struck += len(r.place.proxy.struck)
        hit = [str(s) for s in r.place.proxy.struck]
        r.place.proxy.calm()
        print(at, fault.name, *hit)
        check(r, verify(r.place.straight), True)
    assert struck >= 1


def staying(operation: str, new_round: Callable[[str], Round], share: int | None) -> None:
    work, check, _ = OPERATIONS[operation]
    faults = (Fault.DENIED, Fault.SLOW_DOWN, Fault.RESET, Fault.LOST)
    for at, fault in rounds(once(operation, new_round), faults, share):
        r = new_round(operation)
        r.place.proxy.strike(at, fault, for_good=fault is not Fault.DENIED)
        ended, why = True, None
        try:
            work(r, r.place.struck())
        except MatriarchError as error:
            ended, why = False, getattr(error, "reason", "")
        allowed = (None, "CredentialsRefused" if fault is Fault.DENIED else "StoreUnavailable")
        assert why in allowed, (at, fault, r.place.proxy.struck)
        hit = [str(s) for s in r.place.proxy.struck]
        r.place.proxy.calm()
        print(at, fault.name, ended, *hit[:1])
        check(r, verify(r.place.straight), ended)
        if not ended or "backup" in operation:  # the next try, of the same name; what is complete is only reported
            work(r, r.place.struck())
            check(r, verify(r.place.straight), True)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_fault_that_passes(operation: str, new_round: Callable[[str], Round]) -> None:
    passing(operation, new_round, OPERATIONS[operation][2])


@pytest.mark.long
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_fault_that_stays(operation: str, new_round: Callable[[str], Round]) -> None:
    staying(operation, new_round, -(-OPERATIONS[operation][2] // 2))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_fault_at_every_request(operation: str, new_round: Callable[[str], Round]) -> None:
    passing(operation, new_round, None)
    staying(operation, new_round, None)


def test_a_manifest_whose_answer_was_lost_is_not_written_twice(new_round: Callable[[str], Round]) -> None:
    """The worst moment: the manifest is there, and its writer was not told."""
    for fault in (Fault.LATE_ERROR, Fault.LOST, Fault.STALLED):
        r = new_round("logical backup")
        r.place.proxy.strike(1, fault, of=lambda q: q.method == "PUT" and "/manifests/" in q.target)
        back_up(r, r.place.struck())
        assert len(r.place.proxy.struck) == 1
        one_more(r, verify(r.place.straight), True)
