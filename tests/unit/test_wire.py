"""A packet is believed whole and authentic, or not at all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matriarch.agent.wire import MAX_PACKET, Context, Kind, Packet, decode, encode

KEY, OTHER = b"k" * 32, b"o" * 32
CONTEXT = Context("prod", "orders")

names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=63)
numbers = st.integers(0, 2**64 - 1)
packets = st.builds(
    Packet,
    kind=st.sampled_from(Kind),
    sender=names,
    incarnation=names,
    receiver=names,
    session=st.binary(min_size=8, max_size=8),
    number=numbers,
    echo_session=st.binary(min_size=8, max_size=8),
    echo_number=numbers,
    epoch=numbers,
    promised=numbers,
    fenced=numbers,
    flush_lsn=numbers,
    granted=st.booleans(),
    no_voters=st.booleans(),
)
BEAT = Packet(Kind.BEAT, "orders-1", "aa", "orders-2", b"s" * 8, 1, epoch=3)


@settings(deadline=None)
@given(packets)
def test_what_is_sent_is_what_arrives(packet: Packet) -> None:
    raw = encode(packet, KEY, CONTEXT)
    assert len(raw) <= MAX_PACKET
    assert decode(raw, (OTHER, KEY), CONTEXT) == (packet, KEY)


@settings(deadline=None)
@given(packets, st.data())
def test_one_changed_byte_is_noticed(packet: Packet, data: st.DataObject) -> None:
    raw = bytearray(encode(packet, KEY, CONTEXT))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    assert decode(bytes(raw), (KEY,), CONTEXT) is None


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_nothing(raw: bytes) -> None:
    assert decode(raw, (KEY,), CONTEXT) is None
    body = raw
    assert decode(body + CONTEXT.tag(KEY, body), (KEY,), CONTEXT) is None  # not even with the right tag


@pytest.mark.parametrize("context", [Context("prod", "order"), Context("test", "orders"), Context("prodorders", "x")])
def test_another_cluster_with_the_same_key_is_a_stranger(context: Context) -> None:
    assert decode(encode(BEAT, KEY, CONTEXT), (KEY,), context) is None


def test_without_a_key_nothing_is_believed() -> None:
    assert decode(encode(BEAT, KEY, CONTEXT), (), CONTEXT) is None
    assert decode(encode(BEAT, KEY, CONTEXT), (OTHER,), CONTEXT) is None


@pytest.mark.parametrize("name", ["ü", "x" * 128])
def test_a_name_that_does_not_fit_is_refused_where_it_is_made(name: str) -> None:
    with pytest.raises(ValueError, match=r"is no name|ascii"):
        encode(replace(BEAT, sender=name), KEY, CONTEXT)
