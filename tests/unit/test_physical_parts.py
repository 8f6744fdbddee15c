"""The pure parts of physical backups: exclusions, packing, page checksums, WAL names, the map, recovery's lines."""

from __future__ import annotations

import dataclasses
import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from matriarch.backup.native import NATIVE
from matriarch.backup.physical import control, wal
from matriarch.backup.physical.contents import Contents, Directory, File, Pack, Piece
from matriarch.backup.physical.exclude import enters, left_out, relation
from matriarch.backup.physical.pages import PAGE, check, checksums
from matriarch.backup.physical.plan import Found, packs
from matriarch.backup.physical.recovery import settings
from matriarch.backup.physical.restore import apart
from matriarch.decide.pitr import Target
from matriarch.errors import Corrupt

U32 = 0xFFFFFFFF


def by_the_book(page: bytes, block: int) -> int:
    """storage/checksum_impl.h, word by word."""
    from matriarch.backup.physical.pages import _OFFSETS

    words = list(struct.unpack("<2048I", page))
    words[2] &= 0xFFFF0000
    sums = [int(o) for o in _OFFSETS]
    for value, lane in [(w, n % 32) for n, w in enumerate(words)] + [(0, n % 32) for n in range(64)]:
        mixed = sums[lane] ^ value
        sums[lane] = (mixed * 16777619 & U32) ^ mixed >> 17
    folded = block
    for value in sums:
        folded ^= value
    return folded % 65535 + 1


@given(st.binary(min_size=64, max_size=64), st.integers(0, U32))
def test_page_checksum_is_that_of_the_header_file(seed: bytes, block: int) -> None:
    page = (seed * 128)[:PAGE]
    other = bytes(reversed(page))
    blocks = np.array([block, block ^ 1], dtype=np.uint32)
    for library in {NATIVE, None}:  # compiled, where it is, and by numpy
        found = checksums(page + other, blocks, library)
        assert list(found) == [by_the_book(page, block), by_the_book(other, block ^ 1)]


@pytest.mark.parametrize("size", [PAGE - 1, PAGE + 1, 2 * PAGE])
def test_bytes_that_are_not_as_many_pages_as_there_are_numbers(size: int) -> None:
    with pytest.raises(ValueError, match="are not 1 pages"):
        checksums(bytes(size), np.array([1], dtype=np.uint32))


def sealed_page(lsn: int, block: int) -> bytes:
    head = struct.pack("<IIHHHHHH", lsn >> 32, lsn & U32, 0, 0, 24, 8000, 8192, 8196)
    page = head + bytes(range(256)) * 31 + bytes(PAGE - len(head) - 256 * 31)
    return page[:8] + struct.pack("<H", by_the_book(page, block)) + page[10:]


@given(st.integers(24, PAGE - 1), st.integers(1, 255))
@example(8191, 74)  # one of those few that a checksum of 16 bits can't see
def test_any_changed_byte_of_an_old_page_is_seen(position: int, mask: int) -> None:
    good = sealed_page(0x1000, 7)
    assert check(good, [7], 0x2000).bad == ()
    bad = bytearray(good)
    bad[position] ^= mask
    seen = by_the_book(bytes(bad), 7) != by_the_book(good, 7)
    assert check(bytes(good) + bytes(bad), [7, 7], 0x2000).bad == ((1,) if seen else ())
    assert check(bytes(bad), [-1], 0x2000).pages == 0


def test_pages_of_the_backups_own_time_and_unused_ones_are_exempt() -> None:
    new = bytearray(sealed_page(0x3000, 1))
    new[5000] ^= 1
    found = check(bytes(new) + bytes(PAGE), [1, 2], 0x2000)
    assert (found.bad, found.newest) == ((), 0x3000)
    scribbled = bytes(100) + b"x" + bytes(PAGE - 101)
    assert check(scribbled, [2], 0x2000).bad == (0,)


@pytest.mark.parametrize(
    ("path", "out"),
    [
        ("postmaster.pid", True), ("postmaster.opts", True), ("backup_label", True), ("standby.signal", True),
        ("recovery.signal", True), ("postgresql.auto.conf.tmp", True), ("global/pg_control", True),
        ("base/5/pg_internal.init", True), ("base/5/pg_internal.init.123", True), ("base/5/t3_16384", True),
        ("base/5/t3_16384_fsm.1", True), ("base/5/16385", True), ("base/5/16385.1", True), ("base/5/16385_vm", True),
        ("base/5/16385_init", False), ("base/5/16386", False), ("base/5/16386_fsm", False), ("PG_VERSION", False),
        ("postgresql.conf", False), ("global/1262", False), ("pg_xact/0000", False), ("base/pgsql_tmp5.0", True),
        ("folder/postmaster.pid", False),
    ],
)  # fmt: skip
def test_what_is_left_out(path: str, out: bool) -> None:
    assert left_out(path, lambda other: other == "base/5/16385_init") is out


def test_folders_and_relations() -> None:
    assert not enters("pg_wal")
    assert not enters("pg_replslot")
    assert enters("base/5")
    found = relation("base/5/16386_vm.3")
    assert found is not None
    assert dataclasses.astuple(found) == ("16386", "vm", 3)
    assert relation("pg_xact/0000") is None
    assert relation("base/5/PG_VERSION") is None
    assert relation("global/pg_filenode.map") is None


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 12))
def test_every_byte_is_packed_once_and_no_pack_is_too_big(sizes: list[int], limit: int) -> None:
    files = [Found(f"f{n}", size, 0, 0o600) for n, size in enumerate(sizes)]
    seen: dict[str, int] = {}
    for pack in packs(files, limit):
        assert pack
        total = 0
        for part in pack:
            length = part.file.size if part.length is None else part.length
            assert part.offset == seen.get(part.file.path, 0)
            assert part.offset % limit == 0
            seen[part.file.path] = part.offset + length
            total += length
        assert total <= limit
    assert seen == {f.path: f.size for f in files}


def test_wal_names() -> None:
    size = 16 << 20
    assert wal.segments(1, 0x1000028, 0x1000100, size) == ("000000010000000000000001",)
    assert wal.segments(2, 0xFF000028, 0x1_00000001, size) == ("0000000200000000000000FF", "000000020000000100000000")
    assert wal.segments(1, 0x1000028, 0x2000000, size) == ("000000010000000000000001",)  # ends on the border
    head = struct.pack("<HHIQIxxxxQII", 0xD116, 6, 1, 0x1000000, 0, 77, size, 8192)
    name = "000000010000000000000001"
    assert wal.fault(head, name, size, "77", size) is None
    # The first segment of a timeline begins as a copy of its parent's, never as a later one's.
    assert wal.fault(head, "00000002" + name[8:], size, "77", size) is None
    later = struct.pack("<HHIQIxxxxQII", 0xD116, 6, 2, 0x1000000, 0, 77, size, 8192)
    assert "timeline" in str(wal.fault(later, name, size, "77", size))
    assert "another stretch" in str(wal.fault(head, name[:-1] + "2", size, "77", size))
    assert "system" in str(wal.fault(head, name, size, "78", size))
    assert "bytes" in str(wal.fault(head, name, size - 1, "77", size))
    assert "begin" in str(wal.fault(bytes(40), name, size, "77", size))


def test_pg_control_whole_or_torn() -> None:
    crc = U32
    content = bytes(n * 7 % 251 for n in range(292))
    for byte in content:
        crc = crc >> 8 ^ control.CRC_TABLE[(crc ^ byte) & 0xFF]
    whole = (content + struct.pack("<I", crc ^ U32)).ljust(control.SIZE, b"\0")
    assert control.is_whole(whole)
    assert not control.is_whole(whole[:100] + b"\xff" + whole[101:])
    assert not control.is_whole(whole[:-1])
    other = control.with_identifier(whole, 7412345678901234567)
    assert control.is_whole(other)
    assert control.system_identifier(other) == "7412345678901234567"
    assert control.with_identifier(other, int(control.system_identifier(whole))) == whole, "nothing else was changed"
    with pytest.raises(ValueError, match="damaged"):
        control.with_identifier(whole[:100] + b"\xff" + whole[101:], 7)


def contents() -> Contents:
    def file(path: str, *pieces: Piece) -> File:
        return File(path=path, size=sum(p.size for p in pieces), mtime=1, mode=0o600, pieces=pieces)

    def piece(at: int, size: int) -> Piece:
        return Piece(pack=0, at=at, offset=0, size=size, sha256="00")

    return Contents(
        version=1,
        backup="abc",
        directories=(Directory(path="global", mode=0o700),),
        files=(
            file("PG_VERSION", piece(0, 3)),
            file("backup_label", piece(3, 5)),
            file("global/pg_control", piece(8, 9)),
        ),
        packs=(Pack(path="physical/abc/000000.pack.zst", object_id=None, stored_size=1, stored_sha256="0", size=17),),
        bad_pages=(),
    )  # fmt: skip


def test_the_map_comes_back() -> None:
    assert Contents.from_json(contents().to_json(), backup="abc") == contents()


@pytest.mark.parametrize("path", ["../out", "/etc/passwd", "a/../../b", "a//b", "", "nowhere/x", "PG_VERSION", "a\0b"])
def test_a_map_that_leads_elsewhere_is_refused(path: str) -> None:
    good = contents()
    extra = File(path=path, size=0, mtime=1, mode=0o600, pieces=())
    with pytest.raises(Corrupt):
        Contents.from_json(dataclasses.replace(good, files=(*good.files, extra)).to_json(), backup="abc")


def test_maps_whose_pieces_do_not_fit_are_refused() -> None:
    good = contents()
    for broken in (
        dataclasses.replace(good, backup="other"),
        dataclasses.replace(good, version=3),
        dataclasses.replace(good, packs=()),
        dataclasses.replace(good, packs=(dataclasses.replace(good.packs[0], size=18),)),
        dataclasses.replace(good, files=good.files[:2]),
        dataclasses.replace(good, files=(dataclasses.replace(good.files[0], size=2), *good.files[1:])),
    ):
        with pytest.raises(Corrupt):
            Contents.from_json(broken.to_json(), backup="abc")


def test_recovery_settings() -> None:
    lines = settings(Target("immediate"), None).splitlines()
    assert "recovery_target = 'immediate'" in lines
    assert "restore_command = 'false'" in lines
    assert "primary_conninfo = ''" in lines
    assert "restore_command = 'cp ''a\\\\b'' %p'" in settings(Target("latest"), "cp 'a\\b' %p").splitlines()
    assert "recovery_target = ''" in settings(Target("latest"), None).splitlines()
    lines = settings(Target("time", "2026-03-01T02:00:00Z"), "fetch", 7).splitlines()
    assert {"recovery_target_time = '2026-03-01T02:00:00Z'", "recovery_target_timeline = '7'"} <= set(lines)
    assert sum("recovery_target" in line and not line.endswith("= ''") for line in lines) == 4


@given(st.integers(0, 50), st.integers(1, 8))
def test_workers_lay_down_packs_that_are_apart(count: int, workers: int) -> None:
    order = apart(range(count), workers)
    assert sorted(order) == list(range(count))
    if count > 2 * workers * workers:  # of those that are in work at a time no two are neighbours
        at_a_time = [order[n : n + workers] for n in range(0, count - workers * workers, workers)]
        assert all(abs(a - b) > 1 for some in at_a_time for a in some for b in some if a != b)
