"""Restores that take what is the same from another data directory: the same files as without, and fewer packs read."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from matriarch.backup import catalog
from matriarch.backup.jobspec import LocalStore, Reason
from matriarch.backup.local import Local
from matriarch.backup.physical import plan, restore
from matriarch.backup.physical.contents import Contents, Pack
from matriarch.backup.physical.exclude import CONTROL
from matriarch.backup.progress import Tracker
from matriarch.backup.stop import Stop
from matriarch.errors import Corrupt, Refused, Unavailable
from tests.postgres.backup.bed import KEY, Postgres, local, root
from tests.postgres.backup.incrbed import checksums_are_right, content, incremental, summarizing
from tests.postgres.backup.physbed import amcheck, load, physical_restore, started

PACK = 4 << 20  # bytes: of a small server's files there have to be several


class Counted(Local):
    """Which packs were read."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        super().__init__(LocalStore(path=str(folder)))
        self.packs: list[str] = []
        self.then: Callable[[], object] = lambda: None

    @contextmanager
    def read(self, key: str) -> Iterator[Iterator[bytes]]:
        if ".pack" in key:
            self.packs.append(key)
            self.then()
        with super().read(key) as pieces:
            yield pieces


@pytest.fixture(scope="module")
def server(tools: Path, short_folder: Path) -> Iterator[Postgres]:
    """With WAL summaries, and tables of which one never changes."""
    made = Postgres(short_folder / "reuse")
    try:
        made.create()
        summarizing(made)
        noise = "(SELECT string_agg(uuid_send(gen_random_uuid()), ''::bytea) FROM generate_series(1, 90) WHERE g > 0)"
        made.sql(
            f"CREATE TABLE quiet AS SELECT g AS id, {noise} AS w FROM generate_series(1, 9000) g",
            f"CREATE TABLE busy AS SELECT g AS id, 0 AS n, {noise} AS w FROM generate_series(1, 6000) g",
            "VACUUM (FREEZE, ANALYZE)",
            "CHECKPOINT",
        )
        yield made
    finally:
        made.stop()


@pytest.fixture(autouse=True, scope="module")
def small_packs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matriarch.backup.physical.backup.packs", lambda files: plan.packs(files, PACK))
        yield


@pytest.fixture(scope="module")
def made(server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one backup, and what a restore without anything to take makes of it, beside it."""
    folder = tmp_path_factory.mktemp("reuse")
    incremental(local(folder / "store"), server)
    physical_restore(local(folder / "store"), folder / "plain")
    return folder


@pytest.fixture
def store(made: Path) -> Counted:
    return Counted(made / "store")


@pytest.fixture
def old(made: Path, tmp_path: Path) -> Path:
    """A directory with all of the backup's content."""
    return Path(shutil.copytree(made / "plain", tmp_path / "old"))


def files(directory: Path) -> dict[str, object]:
    """All that is in it, by content, without following a link."""
    found: dict[str, object] = {}
    for path in sorted(directory.rglob("*")):
        name, stat = str(path.relative_to(directory)), path.lstat()
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file():
            found[name] = (stat.st_mode, stat.st_size, stat.st_mtime, hashlib.sha256(path.read_bytes()).hexdigest())
        else:
            found[name] = stat.st_mode
    return found


def same(new: Path, plain: Path) -> bool:
    """But for the time of what a restore writes itself."""
    one, other = files(new), files(plain)
    for name in ("postgresql.auto.conf", "recovery.signal"):
        assert (new / name).read_bytes() == (plain / name).read_bytes()
        del one[name], other[name]
    return one == other


def the_map(store: Local, backup: str = "latest") -> Contents:
    opened = restore.find(store, backup, (KEY,), allow_unencrypted=False)
    return restore.read_map(store, opened)[1]


def biggest(store: Local) -> str:
    """The file that lies in the most packs: a table."""
    return max(the_map(store).files, key=lambda f: len({p.pack for p in f.pieces})).path


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_of_the_same_content_nothing_is_fetched(store: Counted, old: Path, made: Path, tmp_path: Path) -> None:
    before, tracker = files(old), Tracker()
    physical_restore(store, tmp_path / "new", reuse=old, tracker=tracker)
    assert store.packs == []
    assert tracker.reused == the_map(store).size
    assert same(tmp_path / "new", made / "plain")
    assert files(old) == before


def half_gone(old: Path, store: Local) -> None:
    """Every second file."""
    for number, path in enumerate(sorted(p for p in old.rglob("*") if p.is_file())):
        if number % 2:
            path.unlink()


def half_long(old: Path, store: Local) -> None:
    path = old / biggest(store)
    os.truncate(path, path.stat().st_size // 2)


def turned_around(old: Path, store: Local) -> None:
    path = old / biggest(store)
    content = path.read_bytes()
    path.write_bytes(content[PACK : 2 * PACK] + content[:PACK] + content[2 * PACK :])


def linked_away(old: Path, store: Local) -> None:
    """With the same content behind the link."""
    (old / "base").rename(old.parent / "base")
    (old / "base").symlink_to(old.parent / "base")


def linked(old: Path, store: Local) -> None:
    path = old / biggest(store)
    path.rename(old.parent / "table")
    path.symlink_to(old.parent / "table")


def unreadable(old: Path, store: Local) -> None:
    """A directory under the table's name, and a pipe under another one."""
    path = old / biggest(store)
    path.unlink()
    path.mkdir()
    (old / CONTROL).unlink()
    os.mkfifo(old / CONTROL)


@pytest.mark.parametrize(
    ("damage", "packs"),
    [
        pytest.param(lambda old, store: flip(old / biggest(store), PACK + 5), 1, id="one byte"),
        pytest.param(lambda old, store: flip(old / CONTROL, 7), 1, id="one byte of pg_control"),
        pytest.param(turned_around, 2, id="two parts of a file swapped"),
        pytest.param(half_long, None, id="half of a file"),
        pytest.param(half_gone, None, id="half of the files"),
        pytest.param(linked, None, id="a symbolic link"),
        pytest.param(linked_away, None, id="a folder that is a symbolic link"),
        pytest.param(unreadable, None, id="no files"),
    ],
)
def test_a_damaged_directory(
    store: Counted,
    old: Path,
    made: Path,
    tmp_path: Path,
    damage: Callable[[Path, Local], None],
    packs: int | None,
) -> None:
    damage(old, store)
    before = files(old)
    tracker = Tracker()
    physical_restore(store, tmp_path / "new", reuse=old, tracker=tracker)
    assert same(tmp_path / "new", made / "plain")
    assert files(old) == before
    contents = the_map(store)
    fetched = {pack.path: pack.size for pack in contents.packs if pack.path in store.packs}
    assert len(store.packs) == len(fetched)  # none twice
    assert tracker.reused == contents.size - sum(fetched.values())
    assert 0 < len(fetched) < len(contents.packs)
    assert packs is None or len(fetched) == packs


def test_a_directory_of_something_else(store: Counted, made: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    tracker = Tracker()
    physical_restore(store, tmp_path / "new", reuse=tmp_path / "old", tracker=tracker)
    assert same(tmp_path / "new", made / "plain")
    assert tracker.reused == 0
    assert len(store.packs) == len(the_map(store).packs)


def test_a_pack_of_which_one_piece_differs_is_fetched_whole(
    store: Counted, old: Path, made: Path, tmp_path: Path
) -> None:
    contents = the_map(store)
    number, pieces = max(contents.by_pack().items(), key=lambda np: len(np[1]))
    assert len(pieces) > 20
    file, last = pieces[-1]
    flip(old / file.path, last.end - 1)
    physical_restore(store, tmp_path / "new", reuse=old)
    assert store.packs == [contents.packs[number].path]
    assert same(tmp_path / "new", made / "plain")


def test_the_directory_of_a_server_that_writes(server: Postgres, short_folder: Path, tmp_path: Path) -> None:
    """A chain, onto the present: of the newest backup and of those before it."""
    folder = tmp_path / "store"
    backups = [incremental(local(folder), server)[0]]
    told: dict[str, object] = {}
    for number in (1, 2):
        server.sql(
            f"UPDATE busy SET n = {number} WHERE id % 700 = {number}",
            "CREATE TABLE IF NOT EXISTS more (id int)",
            "INSERT INTO more SELECT g FROM generate_series(1, 50000) g",
        )
        backups.append(incremental(local(folder), server)[0])
        told = content(server)
    with load(server, "other"):
        for backup in backups:
            store, plain, new = Counted(folder), tmp_path / "plain" / backup.body.id, tmp_path / "new" / backup.body.id
            physical_restore(store, plain, backup=backup.body.id)
            all_packs, store.packs = len(store.packs), []
            tracker = Tracker()
            physical_restore(store, new, backup=backup.body.id, reuse=server.folder / "data", tracker=tracker)
            assert same(new, plain)
            assert 0 < len(store.packs) < all_packs
            assert tracker.reused > 16 << 20  # the quiet table
    here = short_folder / "reused"
    here.mkdir()
    shutil.move(tmp_path / "new" / backups[-1].body.id, here / "data")
    restored = started(here)
    try:
        assert content(restored) == told
        amcheck(restored)
    finally:
        restored.stop()
    checksums_are_right(here / "data")
    server.sql("DROP TABLE more, other")


def test_a_chain_onto_the_full_one_below_it(server: Postgres, tmp_path: Path) -> None:
    """The old directory has pages that an increment replaces: only those come from the increment."""
    store = Counted(tmp_path / "store")
    full, _ = incremental(store, server)
    physical_restore(store, tmp_path / "old", backup=full.body.id)
    server.sql("UPDATE busy SET n = 9 WHERE id % 900 = 1")
    newest, _ = incremental(store, server)
    physical_restore(store, tmp_path / "plain")
    store.packs = []
    physical_restore(store, tmp_path / "new", reuse=tmp_path / "old")
    assert same(tmp_path / "new", tmp_path / "plain")
    assert {path.split("/")[1] for path in store.packs} == {newest.body.id}
    physical_restore(store, tmp_path / "back", backup=full.body.id, reuse=tmp_path / "plain")
    assert same(tmp_path / "back", tmp_path / "old")


def test_an_end_in_the_middle_leaves_the_directory_empty(store: Counted, old: Path, made: Path, tmp_path: Path) -> None:
    half_gone(old, store)
    before = files(old)
    stop = Stop()
    store.then = stop.set
    (tmp_path / "new").mkdir()
    with pytest.raises(Unavailable, match="cancelled"):
        physical_restore(store, tmp_path / "new", reuse=old, stop=stop)
    assert list((tmp_path / "new").iterdir()) == []
    assert files(old) == before


def test_a_damaged_pack_is_still_found(store: Counted, old: Path, made: Path, tmp_path: Path) -> None:
    """One that is fetched; of what is not fetched nobody knows."""
    copy = Counted(Path(shutil.copytree(made / "store", tmp_path / "copy")))
    pack = next(p for p in copy_packs(copy) if p.size == PACK)
    flip(root(copy) / pack.path, pack.stored_size // 2)
    physical_restore(copy, tmp_path / "new", reuse=old)
    assert same(tmp_path / "new", made / "plain")
    (old / biggest(copy)).unlink()
    before = files(old)
    with pytest.raises(Corrupt) as error:
        physical_restore(copy, tmp_path / "again", reuse=old)
    assert error.value.reason == Reason.OBJECT_CORRUPT
    assert not (tmp_path / "again").exists()
    assert files(old) == before


def copy_packs(store: Local) -> tuple[Pack, ...]:
    """Those of the biggest file."""
    contents = the_map(store)
    (file,) = (f for f in contents.files if f.path == biggest(store))
    return tuple(contents.packs[p.pack] for p in file.pieces)


def test_a_directory_that_changes_all_the_while(store: Counted, old: Path, made: Path, tmp_path: Path) -> None:
    table, over = old / biggest(store), threading.Event()

    def scribble() -> None:
        at = 0
        while not over.wait(0.001):
            flip(table, at % table.stat().st_size)
            at += 999_983

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        for number in range(3):
            physical_restore(store, tmp_path / str(number), reuse=old)
            assert same(tmp_path / str(number), made / "plain")
    finally:
        over.set()
        thread.join()


def test_refusals_come_before_anything_is_done(store: Counted, old: Path, tmp_path: Path) -> None:
    for reuse, new, word in (
        (tmp_path / "gone", tmp_path / "new", "no directory"),
        (old, old / "new", "read and filled"),
        (old, old, "read and filled"),
        (old / "base", old, "read and filled"),
    ):
        with pytest.raises(Refused, match=word):
            physical_restore(store, new, reuse=reuse)
    assert not (tmp_path / "new").exists()
    assert not (old / "new").exists()
    assert catalog.find(store, "latest").body.id


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    """A file system whose files can share extents."""
    place = tmp_path / "xfs"
    place.mkdir()
    with (tmp_path / "image").open("wb") as file:
        file.truncate(600 << 20)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", tmp_path / "image"], check=True)
    subprocess.run(["mount", "-o", "loop", tmp_path / "image", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def used(place: Path) -> int:
    os.sync()
    about = os.statvfs(place)
    return (about.f_blocks - about.f_bfree) * about.f_frsize


def test_on_xfs_the_extents_are_shared(store: Counted, made: Path, xfs: Path) -> None:
    old = Path(shutil.copytree(made / "plain", xfs / "old"))
    table, size = biggest(store), the_map(store).size
    flip(old / table, PACK + 5)
    before, empty, tracker = files(old), used(xfs), Tracker()
    physical_restore(store, xfs / "new", reuse=old, tracker=tracker)
    assert len(store.packs) == 1
    assert tracker.reused == size - PACK
    assert same(xfs / "new", made / "plain")
    assert files(old) == before
    assert used(xfs) - empty < size // 2
    # Each has its own from here on.
    (old / table).write_bytes(b"\xaa" * (old / table).stat().st_size)
    assert same(xfs / "new", made / "plain")
