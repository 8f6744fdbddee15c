"""The archive in a store: the same is success, other content is refused, and nothing that was touched is given back."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matriarch.archive import objects
from matriarch.archive.keyring import Keyring
from matriarch.archive.vault import Throttle
from matriarch.backup.keys import Kek
from matriarch.errors import Corrupt, Refused, Unavailable
from matriarch.postgres.lsn import SEGMENT_SIZE, segment_name
from tests.unit.archive_world import KEY, SYSTEM, MemoryStore, named, vault, wal

NAME = named(segment_name(1, 5 * SEGMENT_SIZE))
OTHER = named(segment_name(1, 6 * SEGMENT_SIZE))
HISTORY = named("00000002.history")
TEXT = b"1\t0/3000148\tpromoted\n"
DATA = wal(1, 5, fill=hashlib.shake_128(b"x").digest(300_000))


@pytest.fixture(params=[(KEY,), ()], ids=["encrypted", "plain"])
def keys(request: pytest.FixtureRequest) -> tuple[Kek, ...]:
    found: tuple[Kek, ...] = request.param
    return found


def test_what_goes_in_comes_out(keys: tuple[Kek, ...]) -> None:
    store = MemoryStore()
    assert vault(store, keys=keys).put(NAME, DATA) == len(store.objects[NAME.key(encrypted=bool(keys))])
    assert vault(store, keys=keys).get(NAME) == DATA
    assert vault(store, keys=keys).put(HISTORY, TEXT) > 0
    assert vault(store, keys=keys).get(HISTORY) == TEXT
    assert vault(store, keys=keys).get(OTHER) is None


def test_the_same_again_is_success_and_other_content_is_refused(keys: tuple[Kek, ...]) -> None:
    store = MemoryStore()
    first, later = vault(store, keys=keys), vault(store, keys=keys)  # another process, another data key
    first.put(NAME, DATA)
    before = dict(store.objects)
    assert later.put(NAME, DATA) == 0
    assert later.confirm(NAME, DATA)
    for attempt in (later.put, later.confirm):
        with pytest.raises(Refused) as error:
            attempt(NAME, wal(1, 5, fill=b"other"))
        assert error.value.reason == "SplitBrain"
    assert store.objects == before


def test_what_is_not_there_is_not_confirmed(keys: tuple[Kek, ...]) -> None:
    assert not vault(MemoryStore(), keys=keys).confirm(NAME, DATA)


def test_a_bad_segment_is_never_stored(keys: tuple[Kek, ...]) -> None:
    store = MemoryStore()
    with pytest.raises(Refused):
        vault(store, keys=keys).put(NAME, DATA[:-1])
    assert (store.objects, store.calls) == ({}, 0)


def test_the_store_learns_nothing_from_equal_content() -> None:
    one, two = MemoryStore(), MemoryStore()
    vault(one).put(NAME, DATA)
    vault(two).put(NAME, DATA)
    key = NAME.key(encrypted=True)
    contexts = [objects.peek(NAME, s.objects[key]).header.context for s in (one, two)]
    assert contexts[0]["digest"] != contexts[1]["digest"]
    assert hashlib.sha256(DATA).hexdigest() not in json.dumps(contexts)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_one_byte_changed_anywhere_is_found(data: st.DataObject) -> None:
    store = MemoryStore()
    vault(store).put(HISTORY, TEXT)
    key = HISTORY.key(encrypted=True)
    raw = bytearray(store.objects[key])
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    store.objects[key] = bytes(raw)
    with pytest.raises((Corrupt, Refused)):
        vault(store).get(HISTORY)


@pytest.mark.parametrize("size", [0, 1, 50, 97, 98, 300, 500, -1, -17, -70_000])
def test_a_truncated_object_is_refused_and_is_not_the_same(size: int) -> None:
    store = MemoryStore()
    vault(store).put(NAME, DATA)
    key = NAME.key(encrypted=True)
    store.objects[key] = store.objects[key][:size]
    for attempt in (lambda: vault(store).get(NAME), lambda: vault(store).put(NAME, DATA)):
        with pytest.raises(Corrupt):
            attempt()


def test_a_longer_object_is_refused() -> None:
    store = MemoryStore()
    vault(store).put(NAME, DATA)
    store.objects[NAME.key(encrypted=True)] += b"\0"
    for attempt in (lambda: vault(store).get(NAME), lambda: vault(store).put(NAME, DATA)):
        with pytest.raises(Corrupt):
            attempt()


def test_a_swapped_object_is_refused() -> None:
    store = MemoryStore()
    vault(store).put(NAME, DATA)
    store.objects[OTHER.key(encrypted=True)] = store.objects[NAME.key(encrypted=True)]
    with pytest.raises(Corrupt, match="under another name"):
        vault(store).get(OTHER)
    with pytest.raises(Corrupt):
        vault(store).put(OTHER, wal(1, 6))
    with pytest.raises(Corrupt, match="under another name"):
        vault(store, system=SYSTEM + 1).get(NAME)


def test_keys() -> None:
    store, new = MemoryStore(), Kek.generate()
    vault(store).put(NAME, DATA)
    with pytest.raises(Refused) as error:
        vault(store, keys=(new,)).get(NAME)
    assert error.value.reason == "WrongKey"
    with pytest.raises(Refused) as error:
        vault(store, keys=()).get(NAME)
    assert error.value.reason == "KeyMissing"
    assert vault(store, keys=(new, KEY)).get(NAME) == DATA
    # A slot that was added later, as keys are rotated.
    peeked = objects.peek(NAME, store.objects[NAME.key(encrypted=True)])
    dek = Keyring((KEY,), lambda: 0).open(peeked.header.dek_id, peeked.slots, store.get)
    store.put(f"keys/{dek.id}/{new.id}.json", json.dumps(new.wrap(dek)).encode())
    assert vault(store, keys=(new,)).get(NAME) == DATA


def test_plain_wal_is_not_believed_where_a_key_is_given() -> None:
    store = MemoryStore()
    vault(store, keys=()).put(NAME, DATA)
    with pytest.raises(Refused) as error:
        vault(store).get(NAME)
    assert error.value.reason == "Unencrypted"


def test_a_bomb_is_refused() -> None:
    store = MemoryStore()
    store.objects[NAME.key(encrypted=False)] = objects.compress(bytes(200 << 20))
    with pytest.raises(Corrupt, match="209715200 bytes"):
        vault(store, keys=()).get(NAME)


def test_a_data_key_lives_for_a_day() -> None:
    now = [1e9]
    ring = Keyring((KEY,), lambda: now[0])
    first = ring.current()[0]
    assert ring.current()[0] == first
    now[0] += 86400
    second = ring.current()[0]
    assert second != first
    assert ring.open(first.id, (), lambda _: None) == first


def test_a_secret_that_is_replaced_wraps_from_then_on_and_the_earlier_key_still_opens() -> None:
    new, there = Kek.generate(), [[KEY]]

    def reread() -> list[Kek]:
        if not there[0]:
            raise Refused("There is no key.", reason="KeyMissing")
        return there[0]

    ring = Keyring((KEY,), lambda: 1e9, reread)
    first, slots = ring.current()
    there[0] = []
    assert ring.current() == (first, slots), "a Secret that went away changes nothing"
    there[0] = [new]
    second, later = ring.current()
    assert second != first
    assert [slot["kek"] for slot in later] == [new.id]
    assert ring.current()[0] == second
    other = Keyring((KEY,), lambda: 1e9).current()
    assert ring.open(other[0].id, other[1], lambda _: None) == other[0]


@pytest.mark.parametrize("fault", [True, None])
@pytest.mark.parametrize("at", range(4))
def test_a_store_that_fails_at_any_call(fault: bool | None, at: int) -> None:
    """The second try always ends well, and never writes another object over the first."""
    store = MemoryStore(faults=[False] * at + [fault])
    for _ in range(3):
        try:
            vault(store).put(NAME, DATA)
            break
        except Unavailable:
            continue
    store.faults.clear()
    assert vault(store).get(NAME) == DATA
    assert len(store.order) == 1


def test_the_rate_is_kept() -> None:
    slept: list[float] = []
    now = [100.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    throttle = Throttle(1000, sleep, lambda: now[0])
    for _ in range(10):
        throttle(1000)
    assert 8 <= now[0] - 100.0 <= 10
    assert all(s <= 1.0 for s in slept)
