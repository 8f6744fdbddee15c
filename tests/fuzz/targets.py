"""What is fuzzed: every reader of what a store holds. Each takes any bytes and proves one property.

Either the very data that was written comes out, or one of our declared errors; a stranger's bytes are never executed,
nothing is written outside the target, and memory stays below a bound. Where a target seals the input itself (`map`,
`details`, `body`) the input is what a holder of the key could have written: the reader has to be safe even then.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import resource
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from matriarch.archive import listing as wal_listing
from matriarch.archive import objects, rotation
from matriarch.archive.keyring import Keyring
from matriarch.archive.names import parse as wal_name
from matriarch.archive.vault import Vault
from matriarch.backup import catalog, manifest, names, restore
from matriarch.backup.format import Header, Opener, canonical
from matriarch.backup.jobspec import ClusterIdentity
from matriarch.backup.jsonclass import decode
from matriarch.backup.keys import Dek, Kek, open_slots
from matriarch.backup.manifest import Details, Manifest
from matriarch.backup.physical import restore as physical
from matriarch.backup.physical.contents import Contents
from matriarch.backup.progress import Tracker
from matriarch.backup.stop import Stop
from matriarch.errors import Corrupt, Refused
from matriarch.postgres.timeline import parse_history
from tests.fuzz import world
from tests.fuzz.edits import edited
from tests.fuzz.world import KEK, PAIR, SYSTEM, Memory

DECLARED = (Refused, Corrupt)
MEMORY = 500 << 20  # bytes that readers may hold beside what was there before
_IDENTITY = ClusterIdentity(namespace="", name="", uid="")


class Violation(AssertionError):  # noqa: N818 - reads as what it is
    """The property does not hold."""


@dataclass(frozen=True)
class Target:
    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    longest: int
    """Bytes of an input."""


@cache
def made() -> world.World:
    built = world.build()
    held_before()
    return built


@cache
def small() -> dict[bytes, bytes]:
    return world.small_objects()


def must(condition: object, what: str) -> None:
    if not condition:
        raise Violation(what)


def _most() -> int:
    """Bytes that this process held at any time."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@cache
def held_before() -> int:
    """The same before the first input: other tests of the same process may have held much."""
    return _most()


def bounded() -> None:
    must(_most() < held_before() + MEMORY, "memory grew over its bound")


# One sealed object: header, slots and stream, fed in pieces of any size.


def sealed_object(data: bytes) -> None:
    step = 1 + (data[0] if data else 0) * 37
    raw = data[1:]
    opener = Opener(keys=[KEK, PAIR])
    out = []
    try:
        for at in range(0, len(raw), step):
            out += opener.update(raw[at : at + step])
        out.append(opener.finish())
    except DECLARED:
        return
    must(opener.header is not None, "opened without a header")
    must(b"".join(out) in small().values(), "a stream that nobody sealed was opened")


def header(data: bytes) -> None:
    with contextlib.suppress(*DECLARED):
        found = Header.parse(data)
        must(found.raw == data, "a header that is not its bytes")


def slots(data: bytes) -> None:
    dek, found = _slots_of_the_world()
    try:
        wanted = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(wanted, list):
        return
    with contextlib.suppress(*DECLARED):
        must(open_slots(dek, wanted, [KEK, PAIR], what="it").secret == found, "another data key came out")


@cache
def _slots_of_the_world() -> tuple[str, bytes]:
    raw = next(r for k, r in made().sealed.items() if k.startswith("manifests/"))
    encryption = Manifest.parse(raw, where=_manifest_key(raw)).body.encryption
    assert encryption is not None
    return encryption.dek, open_slots(encryption.dek, encryption.slots, [KEK], what="it").secret


def _manifest_key(raw: bytes) -> str:
    body = json.loads(raw)["body"]
    return manifest.manifest_key(body["sequence"], body["id"])


# Manifests: as they are, and as a holder of the key could write them.


def manifest_bytes(data: bytes) -> None:
    for key, raw in made().sealed.items():
        if key.startswith("manifests/"):
            with contextlib.suppress(*DECLARED):
                Manifest.parse(data, where=key).open([KEK])
                must(data == raw, "a manifest that nobody wrote was trusted")


def body(data: bytes) -> None:
    """Any JSON as a body, with the right digest and HMAC."""
    try:
        value = json.loads(data)
        text = canonical(value)
    except (ValueError, RecursionError):
        return
    dek = Dek(_slots_of_the_world()[1], _slots_of_the_world()[0])
    mac = hmac.digest(dek.manifest_key(), text, "sha256").hex()
    raw = canonical({"body": value, "sha256": hashlib.sha256(text).hexdigest(), "hmac": mac})
    store = Memory(dict(made().sealed))
    key = next(k for k in store.content if k.startswith("manifests/"))
    store.content[key] = raw
    with contextlib.suppress(*DECLARED):
        opened = Manifest.parse(raw, where=key).open([KEK])
        if opened.body.kind == "physical":
            physical.verify(store, opened, Tracker(), Stop(), workers=1)
        else:
            restore.check_object(store, opened, Tracker(), Stop())
    with contextlib.suppress(*DECLARED):
        catalog.find(store, "latest")
    bounded()


def details(data: bytes) -> None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    with contextlib.suppress(ValueError, TypeError):  # what `Manifest.open` turns into Corrupt
        decode(Details, value)


def contents(data: bytes) -> None:
    """A map of any content: what is accepted leads nowhere but below its folder."""
    try:
        found = Contents.from_json(data, backup="sphysicala")
    except DECLARED:
        return
    for path in (*(d.path for d in found.directories), *(f.path for f in found.files)):
        must(not path.startswith("/") and ".." not in path.split("/"), f"{path!r} leads out")
    must(sum(p.size for f in found.files for p in f.pieces) == found.size, "pieces and packs differ")


# Whole restores from altered stores.


def restore_physical(data: bytes) -> None:
    _restore_physical(made().sealed, data[1:], (KEK,), "sphysicala" if data[:1] < b"\x80" else "sphysicalb")


def restore_clear(data: bytes) -> None:
    _restore_physical(made().clear, data, (), "cphysicala")


def _restore_physical(content: dict[str, bytes], data: bytes, keys: tuple[Kek, ...], backup: str) -> None:
    store = Memory(edited(content, data), piece=4096)
    place = Path(tempfile.mkdtemp(prefix="keys-fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    try:
        (place / "beside").write_text("mine")
        directory = place / "a" / "data"
        request = physical.Request(store=store, keys=keys, backup=backup, directory=directory, workers=1)
        try:
            physical.restore(request)
        except DECLARED:
            must(not directory.exists() or not list(directory.iterdir()), "a refused restore left something")
        else:
            _compare(directory, made().trees[backup])
        outside = sorted(p.name for p in place.iterdir() if p.name != "a")
        must(outside == ["beside"] and (place / "beside").read_text() == "mine", "written outside the target")
        must(
            sorted(p.name for p in (place / "a").iterdir()) in ([], ["data"]) if (place / "a").exists() else True, "out"
        )
    finally:
        shutil.rmtree(place, ignore_errors=True)
    bounded()


def _compare(directory: Path, wanted: dict[str, bytes]) -> None:
    ours = {"postgresql.auto.conf", "recovery.signal"}
    found = {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    must({k: v for k, v in found.items() if k not in ours} == wanted, "a restore that is not what was backed up")


def read_logical(data: bytes) -> None:
    for content, keys, backup in (
        (made().sealed, (KEK,), "slogicalaa"),
        (made().clear, (), "clogicalaa"),
    ):
        store = Memory(edited(content, data), piece=8192)
        with contextlib.suppress(*DECLARED):
            opened = restore.find_trusted(store, backup, keys, False)
            must(b"".join(restore.read_text(store, opened)) == made().texts[backup], "another text was restored")
    bounded()


def looks(data: bytes) -> None:
    """All that only looks at a store: listings, who opens what, a new key."""
    store = Memory(edited(made().sealed, data))
    extra = data[7 * 8 : 7 * 8 + 200]
    if extra:
        dek = _slots_of_the_world()[0]
        store.content[f"keys/{dek}/{KEK.id}.json"] = extra
        store.content[f"wal/00000001/{extra[:20].hex()}"] = extra
    for look in (
        lambda: catalog.read_catalog(store),
        lambda: catalog.find(store, "latest"),
        lambda: list(rotation.holders(store)),
        lambda: rotation.rotate(store, [KEK], Kek.of(bytes(32))),
        lambda: wal_listing.histories(store, wal_listing.read_listing(store), (KEK,)),
        lambda: catalog.sweep(store),
    ):
        with contextlib.suppress(*DECLARED):
            look()
    for found in catalog.read_catalog(store).manifests:
        must(any(found.raw == r for r in made().sealed.values()), "a manifest that nobody wrote is listed")


# The WAL archive.


def wal(data: bytes) -> None:
    wanted = [n for n in made().wal if n.kind == "history"] if data[:1] < b"\xa0" else list(made().wal)[:1]
    keys = {n.key(encrypted=True): made().sealed[n.key(encrypted=True)] for n in made().wal}
    store = Memory(edited(keys, data[1:]))
    vault = Vault(store, Keyring((KEK,), lambda: 0.0), system=SYSTEM, cluster=_IDENTITY)
    for name in wanted:
        with contextlib.suppress(*DECLARED):
            found = vault.get(name)
            must(found is None or found == made().wal[name], "another segment came out of the archive")
            must(
                found is not None or name.key(encrypted=True) not in store.content,
                "a stored file is said to be missing",
            )
        with contextlib.suppress(*DECLARED):
            vault.confirm(name, made().wal[name])
    bounded()


def wal_frame(data: bytes) -> None:
    """A frame from nobody knows whom, in a store in the clear: bounded, and only what fits its name."""
    for text in ("000000010000000000000002", "00000002.history"):
        name = wal_name(text)
        assert name is not None
        vault = Vault(
            Memory({name.key(encrypted=False): data}), Keyring((), lambda: 0.0), system=SYSTEM, cluster=_IDENTITY
        )
        with contextlib.suppress(*DECLARED):
            vault.get(name)
        with contextlib.suppress(*DECLARED):
            objects.unseal(name, data, system=SYSTEM, dek=Dek(bytes(32), "00" * 16))
    bounded()


def texts(data: bytes) -> None:
    """Names, histories and keys that a person or a store gives."""
    text = data.decode("latin-1")
    names.parse(text)
    wal_name(text)
    with contextlib.suppress(ValueError):
        parse_history(5, text)
    with contextlib.suppress(*DECLARED):
        must(len(Kek.parse(data, origin="it").id) == 16, "a key without a name")


def _edits(*some: tuple[int, int, int, int, int, int]) -> bytes:
    return b"".join(struct.pack(">BBHBBB", *e) for e in some)


def _one_of_each() -> list[bytes]:
    return [
        b"",
        *(_edits((what, which, at, 0, 1, 3)) for what in range(12) for which in range(14) for at in (0, 40000)),
    ]


def _plain(prefix: str) -> Callable[[], list[bytes]]:
    return lambda: [v for k, v in made().plain.items() if k.startswith(prefix)]


def _headers() -> list[bytes]:
    return [raw[: int.from_bytes(raw[16:20], "big")] for raw in small()]


def _slots_seeds() -> list[bytes]:
    dek, secret = _slots_of_the_world()
    both = [key.wrap(Dek(secret, dek)) for key in (KEK, PAIR)]
    return [canonical(both), canonical(both[1:]), b"[]", b'[{"alg":"A256GCM","kek":"' + KEK.id.encode() + b'"}]']


def _frames() -> list[bytes]:
    history = next(d for n, d in made().wal.items() if n.kind == "history")
    return [
        objects.compress(history),
        objects.compress(bytes(16 << 20)),
        *(v[:3000] for k, v in made().sealed.items() if k.startswith("wal/")),
    ]


_TEXTS = (
    b"backup-2024-01-15T02:00:00.000Z-k3vq7m2xw4.sql.gz.enc",
    b"1\t0/3000000\tno recovery target\n",
    b"00000002.history",
)

TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        Target("object", sealed_object, lambda: [b"\x07" + raw for raw in small()], 6000),
        Target("header", header, _headers, 1000),
        Target("slots", slots, _slots_seeds, 2000),
        Target("manifest", manifest_bytes, lambda: [v for k, v in made().sealed.items() if "manifests/" in k], 5000),
        Target("body", body, _plain("body-"), 5000),
        Target("details", details, _plain("details-"), 3000),
        Target("map", contents, _plain("map-"), 5000),
        Target("restore", restore_physical, lambda: [b"\0" + e for e in _one_of_each()], 170),
        Target("restore-clear", restore_clear, _one_of_each, 170),
        Target("logical", read_logical, _one_of_each, 170),
        Target("looks", looks, _one_of_each, 260),
        Target("wal", wal, lambda: [b"\0" + e for e in _one_of_each()], 170),
        Target("wal-frame", wal_frame, _frames, 4000),
        Target("texts", texts, lambda: [*_TEXTS, KEK.secret.hex().encode(), PAIR.text.encode()], 300),
    )
}  # fmt: skip
