"""Keys: every way in which people store one, and slots that only the right one opens."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.backup.keys import Dek, Kek, open_slots
from matriarch.errors import Corrupt, Refused

secrets = st.binary(min_size=32, max_size=32)


@given(secrets)
def test_the_forms_of_a_key(secret: bytes) -> None:
    forms = (secret, secret.hex().encode(), secret.hex().upper().encode() + b"\n", base64.b64encode(secret))
    loose = (base64.urlsafe_b64encode(secret), base64.b64encode(secret).rstrip(b"="), base64.encodebytes(secret))
    for form in (*forms, *loose):
        key = Kek.parse(form, origin="x")
        assert key.secret == secret
        assert secret.hex() not in repr(key) + str(key)


@pytest.mark.parametrize(
    "text", [b"", b"short", b"a" * 31, b"=" * 44, b"g" * 64, base64.b64encode(bytes(31)), b"\xff" * 33]
)
def test_what_is_no_key_is_not_quoted(text: bytes) -> None:
    with pytest.raises(Refused, match="x holds no encryption key") as error:
        Kek.parse(text, origin="x")
    assert error.value.reason == "BadKey"
    assert not text or text.decode("latin-1") not in str(error.value)


@given(secrets, secrets)
def test_slots(one: bytes, two: bytes) -> None:
    first, second, dek = Kek.of(one), Kek.of(two), Dek.generate()
    slots = [first.wrap(dek)]
    assert open_slots(dek.id, slots, [second, first], what="it") == dek
    if one != two:
        with pytest.raises(Refused, match=f"{first.id}.*{second.id}"):
            open_slots(dek.id, slots, [second], what="it")
        assert open_slots(dek.id, [*slots, second.wrap(dek)], [second], what="it") == dek
    with pytest.raises(Refused) as error:
        open_slots(dek.id, slots, [], what="it")
    assert error.value.reason == "KeyMissing"


def test_a_slot_belongs_to_its_data_key_and_to_its_key() -> None:
    kek, dek = Kek.generate(), Dek.generate()
    slot = kek.wrap(dek)
    for name in ("nonce", "wrapped"):
        altered = {**slot, name: f"{int(slot[name][0], 16) ^ 1:x}" + slot[name][1:]}
        with pytest.raises(Corrupt):
            kek.unwrap(dek.id, altered)
    with pytest.raises(Corrupt):
        kek.unwrap(Dek.generate().id, slot)
    with pytest.raises(Corrupt):
        kek.unwrap(dek.id, {})
    assert replace(dek, secret=bytes(32)).manifest_key() != dek.manifest_key()


def test_unknown_slots_are_passed_over() -> None:
    kek, dek = Kek.generate(), Dek.generate()
    odd = [{"alg": "X25519", "kek": kek.id}, {"kek": 3}, "text", kek.wrap(dek)]
    assert open_slots(dek.id, odd, [kek], what="it") == dek  # type: ignore[arg-type]  # what a later version might write
