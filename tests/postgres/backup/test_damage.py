"""Whatever happens to a backup in its store: a restore says what is wrong by name, and the target is as it was."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dev.s3 import S3Server
from matriarch.backup import catalog, restore
from matriarch.backup.format import canonical
from matriarch.backup.jobspec import ClusterIdentity
from matriarch.backup.keys import Kek
from matriarch.backup.local import Local
from matriarch.backup.progress import Tracker
from matriarch.backup.stop import Stop
from matriarch.backup.store import Store
from matriarch.errors import Corrupt, MatriarchError, Refused
from tests.postgres.backup.bed import KEY, Postgres, copy_of, do_restore, keys_in, local, make_backup, root


@pytest.fixture(scope="module")
def two_backups(source: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two complete backups of one server."""
    folder = tmp_path_factory.mktemp("damage") / "store"
    make_backup(local(folder), source)
    make_backup(local(folder), source)
    return folder


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, two_backups: Path, s3server: S3Server, tmp_path: Path) -> Store:
    return copy_of(two_backups, request.param, s3server, tmp_path)


def refused(store: Store, target: Postgres, reason: str, *, backup: str = "latest", **how: object) -> MatriarchError:
    """By a restore; and a verification finds the same."""
    before = target.state()
    with pytest.raises((Corrupt, Refused)) as error:
        do_restore(store, target, backup=backup, **how)  # type: ignore[arg-type]
    assert target.state() == before
    assert error.value.reason == reason
    if "manifest_sha256" not in how:  # which only a restore is told
        keys: tuple[Kek, ...] = how.get("keys", (KEY,))  # type: ignore[assignment]
        with pytest.raises((Corrupt, Refused)) as found:
            restore.check_object(
                store, restore.find_trusted(store, backup, keys, allow_unencrypted=False), Tracker(), Stop()
            )
        assert str(found.value) == str(error.value)
    return error.value


def data_file(store: Store) -> Path:
    return root(store) / catalog.find(store, "latest").body.object.path


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x40
    path.write_bytes(data)


def test_one_changed_byte_anywhere_in_the_object(store: Store, target: Postgres) -> None:
    path = data_file(store)
    whole = path.read_bytes()
    dice = random.Random(1)
    header = int.from_bytes(whole[16:20], "big")
    named = [
        0,
        8,
        16,
        20,
        21,
        40,
        header - 40,
        header - 1,
        header,
        header + 3,
        header + 20,
        len(whole) - 17,
        len(whole) - 1,
    ]
    before = target.state()
    more = 40 if isinstance(store, Local) else 5
    for position in (*named, *(dice.randrange(len(whole)) for _ in range(more))):
        flip(path, position)
        with pytest.raises((Corrupt, Refused)) as error:
            do_restore(store, target, backup="latest")
        assert error.value.reason == "ObjectCorrupt", position
        path.write_bytes(whole)
    assert target.state() == before
    do_restore(store, target, amcheck=False)


def test_one_changed_byte_anywhere_in_the_manifest(store: Store, target: Postgres) -> None:
    path = root(store) / catalog.find(store, "latest").key
    whole = path.read_bytes()
    dice = random.Random(2)
    before = target.state()
    more = 60 if isinstance(store, Local) else 10
    for position in (0, 1, len(whole) - 1, *(dice.randrange(len(whole)) for _ in range(more))):
        flip(path, position)
        with pytest.raises(Corrupt) as error:
            do_restore(store, target, backup="latest")
        assert error.value.reason == "ManifestCorrupt", position
        path.write_bytes(whole)
    assert target.state() == before


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(lambda p, _: p.write_bytes(p.read_bytes()[:-1]), "ObjectCorrupt", id="cut by one byte"),
        pytest.param(lambda p, _: p.write_bytes(p.read_bytes()[: 1 << 14]), "ObjectCorrupt", id="cut in the middle"),
        pytest.param(lambda p, _: p.write_bytes(b""), "ObjectCorrupt", id="empty"),
        pytest.param(lambda p, _: p.write_bytes(p.read_bytes() + b"\0"), "ObjectCorrupt", id="a byte more"),
        pytest.param(lambda p, _: p.write_bytes(p.read_bytes() * 2), "ObjectCorrupt", id="twice itself"),
        pytest.param(lambda p, other: shutil.copy(other, p), "ObjectCorrupt", id="another backup's object"),
        pytest.param(lambda p, _: p.unlink(), "ObjectMissing", id="gone"),
    ],
)
def test_an_object_that_is_not_the_one(
    store: Store, target: Postgres, damage: Callable[[Path, Path], object], reason: str
) -> None:
    mine = data_file(store)
    (other,) = (p for p in mine.parent.iterdir() if p != mine)
    damage(mine, other)
    error = refused(store, target, reason)
    assert mine.name in str(error)


def test_a_manifest_under_another_name(store: Store, target: Postgres) -> None:
    """An attacker without the key who makes an old backup the newest one."""
    first, second = sorted((root(store) / "manifests").iterdir())
    second.write_bytes(first.read_bytes())
    refused(store, target, "ManifestCorrupt")


def test_a_manifest_made_by_somebody_without_the_key(store: Store, target: Postgres) -> None:
    """Well-formed down to its own digest, but its HMAC is not ours."""
    import hashlib

    path = root(store) / catalog.find(store, "latest").key
    outer = json.loads(path.read_bytes())
    outer["body"]["object"]["text_size"] -= 1
    outer["sha256"] = hashlib.sha256(canonical(outer["body"])).hexdigest()
    path.write_bytes(canonical(outer))
    assert "not written by a holder of its key" in str(refused(store, target, "ManifestCorrupt"))


def test_a_backup_in_the_clear_in_the_place_of_an_encrypted_one(
    source: Postgres, store: Store, target: Postgres
) -> None:
    make_backup(store, source, key=None)
    assert "not encrypted" in str(refused(store, target, "Unencrypted"))
    do_restore(store, target, allow_unencrypted=True, amcheck=False)


def test_a_manifest_that_is_gone(store: Store, target: Postgres) -> None:
    manifest = catalog.find(store, "latest")
    (root(store) / manifest.key).unlink()
    refused(store, target, "ManifestMissing", backup=manifest.body.id)
    # The other one is the latest then; it is whole.
    assert catalog.find(store, "latest").body.id != manifest.body.id


def test_a_damaged_newest_manifest_is_not_passed_over(store: Store, target: Postgres) -> None:
    flip(root(store) / catalog.find(store, "latest").key, 100)
    refused(store, target, "ManifestCorrupt")
    assert len(catalog.read_catalog(store).broken) == 1


def test_the_store_was_rolled_back(store: Store, target: Postgres) -> None:
    """The status of the Backup remembers its manifest's digest."""
    refused(store, target, "ManifestCorrupt", manifest_sha256="0" * 64)


def test_the_wrong_key_and_none_at_all(store: Store, target: Postgres) -> None:
    wrong = Kek.of(bytes(32))
    message = str(refused(store, target, "WrongKey", keys=(wrong,)))
    assert wrong.id in message
    assert KEY.id in message
    assert KEY.id in str(refused(store, target, "KeyMissing", keys=()))
    with pytest.raises(Refused) as error:
        do_restore(store, target, backup="backup-2001-01-01")
    assert error.value.reason == "BackupNotFound"


def test_a_key_that_was_added_later_opens_it_too(store: Store, target: Postgres) -> None:
    new = Kek.of(b"n" * 32)
    catalog.add_key(store, catalog.find(store, "latest"), [KEY], new)
    catalog.add_key(store, catalog.find(store, "latest"), [KEY], new)  # again is no harm
    assert do_restore(store, target, keys=(new,), amcheck=False).tables


def test_a_backup_without_its_key_writes_nothing(tmp_path: Path, source: Postgres) -> None:
    store = local(tmp_path / "store")
    with pytest.raises(Refused) as error:
        make_backup(store, source, key=None, task={"encryption": True})
    assert error.value.reason == "KeyMissing"
    assert list((tmp_path / "store").iterdir()) == []


def test_two_clusters_on_one_prefix(store: Store, target: Postgres) -> None:
    """The other cluster is refused before it writes anything, and its retention touches nothing."""
    before = keys_in(store)
    with pytest.raises(Refused) as error:
        make_backup(
            store,
            target,
            servers=[target.server()],
            cluster=ClusterIdentity(namespace="dev", name="orders", uid="2"),
        )
    assert error.value.reason == "PrefixOwnedByAnother"
    assert "prod/orders" in str(error.value)
    assert keys_in(store) == before
