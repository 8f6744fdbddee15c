"""The catalogue: retention carried out, deletion refused, the chain of manifests, damage that freezes all."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from matriarch.backup import catalog, expire, names
from matriarch.backup.format import SUITE, canonical
from matriarch.backup.jobspec import LocalStore, Retention
from matriarch.backup.keys import Dek, Kek
from matriarch.backup.local import Local
from matriarch.backup.manifest import Body, Details, Encryption, Manifest, Origin, object_context, write
from matriarch.backup.names import BackupName
from matriarch.backup.pipeline import Packer, unpack
from matriarch.backup.store import Exists
from matriarch.errors import Corrupt, MatriarchError, Refused

KEY = Kek.of(b"k" * 32)
SYSTEM = "7000000000000000001"
ORIGIN = Origin(
    namespace="prod", cluster="orders", cluster_uid="u", instance="orders-2", system_identifier=SYSTEM, timeline=3,
    source="standby", server_version="17.6", tool_version="test",
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Local:
    (tmp_path / "store").mkdir()
    found = Local(LocalStore(path=str(tmp_path / "store")))
    catalog.claim(found, None, SYSTEM, "now")
    return found


def add(store: Local, age_days: float, *, key: Kek | None = KEY, text: bytes = b"SELECT 1;\n", **more: Any) -> Manifest:
    """A whole backup that a Job might have made so long ago."""
    finished = datetime.now(UTC) - timedelta(days=age_days)
    name = BackupName(finished, names.new_id())
    path = f"logical/{name.file(compressed=True, encrypted=key is not None)}"
    dek = Dek.generate() if key else None
    encryption = Encryption(suite=SUITE, dek=dek.id, slots=(key.wrap(dek),)) if key and dek else None
    context = object_context(origin=ORIGIN, backup_id=name.id, path=path, codec="gzip")
    with Packer(store, path, codec="gzip", context=context, dek=dek, encryption=encryption, estimate=0) as packer:
        packer.write(text)
        packer.end_section("roles")
        data = packer.finish()
    details = Details(sections=packer.sections, databases=(), role_passwords=True)
    sequence, previous = catalog.newest(store)
    body = Body(
        format=1, kind="logical", sequence=sequence + 1, previous=previous, id=name.id, name=str(name),
        file=path.rpartition("/")[2], started=names.timestamp(finished), finished=names.timestamp(finished),
        resource=None, schedule=None, scheduled_for=None, origin=ORIGIN, snapshot_lsn="0/0", encryption=encryption,
        object=data, tables=0, rows=0, warnings=(), details="",
    )  # fmt: skip
    manifest = write(replace(body, **more), details, dek)
    store.put(manifest.key, manifest.raw, if_absent=True)
    return manifest


def ids(store: Local) -> list[str]:
    return [m.body.id for m in catalog.read_catalog(store).manifests]


def files(store: Local) -> set[str]:
    return {e.key for e in store.list("")}


def test_what_is_written_is_read(store: Local) -> None:
    manifest = add(store, 1, text=b"-- text\n" * 500_000)
    again = catalog.find(store, "latest")
    assert again == manifest
    opened = catalog.open_manifest(store, again, [KEY])
    body = opened.body
    context = object_context(origin=body.origin, backup_id=body.id, path=body.object.path, codec="gzip")
    assert b"".join(unpack(store, body.object, opened.dek, context)) == b"-- text\n" * 500_000
    assert b"roles" not in manifest.raw  # the details are sealed


def test_manifests_are_a_chain(store: Local) -> None:
    first, second = add(store, 3), add(store, 2)
    catalog.delete_backup(store, second)
    third = add(store, 1)
    assert [m.body.sequence for m in (first, second, third)] == [1, 2, 3]
    assert [m.body.previous for m in (first, second, third)] == [None, first.sha256, second.sha256]


def test_retention_keeps_what_the_rules_say_and_deletes_the_rest_whole(store: Local) -> None:
    old, middle, new = add(store, 60), add(store, 20), add(store, 1)
    catalog.add_key(store, old, [KEY], Kek.of(b"n" * 32))
    done = expire.retain(store, [KEY], Retention(days=30), SYSTEM)
    assert (done.deleted, done.kept, done.frozen) == ((old.body.id,), 2, None)
    assert ids(store) == [new.body.id, middle.body.id]
    assert [f for f in files(store) if old.body.id in f or old.body.encryption.dek in f] == [  # type: ignore[union-attr]  # it is encrypted
        f"tombstones/0000000001-{old.body.id}.json"
    ]
    assert expire.retain(store, [KEY], Retention(days=30), SYSTEM).deleted == ()


def announced_ago(store: Local, hours: float) -> None:
    """As if all that is announced had been so long ago."""
    for path in (Path(store.address) / expire.MARKS).rglob("*.json"):
        os.utime(path, (time := path.stat().st_mtime - hours * 3600, time))


def test_what_goes_is_announced_first_and_stays_whole_while_it_waits(store: Local) -> None:
    old, _ = add(store, 60), add(store, 1)
    rules = Retention(days=30, grace_hours=24)
    for _ in range(2):
        done = expire.retain(store, [KEY], rules, SYSTEM)
        assert (done.deleted, done.kept, list(done.waiting)) == ((), 2, [old.body.file])
        assert old.body.id in ids(store)
    after = done.waiting[old.body.file]
    assert timedelta(hours=23) < after - store.now() <= timedelta(hours=24)
    announced_ago(store, 25)
    done = expire.retain(store, [KEY], rules, SYSTEM)
    assert (done.deleted, done.kept, done.waiting) == ((old.body.id,), 1, {})
    assert not [f for f in files(store) if f.startswith(expire.MARKS)]


def test_a_rule_or_a_pin_that_keeps_it_again_takes_the_announcement_back(store: Local) -> None:
    old, _ = add(store, 60), add(store, 1)
    rules = Retention(days=30, grace_hours=24)
    for kept in (replace(rules, days=90), replace(rules, pinned=(old.body.id,)), replace(rules, dry_run=True)):
        expire.retain(store, [KEY], rules, SYSTEM)
        announced_ago(store, 99)
        assert expire.retain(store, [KEY], kept, SYSTEM).deleted == ()
        assert expire.retain(store, [KEY], rules, SYSTEM).deleted == ()  # it waits from the beginning
        announced_ago(store, 12)
        assert expire.retain(store, [KEY], rules, SYSTEM).deleted == ()
        store.delete(f"{expire.MARKS}/-/{old.body.id}.json")


def test_each_schedule_announces_its_own(store: Local) -> None:
    nightly, weekly = (add(store, 60, schedule=name) for name in ("nightly", "weekly"))
    for name in ("nightly", "weekly"):
        add(store, 1, schedule=name)
    rules = [Retention(days=30, grace_hours=24, schedule=name) for name in ("nightly", "weekly")]
    for one in rules:
        expire.retain(store, [KEY], one, SYSTEM)
    announced_ago(store, 25)
    deleted = [expire.retain(store, [KEY], one, SYSTEM).deleted for one in rules]
    assert deleted == [(nightly.body.id,), (weekly.body.id,)]


def test_a_dry_run_deletes_nothing_and_says_what_would_go(store: Local) -> None:
    old, _ = add(store, 60), add(store, 1)
    before = files(store)
    done = expire.retain(store, [KEY], Retention(days=30, dry_run=True), SYSTEM)
    assert (done.deleted, done.kept, list(done.waiting)) == ((), 2, [old.body.file])
    assert files(store) == before


@pytest.mark.parametrize("harm", ["cut", "gone", "forged"])
def test_a_damaged_newest_backup_does_not_push_out_the_last_good_one(store: Local, harm: str) -> None:
    good, bad = add(store, 60), add(store, 40)
    path = Path(store.address) / bad.body.object.path
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif harm == "gone":
        path.unlink()
    else:
        forged = write(
            replace(bad.body, sequence=9), Details(sections=(), databases=(), role_passwords=True), Dek.generate()
        )
        store.delete(bad.key)
        store.put(forged.key, forged.raw)
    expire.retain(store, [KEY], Retention(days=1, count=1), SYSTEM)
    assert good.body.id in ids(store)


def test_only_the_schedule_s_own_are_counted(store: Local) -> None:
    nightly = [add(store, age, schedule="nightly") for age in (3, 2, 1)]
    hand = add(store, 400)
    done = expire.retain(store, [KEY], Retention(count=2, schedule="nightly"), SYSTEM)
    assert done.deleted == (nightly[0].body.id,)
    assert hand.body.id in ids(store)


def test_pinned_and_proven_stay(store: Local) -> None:
    pinned, proven, plain, _ = (add(store, age) for age in (90, 80, 70, 1))
    rules = Retention(days=30, pinned=(pinned.body.id,), verified=(proven.body.id,))
    assert expire.retain(store, [KEY], rules, SYSTEM).deleted == (plain.body.id,)


@pytest.mark.parametrize(
    "owner",
    [b"", b"no", b"[]", b'"s"', b'{"cluster":"x","system_identifier":"8"}', b'{"system_identifier":[' + b"[" * 9999],
)
def test_an_owner_s_mark_that_says_nothing_stops_everything(store: Local, owner: bytes) -> None:
    store.put(catalog.OWNER, owner)
    with pytest.raises(Corrupt, match="damaged"):
        expire.retain(store, [KEY], Retention(days=30), SYSTEM)


@pytest.mark.parametrize("body", ["s", 7, ["a"], None, True])
def test_a_manifest_of_something_else_is_damaged_although_its_digest_is_right(store: Local, body: object) -> None:
    """The digest needs no key: whoever may write to the store can write such a thing."""
    digest = hashlib.sha256(canonical(body)).hexdigest()
    store.put("manifests/0000000009-k3vq7m2xw4.json", canonical({"body": body, "hmac": None, "sha256": digest}))
    (broken,) = catalog.read_catalog(store).broken
    assert "damaged" in str(broken.error)


def test_a_damaged_manifest_freezes(store: Local) -> None:
    old, new = add(store, 60), add(store, 1)
    path = Path(store.address) / new.key
    path.write_bytes(path.read_bytes().replace(b'"rows":0', b'"rows":1'))
    done = expire.retain(store, [KEY], Retention(days=30), SYSTEM)
    assert done.deleted == ()
    assert done.frozen is not None
    assert "damaged" in done.frozen
    assert old.body.id in ids(store)


def test_another_s_prefix_is_left_alone(store: Local) -> None:
    add(store, 60)
    add(store, 1)
    with pytest.raises(Refused) as error:
        expire.retain(store, [KEY], Retention(days=30), "8")
    assert error.value.reason == "PrefixOwnedByAnother"
    assert len(ids(store)) == 2
    (Path(store.address) / "owner.json").write_text("{")
    with pytest.raises(Corrupt):
        catalog.claim(store, None, SYSTEM, "now")


def test_so_many_at_once_and_no_more(store: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expire, "AT_ONCE", 2)
    made = [add(store, age) for age in (90, 80, 70, 60, 1)]
    assert expire.retain(store, [KEY], Retention(days=30), SYSTEM).deleted == tuple(m.body.id for m in made[:2])
    assert expire.retain(store, [KEY], Retention(days=30), SYSTEM).deleted == tuple(m.body.id for m in made[2:4])


def test_the_last_good_one_is_not_deleted_unasked(store: Local) -> None:
    one, two = add(store, 2), add(store, 1)
    path = Path(store.address) / one.body.object.path
    path.write_bytes(b"")
    with pytest.raises(Refused) as error:
        expire.delete(store, [two.body.id], [KEY], allow_last_good=False)
    assert error.value.reason == "LastGoodBackup"
    assert len(ids(store)) == 2
    assert expire.delete(store, [one.body.id], [KEY], allow_last_good=False) == (one.body.id,)
    assert expire.delete(store, ["latest"], [KEY], allow_last_good=True) == (two.body.id,)


def test_a_backup_of_an_older_key_is_no_reason_to_delete_it(store: Local) -> None:
    old = add(store, 60, key=Kek.of(b"o" * 32))
    assert expire.retain(store, [KEY], Retention(days=1), SYSTEM).deleted == ()
    assert ids(store) == [old.body.id]


def test_an_upload_never_replaces(store: Local) -> None:
    manifest = add(store, 1)
    upload = store.upload(manifest.body.object.path, estimate=0)
    upload.write(b"other")
    with pytest.raises(Exists):
        upload.finish()
    upload.abort()
    assert store.size(manifest.body.object.path) == manifest.body.object.stored_size


def test_keys_of_a_store_stay_inside_it(store: Local) -> None:
    for key in ("../x", "a/../../x", "/etc/x", "a//b", ""):
        with pytest.raises(MatriarchError):
            store.get(key)


def test_colons_where_a_file_system_has_none(store: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAT and SMB: percent-encoded there, and read back under the real name."""
    import errno

    touch = Path.touch

    def fat(self: Path, *args: Any, **more: Any) -> None:
        if ":" in self.name:
            raise OSError(errno.EINVAL, "Invalid argument")
        touch(self, *args, **more)

    monkeypatch.setattr(Path, "touch", fat)
    there = Local(LocalStore(path=store.address))
    manifest = add(there, 1)
    assert [p.name for p in (Path(store.address) / "logical").iterdir()] == [manifest.body.file.replace(":", "%3A")]
    assert [e.key for e in there.list("logical")] == [manifest.body.object.path]
    assert catalog.find(there, "latest") == manifest
