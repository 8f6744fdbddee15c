"""Whatever happens to a physical backup in its store: a restore names it, and the directory stays empty."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dev.s3 import S3Server
from matriarch.backup import catalog, expire
from matriarch.backup.jobspec import Reason, Retention
from matriarch.backup.keys import Kek
from matriarch.backup.local import Local
from matriarch.backup.physical import plan, restore
from matriarch.backup.progress import Tracker
from matriarch.backup.stop import Stop
from matriarch.backup.store import Store
from matriarch.errors import Corrupt, MatriarchError, Refused
from tests.postgres.backup.bed import KEY, Postgres, copy_of, do_restore, local, make_backup, root
from tests.postgres.backup.physbed import physical_backup, physical_restore


@pytest.fixture(scope="module")
def made(source: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two physical backups in several packs each, and a logical one before them."""
    folder = tmp_path_factory.mktemp("physical") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matriarch.backup.physical.backup.packs", lambda files: plan.packs(files, 8 << 20))
        # Does not compress, so that a pack has many chunks.
        source.sql(
            """CREATE TABLE noise AS SELECT g, (SELECT string_agg(uuid_send(gen_random_uuid()), ''::bytea)
               FROM generate_series(1, 400) WHERE g > 0) AS w FROM generate_series(1, 1500) g"""
        )
        make_backup(local(folder), source, task={"databases": ("app",)})
        physical_backup(local(folder), source)
        physical_backup(local(folder), source)
        source.sql("DROP TABLE noise")
    return folder


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, made: Path, s3server: S3Server, tmp_path: Path) -> Store:
    return copy_of(made, request.param, s3server, tmp_path)


def packs(store: Store) -> list[Path]:
    """Of the newest backup, the biggest first."""
    folder = root(store) / "physical" / catalog.find(store, "latest").body.id
    return sorted(folder.glob("*.pack.*"), key=lambda p: -p.stat().st_size)


def refused(store: Store, directory: Path, reason: str, *, verified: bool = True, **how: object) -> MatriarchError:
    """By a restore; and, unless that was seen often enough, a verification finds the same."""
    with pytest.raises((Corrupt, Refused)) as error:
        physical_restore(store, directory, **how)  # type: ignore[arg-type]
    assert error.value.reason == reason
    keys: tuple[Kek, ...] = how.get("keys", (KEY,))  # type: ignore[assignment]
    if verified:
        with pytest.raises((Corrupt, Refused)) as found:
            verify(store, str(how.get("backup", "latest")), keys)
        assert found.value.reason == reason
    assert not directory.exists() or not list(directory.iterdir())
    return error.value


def verify(store: Store, backup: str, keys: tuple[Kek, ...]) -> None:
    opened = restore.find(store, backup, keys, allow_unencrypted=False)
    restore.verify(store, opened, Tracker(), Stop(), keys=keys)


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0x10]))


def test_one_changed_byte_anywhere(store: Store, tmp_path: Path) -> None:
    dice = random.Random(5)
    folder = packs(store)[0].parent
    for path in (*packs(store)[:3], packs(store)[-1], *folder.glob("map.*")):
        size = path.stat().st_size
        header = int.from_bytes(path.read_bytes()[16:20], "big")
        # The slots after the header are free to be replaced by a copy: the stored digest still names them.
        positions = (0, 9, 40, header + 2, size - 1, *(dice.randrange(size) for _ in range(3)))
        for position in positions if isinstance(store, Local) else positions[-2:]:
            flip(path, position)
            found = refused(store, tmp_path / "data", "ObjectCorrupt", verified=False)
            assert path.name in str(found), position
            flip(path, position)
    physical_restore(store, tmp_path / "data")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(lambda p: p[0].unlink(), "ObjectMissing", id="gone"),
        pytest.param(lambda p: p[0].write_bytes(p[0].read_bytes()[:-1]), "ObjectCorrupt", id="cut by one byte"),
        pytest.param(lambda p: p[0].write_bytes(p[0].read_bytes() + b"\0"), "ObjectCorrupt", id="a byte more"),
        pytest.param(lambda p: p[0].write_bytes(b""), "ObjectCorrupt", id="empty"),
        pytest.param(lambda p: shutil.copy(p[1], p[0]), "ObjectCorrupt", id="doubled"),
        pytest.param(lambda p: reorder(p[0]), "ObjectCorrupt", id="two chunks in the other order"),
    ],
)
def test_a_pack_that_is_not_the_one(
    store: Store, tmp_path: Path, damage: Callable[[list[Path]], object], reason: str
) -> None:
    some = packs(store)
    damage(some)
    assert some[0].name in str(refused(store, tmp_path / "data", reason))


def reorder(path: Path) -> None:
    """The first two chunks of a sealed object, swapped."""
    data = path.read_bytes()
    begin = int.from_bytes(data[16:20], "big")
    begin += 4 + int.from_bytes(data[begin : begin + 4], "big")
    chunk = (1 << 20) + 16
    assert len(data) > begin + 2 * chunk
    a, b = data[begin : begin + chunk], data[begin + chunk : begin + 2 * chunk]
    path.write_bytes(data[:begin] + b + a + data[begin + 2 * chunk :])


def test_two_packs_swapped_and_one_of_another_backup(store: Store, tmp_path: Path) -> None:
    first, second = packs(store)[:2]
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    refused(store, tmp_path / "data", "ObjectCorrupt")
    first.write_bytes(one)
    second.write_bytes(two)
    (other,) = (d for d in first.parent.parent.iterdir() if d != first.parent)
    shutil.copy(other / first.name, first)
    assert first.name in str(refused(store, tmp_path / "data", "ObjectCorrupt"))
    shutil.copy(next(other.glob("map.*")), next(first.parent.glob("map.*")))
    assert "map.json" in str(refused(store, tmp_path / "data", "ObjectCorrupt"))


def test_keys(store: Store, tmp_path: Path) -> None:
    refused(store, tmp_path / "data", "WrongKey", keys=(Kek.of(bytes(32)),))
    refused(store, tmp_path / "data", "KeyMissing", keys=())


def test_a_directory_that_is_not_empty(store: Store, tmp_path: Path) -> None:
    for name, word in (("postmaster.pid", "a server runs"), ("mine", "not empty")):
        directory = tmp_path / name
        directory.mkdir()
        (directory / name).write_text("1")
        with pytest.raises(Refused, match=word) as error:
            physical_restore(store, directory)
        assert error.value.reason == Reason.TARGET_NOT_EMPTY
        assert [p.name for p in directory.iterdir()] == [name]


def test_the_kinds_are_not_mistaken_for_each_other(store: Store, tmp_path: Path, target: Postgres) -> None:
    kinds = {m.body.kind: m.body.id for m in catalog.read_catalog(store).manifests}
    assert "logical backup" in str(refused(store, tmp_path / "data", "BadSpec", backup=kinds["logical"]))
    with pytest.raises(Refused, match="physical backup") as error:
        do_restore(store, target, backup=kinds["physical"])
    assert error.value.reason == Reason.BAD_SPEC


def test_a_backup_with_a_missing_pack_does_not_count(store: Store) -> None:
    facts = expire.gather(store, catalog.read_catalog(store), [KEY], Retention())
    assert [f.good for f in facts] == [True, True, True]
    packs(store)[2].unlink()
    facts = expire.gather(store, catalog.read_catalog(store), [KEY], Retention())
    assert [f.good for f in facts] == [False, True, True]
