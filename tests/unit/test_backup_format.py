"""The object format: what is sealed comes out, and nothing that was altered, cut, moved or mixed ever does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.backup import format as codec
from matriarch.backup.format import Header, Opener, Sealer, canonical
from matriarch.backup.keys import Dek, Kek
from matriarch.errors import Corrupt, MatriarchError, Refused

LOG2 = 10  # the smallest chunks, so that few bytes make many
SIZE = 1 << LOG2
KEK = Kek.of(bytes(32))
DEK = Dek(bytes(range(32)), "00112233445566778899aabbccddeeff")
SLOTS = (KEK.wrap(DEK),)
CONTEXT = {"backup": "k3vq7m2xw4", "path": "logical/x.sql.gz.enc", "codec": "gzip"}


def sealed(data: bytes, *, dek: Dek = DEK, context: dict[str, str] = CONTEXT) -> bytes:
    sealer = Sealer(Header.create(dek, context, "gzip", chunk_log2=LOG2), dek, SLOTS)
    return b"".join((sealer.prologue, *sealer.update(data), sealer.finish()))


def opened(pieces: Iterable[bytes], opener: Opener | None = None) -> bytes:
    opener = opener or Opener(DEK, context=CONTEXT)
    return b"".join(part for piece in pieces for part in opener.update(piece)) + opener.finish()


def cut(data: bytes, at: list[int]) -> Iterator[bytes]:
    edges = sorted({0, len(data), *(i % (len(data) + 1) for i in at)})
    for start, end in pairwise(edges):
        yield data[start:end]


sizes = st.sampled_from([0, 1, SIZE - 1, SIZE, SIZE + 1, 2 * SIZE, 3 * SIZE - 1, 3 * SIZE]) | st.integers(0, 5 * SIZE)


@given(sizes, st.lists(st.integers(0, 10_000), max_size=10), st.lists(st.integers(0, 10_000), max_size=10))
def test_round_trip_in_any_pieces(size: int, write: list[int], read: list[int]) -> None:
    data = hashlib.shake_128(str(size).encode()).digest(size)
    sealer = Sealer(Header.create(DEK, CONTEXT, "gzip", chunk_log2=LOG2), DEK, SLOTS)
    parts = [sealer.prologue, *(part for piece in cut(data, write) for part in sealer.update(piece)), sealer.finish()]
    whole = b"".join(parts)
    assert opened(cut(whole, read)) == data
    assert opened(cut(whole, read), Opener(keys=[KEK])) == data


WHOLE = sealed(bytes(5) * 700)
BODY = len(WHOLE) - 4 * 16 - 3500  # where the chunks begin


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 7))
def test_no_bit_can_be_changed(position: int, bit: int) -> None:
    """The slots are the one part outside: they only say how to find the key, and the manifest has its own."""
    altered = bytearray(WHOLE)
    altered[position] ^= 1 << bit
    header = int.from_bytes(WHOLE[16:20], "big")
    if header + 4 <= position < BODY:
        assert opened([bytes(altered)]) == bytes(5) * 700
        return
    with pytest.raises(MatriarchError):
        opened([bytes(altered)])


@given(st.integers(0, len(WHOLE) - 1))
def test_no_end_can_be_cut_off(length: int) -> None:
    with pytest.raises(Corrupt):
        opened([WHOLE[:length]])


@given(st.binary(min_size=1, max_size=2 * SIZE))
def test_nothing_can_be_added(more: bytes) -> None:
    with pytest.raises(Corrupt):
        opened([WHOLE + more])


def chunks() -> list[bytes]:
    step = SIZE + 16
    return [WHOLE[i : i + step] for i in range(BODY, len(WHOLE), step)]


@given(st.lists(st.integers(0, 3), max_size=6))
def test_chunks_stay_in_their_places(order: list[int]) -> None:
    if order == [0, 1, 2, 3]:
        return
    with pytest.raises(Corrupt):
        opened([WHOLE[:BODY], *(chunks()[i] for i in order)])


def test_a_chunk_of_another_object_of_the_same_backup_is_refused() -> None:
    other = sealed(bytes(5) * 700)
    mixed = WHOLE[:BODY] + other[BODY : BODY + SIZE + 16] + WHOLE[BODY + SIZE + 16 :]
    with pytest.raises(Corrupt, match="chunk 0 is not authentic"):
        opened([mixed])


def test_another_object_in_its_place_is_named() -> None:
    other = sealed(b"x", context={**CONTEXT, "path": "logical/y", "backup": "other"})
    with pytest.raises(Corrupt, match="it is logical/y of backup other"):
        opened([other])


def test_another_key_is_told_from_damage_before_anything_is_decrypted() -> None:
    with pytest.raises(Refused, match="does not fit") as error:
        opened([WHOLE], Opener(Dek(bytes(32), DEK.id)))
    assert error.value.reason == "WrongKey"


@pytest.mark.parametrize(
    ("offset", "value", "match"),
    [
        pytest.param(8, 2, "format version 513", id="version"),
        pytest.param(10, 9, "suite 2305", id="suite"),
        pytest.param(12, 1, "flags 0x1000000", id="flags"),
        pytest.param(21, 7, "codec 7", id="codec"),
        pytest.param(20, 40, r"2\^40", id="chunk size"),
    ],
)
def test_what_is_unknown_is_refused_not_guessed(offset: int, value: int, match: str) -> None:
    altered = bytearray(WHOLE)
    altered[offset] = value
    with pytest.raises(Refused, match=match) as error:
        opened([bytes(altered)])
    assert error.value.reason == "VersionUnsupported"


@pytest.mark.parametrize("junk", [b"", b"-- plain SQL, and as long as a header", b"\x1f\x8b" + bytes(300), codec.MAGIC])
def test_what_is_no_object_is_refused(junk: bytes) -> None:
    with pytest.raises(Corrupt):
        opened([junk])


@given(st.binary(max_size=600))
def test_junk_behind_the_magic_is_refused(junk: bytes) -> None:
    with pytest.raises(MatriarchError):
        opened([codec.MAGIC + junk])


def test_small_objects() -> None:
    data = codec.seal(DEK, CONTEXT, "none", b"small", SLOTS)
    assert codec.unseal(data, dek=DEK, context=CONTEXT) == b"small"
    with pytest.raises(Corrupt):
        codec.unseal(data, dek=DEK, context={**CONTEXT, "path": "elsewhere"})


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers() | st.none() | st.booleans()))
def test_canonical_json_is_one_text_for_one_value(value: dict[str, object]) -> None:
    text = canonical(value)
    assert json.loads(text) == value
    assert canonical(json.loads(text)) == text
    assert canonical(dict(reversed(value.items()))) == text


VECTORS = json.loads((Path(__file__).parent / "backup_format_vectors.json").read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=[v["name"] for v in VECTORS])
def test_vectors(vector: dict[str, object]) -> None:
    """Committed bytes: a change of the format must be a new version, never a new meaning of the old one."""
    kek, dek = Kek.of(bytes.fromhex(str(vector["kek"]))), Dek(bytes.fromhex(str(vector["dek"])), str(vector["dek_id"]))
    plain = bytes.fromhex(str(vector["plain_seed"])) * int(str(vector["plain_repeat"]))
    stored = bytes.fromhex(str(vector["object"]))
    assert opened([stored], Opener(keys=[kek])) == plain
    random = {name: bytes.fromhex(str(vector[name])) for name in ("object_id", "salt", "nonce_prefix")}
    header = Header.build(
        dek,
        dict(vector["context"]),
        str(vector["codec"]),
        chunk_log2=int(str(vector["chunk_log2"])),
        **random,  # type: ignore[call-overload]
    )
    sealer = Sealer(header, dek, vector["slots"])  # type: ignore[arg-type]
    assert b"".join((sealer.prologue, *sealer.update(plain), sealer.finish())) == stored
