"""The archiver against a store that fails at every call and is forgotten at any moment: acknowledged means stored."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from matriarch.archive import archiver as module
from matriarch.archive.archiver import Archiver
from matriarch.archive.fetching import Fetcher
from matriarch.archive.names import WalName
from matriarch.archive.plan import Pause
from matriarch.archive.walfolder import WalFolder
from tests.unit.archive_world import SYSTEM, DataFolder, MemoryStore, named, vault, wal


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(module, "RESCAN_AFTER", 0.01)
    monkeypatch.setattr(Pause, "longer", lambda self, now, **_: Pause(self.failures + 1, now + 0.02))


@asynccontextmanager
async def running(
    data: DataFolder, store: MemoryStore, *, leads: bool = True, patience: float = 20.0
) -> AsyncIterator[Archiver]:
    archiver = Archiver(
        WalFolder(data.root), lambda _: vault(store, level=-5), leads=leads, patience=patience, parallel=3
    )
    task = asyncio.create_task(archiver.run())
    try:
        yield archiver
    finally:
        task.cancel()
        for work in archiver._state.running.values():
            work.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def push(archiver: Archiver, data: DataFolder, name: WalName) -> str:
    answer = await archiver.push(*data.push_arguments(name))
    if answer.word == "ok":
        data.acknowledge(name)
    return answer.word


async def test_a_backlog_is_stored_ahead_of_the_asking(tmp_path: Path) -> None:
    data, store = DataFolder(tmp_path / "d"), MemoryStore()
    names = [data.finish(1, n, fill=bytes([n])) for n in range(1, 9)]
    async with running(data, store) as archiver:
        assert await push(archiver, data, names[0]) == "ok"
        while archiver.report().pending:  # noqa: ASYNC110 - it has no event for that
            await asyncio.sleep(0.01)
        calls = store.calls
        for name in names[1:]:
            assert await push(archiver, data, name) == "ok"
        assert store.calls == calls  # none of them asked the store anything
        report = archiver.report()
    assert (report.stored, report.last_name, report.error) == (8, names[-1].text, "")
    assert report.last_lsn == "0/9000000"
    assert all(vault(store).get(n) == (data.wal / n.text).read_bytes() for n in names)
    assert archiver._threads._max_workers == 4  # so that no more than three files are in memory


@pytest.mark.parametrize("seed", range(6))
async def test_store_errors_at_every_call_and_crashes_at_any_moment(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    data = DataFolder(tmp_path / "d")
    store = MemoryStore(faults=[rng.choice([True, None, False]) for _ in range(40)])
    left = [data.finish(1, n, fill=rng.randbytes(100)) for n in range(1, 6)]
    left.append(data.write("00000002.history", b"1\t0/6000000\tpromoted\n"))
    left.append(data.finish(2, 6))
    acknowledged: list[WalName] = []
    while left:
        async with running(data, store) as archiver:  # forgets everything each time
            life = asyncio.get_running_loop().time() + rng.uniform(0.05, 0.6)
            order = sorted(left, key=lambda n: n.order)
            while order and asyncio.get_running_loop().time() < life:
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.01, life - asyncio.get_running_loop().time())):
                        if await push(archiver, data, order[0]) == "ok":
                            name = order.pop(0)
                            left.remove(name)
                            acknowledged.append(name)
                            assert name.key(encrypted=True) in store.objects
    store.faults.clear()
    assert len(acknowledged) == 7
    assert all(vault(store).get(n) == (data.wal / n.text).read_bytes() for n in acknowledged)
    keys = [k for k in store.order if k.startswith("wal/")]
    assert len(keys) == len(set(keys)) == 7
    assert keys.index("wal/00000002/00000002.history.zst.enc") < min(
        i for i, k in enumerate(keys) if k.startswith("wal/00000002/0000000200")
    )


async def test_a_refused_file_is_never_acknowledged_and_holds_up_no_other(tmp_path: Path) -> None:
    data, store = DataFolder(tmp_path / "d"), MemoryStore()
    bad = data.write("000000010000000000000001", b"short")
    good = data.finish(1, 2)
    async with running(data, store) as archiver:
        answer = await archiver.push(*data.push_arguments(bad))
        assert (answer.word, "is not what its name says" in answer.why) == ("no", True)
        assert await push(archiver, data, good) == "ok"
        assert archiver.report().reason == "BadSegment"
        (data.wal / bad.text).write_bytes(wal(1, 1))
        async with asyncio.timeout(5):
            while await push(archiver, data, bad) != "ok":  # noqa: ASYNC110 - PostgreSQL asks again
                await asyncio.sleep(0.02)
        assert archiver.report().error == ""


async def test_a_file_that_is_gone_holds_up_no_other(tmp_path: Path) -> None:
    data, store = DataFolder(tmp_path / "d"), MemoryStore()
    gone, good = data.finish(1, 1), data.finish(1, 2)
    (data.wal / gone.text).unlink()
    async with running(data, store) as archiver:
        assert await push(archiver, data, good) == "ok"
    assert gone.key(encrypted=True) not in store.objects


async def test_other_content_under_a_stored_name(tmp_path: Path) -> None:
    data, store = DataFolder(tmp_path / "d"), MemoryStore()
    name = data.finish(1, 1, fill=b"one")
    vault(store).put(name, wal(1, 1, fill=b"two"))
    before = dict(store.objects)
    async with running(data, store) as archiver:
        answer = await archiver.push(*data.push_arguments(name))
    assert (answer.word, archiver.report().reason) == ("no", "SplitBrain")
    assert {k: v for k, v in store.objects.items() if k.startswith("wal/")} == before


async def test_a_file_that_changes_after_it_was_stored_is_looked_at_again(tmp_path: Path) -> None:
    data, store = DataFolder(tmp_path / "d"), MemoryStore()
    name = data.finish(1, 1, fill=b"one")
    async with running(data, store) as archiver:
        while not archiver.report().stored:  # noqa: ASYNC110 - the same
            await asyncio.sleep(0.01)
        (data.wal / name.text).write_bytes(wal(1, 1, fill=b"two"))
        assert (await archiver.push(*data.push_arguments(name))).word == "no"


async def test_another_servers_file_is_not_answered_for(tmp_path: Path) -> None:
    data, other, store = DataFolder(tmp_path / "d"), DataFolder(tmp_path / "o"), MemoryStore()
    data.finish(1, 1)
    name = other.finish(1, 1)
    async with running(data, store) as archiver:
        answer = await archiver.push(*other.push_arguments(name))
        assert (answer.word, "not in the pg_wal" in answer.why) == ("no", True)


async def test_a_replica_keeps_what_the_primary_has_not_stored(tmp_path: Path) -> None:
    data, store = DataFolder(tmp_path / "d"), MemoryStore()
    one, two = data.finish(1, 1), data.finish(1, 2)
    vault(store).put(one, (data.wal / one.text).read_bytes())
    async with running(data, store, leads=False, patience=0.5) as archiver:
        assert await push(archiver, data, one) == "ok"
        assert await push(archiver, data, two) == "no"
        assert two.key(encrypted=True) not in store.objects
        assert archiver.report().error == ""  # waiting is no failure
        archiver.leads = True
        assert await push(archiver, data, two) == "ok"
    assert vault(store).get(two) is not None


async def test_a_replica_stores_what_nobody_else_does(tmp_path: Path) -> None:
    """Its primary may be a younger copy that never had the file: it would be kept here for ever."""
    data, store = DataFolder(tmp_path / "d"), MemoryStore()
    old, new = data.finish(1, 1), data.finish(1, 2)
    before = time.time() - module.STORES_ITSELF - 10
    os.utime(data.status / f"{old}.ready", (before, before))
    async with running(data, store, leads=False, patience=0.5) as archiver:
        assert await push(archiver, data, old) == "ok"
        assert await push(archiver, data, new) == "no"
    assert [k for k in store.order if k.startswith("wal/")] == [old.key(encrypted=True)]


async def test_a_history_that_nobody_asks_for_any_more_is_stored_too(tmp_path: Path) -> None:
    data, store = DataFolder(tmp_path / "d"), MemoryStore()
    (data.wal / "00000002.history").write_bytes(b"1\t0/1000000\tpromoted\n")
    name = data.finish(2, 1)
    async with running(data, store) as archiver:
        assert await push(archiver, data, name) == "ok"
    wal_keys = [k for k in store.order if k.startswith("wal/")]
    assert wal_keys == ["wal/00000002/00000002.history.zst.enc", name.key(encrypted=True)]


async def test_a_refused_history_is_not_tried_without_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pause, "longer", lambda self, now, **_: Pause(self.failures + 1, now + 60))
    data, store = DataFolder(tmp_path / "d"), MemoryStore()
    (data.wal / "00000002.history").write_bytes(b"1\t0/1000000\tpromoted\n")
    vault(store).put(named("00000002.history"), b"1\t0/2000000\tanother\n")
    name = data.finish(2, 1)
    async with running(data, store, patience=0.7) as archiver:
        assert await push(archiver, data, name) == "no"  # it would be of no use without its history
        assert archiver.report().reason == "SplitBrain"
    assert store.calls < 20


async def test_another_systems_folder_is_refused(tmp_path: Path) -> None:
    data, store = DataFolder(tmp_path / "d"), MemoryStore()
    store.objects["owner.json"] = b'{"cluster":null,"system_identifier":"1"}'
    name = data.finish(1, 1)
    async with running(data, store, patience=0.3) as archiver:
        answer = await archiver.push(*data.push_arguments(name))
        assert (answer.word, archiver.report().reason) == ("no", "PrefixOwnedByAnother")
    assert list(store.objects) == ["owner.json"]


async def test_files_of_data_that_took_the_place_are_not_stored_among_those_of_before(tmp_path: Path) -> None:
    """A Restore in place exchanges the two folders while this process works for the first."""
    data, store = DataFolder(tmp_path / "d"), MemoryStore()
    name = data.finish(1, 1)
    async with running(data, store, patience=1.0) as archiver:
        assert await push(archiver, data, name) == "ok"
        before = dict(store.objects)
        data.root.rename(tmp_path / "before")
        other = DataFolder(tmp_path / "d", system=SYSTEM + 1)
        history = other.write("00000002.history", b"1\t0/2000000\tno recovery target specified\n")
        answer = await archiver.push(*other.push_arguments(history))
        assert (answer.word, archiver.report().reason) == ("no", "OtherSystem")
        assert f"holds database system {SYSTEM + 1}" in answer.why
    assert store.objects == before


async def test_nothing_is_fetched_for_data_that_took_the_place(tmp_path: Path) -> None:
    data, store = DataFolder(tmp_path / "d"), MemoryStore()
    vault(store).put(named("000000010000000000000001"), wal(1, 1))
    folder = WalFolder(data.root)
    fetcher = Fetcher(lambda: vault(store), folder.own_system, tmp_path / "spool", prefetch=0, patience=0.0)
    assert (await fetcher.fetch("000000010000000000000001")).word == "ok"
    data.root.rename(tmp_path / "before")
    DataFolder(tmp_path / "d", system=SYSTEM + 1)
    found = await fetcher.fetch("000000010000000000000001")
    assert (found.word, "in place of" in found.text) == ("no", True)
