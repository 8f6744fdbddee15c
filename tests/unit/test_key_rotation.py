"""A new key opens backups and archive without any object being written again; killed anywhere, it is run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from matriarch.archive import rotation
from matriarch.archive.keyring import Keyring
from matriarch.archive.vault import Vault
from matriarch.backup import catalog
from matriarch.backup.format import canonical
from matriarch.backup.jobspec import LocalStore
from matriarch.backup.keys import Dek, Kek
from matriarch.backup.local import Local
from matriarch.errors import Refused
from matriarch.postgres.lsn import SEGMENT_SIZE, segment_name
from tests.unit.archive_world import CLUSTER, named, wal
from tests.unit.test_backup_catalog import KEY, SYSTEM, add, files

NEW = Kek.of(b"n" * 32)
FOREIGN = Kek.of(b"f" * 32)


class Died(Exception):  # noqa: N818 - reads as what happened
    pass


class Once:
    """A store that dies after its first change."""

    def __init__(self, store: Local) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        self._store.put(key, data, if_absent=if_absent)
        raise Died


@pytest.fixture
def store(tmp_path: Path) -> Local:
    (tmp_path / "store").mkdir()
    found = Local(LocalStore(path=str(tmp_path / "store")))
    catalog.claim(found, None, SYSTEM, "now")
    return found


def vault(store: Local, key: Kek, day: int = 0) -> Vault:
    return Vault(store, Keyring([key], lambda: day * 86400.0), system=int(SYSTEM), cluster=CLUSTER)


def test_a_folder_above_the_cluster_s_is_refused_and_not_called_done(tmp_path: Path) -> None:
    (tmp_path / "above" / "orders-1").mkdir(parents=True)
    catalog.claim(Local(LocalStore(path=str(tmp_path / "above" / "orders-1"))), None, SYSTEM, "now")
    above = Local(LocalStore(path=str(tmp_path / "above")))
    for look in (False, True):
        with pytest.raises(Refused, match=r"no cluster's folder.*orders-1"):
            rotation.rotate(above, [] if look else [KEY], NEW, look=look)
    with pytest.raises(Refused, match="no cluster's folder"):
        list(rotation.holders(above))


def test_a_new_key_opens_all_and_a_run_that_died_is_run_again(store: Local) -> None:
    made = [add(store, age) for age in (2, 1)]
    name = [named(segment_name(1, n * SEGMENT_SIZE)) for n in range(1, 4)]
    for n, one in enumerate(name, 1):
        vault(store, KEY, day=n // 2).put(one, wal(1, n, system=int(SYSTEM)))
    before = {key: store.get(key) for key in files(store)}
    assert all(h.error for h in rotation.rotate(store, [], NEW, look=True))
    runs = 0
    while True:
        try:
            done = rotation.rotate(Once(store), [KEY], NEW)  # type: ignore[arg-type]  # a store, by delegation
            break
        except Died:
            runs += 1
    assert runs == len(done) == 2 + 3
    assert not any(h.error for h in done)
    assert {key: store.get(key) for key in before} == before
    assert all(set(h.keys) == {KEY.id, NEW.id} for h in rotation.holders(store))
    for manifest in made:
        assert catalog.open_manifest(store, manifest, [NEW]).body == manifest.body
    assert vault(store, NEW).get(name[2]) == wal(1, 3, system=int(SYSTEM))
    after = files(store)
    assert not any(h.error for h in rotation.rotate(store, [KEY], NEW))
    assert files(store) == after


def test_what_the_old_key_does_not_open_is_named_and_a_false_slot_is_found_out(store: Local) -> None:
    mine, other = add(store, 2), add(store, 1, key=FOREIGN)
    done = {h.what: h for h in rotation.rotate(store, [KEY], NEW)}
    assert done[mine.body.name].error == ""
    assert FOREIGN.id in done[other.body.name].error
    # A slot that holds another data key than the backup's.
    encryption = other.body.encryption
    assert encryption is not None
    store.put(catalog.slot_key(encryption.dek, NEW.id), canonical(NEW.wrap(Dek(b"x" * 32, encryption.dek))))
    assert "altered" in {h.what: h for h in rotation.rotate(store, [KEY, FOREIGN], NEW)}[other.body.name].error
    with pytest.raises(Refused):
        rotation.rotate(store, [KEY, NEW], NEW)
