#!/usr/bin/env python3
"""Turns a downloaded Matriarch store back into plain data, with this file, the key and nothing else of Matriarch.

    pip install cryptography zstandard
    aws s3 sync s3://BUCKET/PREFIX/CLUSTER store        # manifests, logical, physical, wal, keys, owner.json

    python3 matriarch-decrypt.py list    KEY store                     what is there, newest first; checks manifests
    python3 matriarch-decrypt.py verify  KEY store                     reads every byte of everything, writes nothing
    python3 matriarch-decrypt.py backup  KEY store OUT [--id ID]       a backup, the newest by default:
                                                                         logical  → OUT/backup.sql
                                                                         physical → OUT is a data directory
    python3 matriarch-decrypt.py wal     KEY store OUT                 every file of the WAL archive into OUT
    python3 matriarch-decrypt.py object  KEY FILE  > plain             one encrypted object, still compressed
    python3 matriarch-decrypt.py bundle  BUNDLE                        what a recovery bundle says

KEY is a file with the key (32 bytes, 64 hex digits, base64, or a line `x25519-private:…`), or a recovery bundle: then
the passphrase is asked for (or taken from MATRIARCH_PASSPHRASE), or --private FILE opens it. For a store that is not
encrypted write `-`. `backup --wal FOLDER` lets the physical backup go on with the WAL that `wal` has written to FOLDER.

    psql -X -v ON_ERROR_STOP=1 -d postgres -f OUT/backup.sql     logical; psql 17.6, 16.10, 15.14 or later, superuser
    chmod 700 OUT; postgres -D OUT                                physical; same major version, as a user that is not root

It follows docs/reference/backup-format.md and shares no code with Matriarch. It ends with 0 only when every check has
passed; what an unfinished run has written must not be used.
"""

import argparse
import base64
import getpass
import hashlib
import hmac
import json
import os
import shutil
import struct
import sys
import zlib
from pathlib import Path

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SEGMENT = 16 << 20


class Bad(Exception):
    """A check failed; the message is for a person."""


def need(condition, why):
    if not condition:
        raise Bad(why)


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


# Keys


def hkdf(secret, salt, info, length):
    prk = hmac.digest(salt or bytes(32), secret, "sha256")
    out = block = b""
    for i in range(1, -(-length // 32) + 1):
        block = hmac.digest(prk, block + info + bytes([i]), "sha256")
        out += block
    return out[:length]


def decode_base64(text):
    text = text.replace(b"-", b"+").replace(b"_", b"/").rstrip(b"=")
    return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)


class Key:
    """`kind` is A256GCM (32 secret bytes) or X25519 (a private key)."""

    def __init__(self, kind, secret):
        need(len(secret) == 32, "a key has 32 bytes")
        self.kind, self.secret = kind, secret
        if kind == "X25519":
            self.public = X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
            self.id = hkdf(self.public, b"", b"matriarch/x25519-id/1", 8).hex()
        else:
            self.id = hkdf(secret, b"", b"matriarch/kek-id/1", 8).hex()

    def unwrap(self, slot, purpose, name):
        """What is wrapped in `slot`: a data key of a backup, or in a bundle another key. `name` is bound to it."""
        aad = f"matriarch/{purpose}/1 {slot['alg']} {name} {self.id}".encode()
        wrapped = bytes.fromhex(slot["wrapped"])
        if self.kind == "X25519":
            sender = bytes.fromhex(slot["epk"])
            shared = X25519PrivateKey.from_private_bytes(self.secret).exchange(
                X25519PublicKey.from_public_bytes(sender)
            )
            both = hkdf(shared, sender + self.public, b"matriarch/x25519-wrap/1 " + aad, 44)
            return AESGCM(both[:32]).decrypt(both[32:], wrapped, aad)
        wrapping = hkdf(self.secret, bytes.fromhex(name), b"matriarch/kek-wrap/1", 32)
        return AESGCM(wrapping).decrypt(bytes.fromhex(slot["nonce"]), wrapped, aad)


def read_key(path, private):
    if path == "-":
        return None
    text = Path(path).read_bytes()
    if len(text) == 32:
        return Key("A256GCM", text)
    if text.lstrip().startswith(b"{"):
        return open_bundle(json.loads(text), private)
    text = b"".join(text.split())
    need(not text.startswith(b"x25519-public:"), "this is a public key: it only writes; give the private one")
    if text.startswith(b"x25519-private:"):
        return Key("X25519", decode_base64(text.partition(b":")[2]))
    return Key("A256GCM", bytes.fromhex(text.decode()) if len(text) == 64 else decode_base64(text))


def open_bundle(bundle, private):
    need(bundle.get("format") == "matriarch-recovery-bundle/1", "this is no recovery bundle of version 1")
    held, sealed = bundle["key"], bundle["key"]["sealed"]
    need(sealed is not None, f"the bundle holds no key: {held['id']} is a public key; give its private key instead")
    name = held["id"]
    if sealed["alg"] == "X25519":
        need(private, f"this bundle is sealed for key {sealed['kek']}: give --private FILE")
        secret = read_key(private, None).unwrap(sealed, "bundle", name)
    else:
        need(sealed["alg"] == "SCRYPT-A256GCM", f"the bundle is sealed by {sealed['alg']}, which is not known here")
        n, r, p = sealed["n"], sealed["r"], sealed["p"]
        need(n <= 1 << 20 and r <= 32 and p <= 16, "the bundle asks for more work than any of ours")
        phrase = os.environ.get("MATRIARCH_PASSPHRASE") or getpass.getpass("passphrase of the bundle: ")
        salt = bytes.fromhex(sealed["salt"])
        wrapping = hashlib.scrypt(phrase.encode(), salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=32)
        aad = f"matriarch/bundle/1 SCRYPT-A256GCM {name} {n} {r} {p}".encode()
        try:
            secret = AESGCM(wrapping).decrypt(bytes.fromhex(sealed["nonce"]), bytes.fromhex(sealed["wrapped"]), aad)
        except InvalidTag:
            raise Bad("this is not the bundle's passphrase") from None
    key = Key(held["alg"], secret)
    need(key.id == name, "the bundle holds another key than it says")
    return key


# One encrypted object


class Store:
    """A downloaded prefix. Names of objects are keys; where a file system holds no `:` it has %3A in its place."""

    def __init__(self, folder, key):
        self.folder, self.key = Path(folder), key

    def path(self, name):
        parts = name.split("/")
        need(not any(p in ("", ".", "..") or "\0" in p for p in parts), f"{name!r} is no name of an object")
        path = self.folder.joinpath(*parts)
        other = self.folder.joinpath(*(p.replace(":", "%3A") for p in parts))
        return other if not path.exists() and other.exists() else path

    def data_key(self, dek_id, slots, what):
        need(self.key is not None, f"{what} is encrypted: give its key")
        added = self.folder / "keys" / dek_id / f"{self.key.id}.json"
        slots = [*slots, *([json.loads(added.read_bytes())] if added.exists() else [])]
        for slot in slots:
            if slot["alg"] == self.key.kind and slot["kek"] == self.key.id:
                return self.key.unwrap(slot, "slot", dek_id)
        raise Bad(f"{what} needs key {' or '.join(s['kek'] for s in slots)}, and this is key {self.key.id}")

    def opened(self, file, what, dek=None, dek_id=None, context=None):
        """The header's context and object id, then the plaintext in pieces; the end is real when it ends well."""
        fixed = file.read(98)
        need(len(fixed) == 98 and fixed[:8] == b"MTRBKUP\0", f"{what} is no encrypted object")
        version, suite, flags, length, log2, _, its_dek, oid, salt, prefix, size = struct.unpack(
            ">HHIIBB16s16s32s7sxI", fixed[8:]
        )
        need((version, suite, flags) == (1, 1, 0), f"{what}: version {version}, suite {suite} is not known here")
        need(length == 98 + size + 32 <= 1 << 20 and 10 <= log2 <= 26, f"{what}: its header is damaged")
        header = fixed + file.read(size + 32)
        (slots_size,) = struct.unpack(">I", file.read(4))
        need(slots_size <= 1 << 20, f"{what}: its key slots are damaged")
        slots = file.read(slots_size)
        found, commitment = header[98:-32], header[-32:]
        if dek is None:
            dek = self.data_key(its_dek.hex(), json.loads(slots)["slots"], what)
        need(dek_id in (None, its_dek.hex()), f"{what} was made with another data key")
        keys = hkdf(dek, salt, b"matriarch/object/1" + struct.pack(">H", suite) + found, 64)
        need(hmac.compare_digest(keys[32:], commitment), f"{what}: the key does not belong to this object")
        need(context is None or found == canonical(context), f"{what} is another object: {found.decode()}")
        yield found, oid.hex(), dek
        aead, aad, number, whole = AESGCM(keys[:32]), hashlib.sha256(header).digest(), 0, (1 << log2) + 16
        sealed = file.read(whole)
        while True:
            following = file.read(whole)
            last = not following
            need(len(sealed) > 16 or (len(sealed) == 16 and not number), f"{what} is cut off after chunk {number}")
            try:
                yield aead.decrypt(prefix + struct.pack(">IB", number, last), sealed, aad)
            except InvalidTag:
                raise Bad(f"{what}: chunk {number} is not authentic: altered, moved or cut off") from None
            if last:
                return
            sealed, number = following, number + 1

    def checked(self, wanted, manifest, role, codec):
        """The plain content of a data object, every digest compared. `wanted`: path, object_id, stored_…"""
        name, body = wanted["path"], manifest["body"]
        path = self.path(name)
        need(path.is_file(), f"{name} is missing")
        with HashedFile(path) as file:
            if manifest["dek"] is None:
                pieces = iter(lambda: file.read(1 << 20), b"")
            else:
                origin = body["origin"]
                context = {
                    "format": 1, "cluster": origin["cluster_uid"], "system": origin["system_identifier"],
                    "backup": body["id"], "role": role, "path": name, "codec": codec,
                }  # fmt: skip
                pieces = self.opened(file, name, manifest["dek"], body["encryption"]["dek"], context)
                _, object_id, _ = next(pieces)
                need(object_id == wanted["object_id"], f"{name} is another object than the backup names")
            yield from inflate(pieces, codec, name)
            need(file.size == wanted["stored_size"], f"{name} has {file.size} bytes, not {wanted['stored_size']}")
            need(file.digest.hexdigest() == wanted["stored_sha256"], f"{name} is not as it was stored (SHA-256)")


class HashedFile:
    def __init__(self, path):
        self.file, self.digest, self.size = path.open("rb"), hashlib.sha256(), 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def read(self, size):
        data = self.file.read(size)
        self.digest.update(data)
        self.size += len(data)
        return data


def inflate(pieces, codec, what):
    try:
        if codec == "none":
            yield from pieces
        elif codec == "gzip":
            stream = zlib.decompressobj(wbits=31)
            for piece in pieces:
                need(not (stream.eof and piece), f"{what}: bytes follow its gzip stream")
                while piece:
                    yield stream.decompress(piece, 1 << 20)
                    piece = stream.unconsumed_tail
                need(not stream.unused_data, f"{what}: bytes follow its gzip stream")
            while rest := stream.decompress(b"", 1 << 20):
                yield rest
            need(stream.eof, f"{what}: its gzip stream ends too early")
        else:
            reader = zstandard.ZstdDecompressor(max_window_size=1 << 23).stream_reader(
                Pieces(pieces), read_across_frames=True
            )
            while part := reader.read(1 << 20):
                yield part
    except (zlib.error, zstandard.ZstdError) as error:
        raise Bad(f"{what} does not decompress: {error}") from None


class Pieces:
    """An iterator of bytes as a file."""

    def __init__(self, pieces):
        self.pieces, self.held = pieces, b""

    def read(self, size=-1):
        while not self.held:
            self.held = next(self.pieces, None)
            if self.held is None:
                self.held = b""
                return b""
        part, self.held = (self.held[:size], self.held[size:]) if size >= 0 else (self.held, b"")
        return part


# Backups


def manifests(store):
    """Every manifest, oldest first: its body, digest, and the data key where the key opens it (else `error`)."""
    found = []
    folder = store.folder / "manifests"
    for path in sorted(folder.glob("*.json")) if folder.exists() else []:
        entry = {"name": path.name, "raw": path.read_bytes(), "dek": None, "error": None, "body": None}
        found.append(entry)
        try:
            outer = json.loads(entry["raw"])
            body = outer["body"]
            need(canonical(outer) == entry["raw"], "it was altered")
            need(sha256(canonical(body)) == outer["sha256"], "it was altered")
            need(body["format"] == 1, f"its format is {body['format']}")
            need(path.name == f"{body['sequence']:010d}-{body['id']}.json", "it lies under another name")
            entry["body"] = body
            if (encryption := body["encryption"]) is not None:
                dek = store.data_key(encryption["dek"], encryption["slots"], path.name)
                mac_key = hkdf(dek, bytes.fromhex(encryption["dek"]), b"matriarch/manifest/1", 32)
                mac = hmac.digest(mac_key, canonical(body), "sha256").hex()
                need(hmac.compare_digest(mac, outer["hmac"]), "it was not written by a holder of the key")
                entry["dek"] = dek
            else:
                need(store.key is None, "it is not encrypted, so nothing proves who wrote it: use `-` as the key")
        except (Bad, ValueError, KeyError, TypeError, InvalidTag) as error:
            entry["error"] = str(error) or type(error).__name__
    return found


def chain(found):
    """What the chain of manifests says: every one names the one before it, which retention may have removed."""
    known = {sha256(m["raw"]): m for m in found}
    for manifest in found:
        body = manifest["body"]
        if body and body["previous"] and body["previous"] not in known:
            earlier = [m for m in found if m["body"] and m["body"]["sequence"] == body["sequence"] - 1]
            if earlier:
                yield f"{manifest['name']} was built on another {earlier[0]['name']} than the one that is here"


def restore_logical(store, manifest, out):
    """Writes OUT/backup.sql; with `out` None only checks."""
    wanted, digest, size = manifest["body"]["object"], hashlib.sha256(), 0
    file = None if out is None else (out / "backup.sql").open("xb")
    for piece in store.checked(wanted, manifest, "logical", wanted["codec"]):
        digest.update(piece)
        size += len(piece)
        if file is not None:
            file.write(piece)
    need((size, digest.hexdigest()) == (wanted["text_size"], wanted["text_sha256"]), "the SQL is not what was dumped")
    if file is not None:
        file.flush()
        os.fsync(file.fileno())
        file.close()
    return size


def read_map(store, manifest):
    body = manifest["body"]
    wanted = body["object"]
    text = b"".join(store.checked(wanted, manifest, "map", "zstd"))
    need(sha256(text) == wanted["text_sha256"], "the map is not the one of the manifest")
    contents = json.loads(text)
    need((contents["version"], contents["backup"]) == (1, body["id"]), "the map is of another version or backup")
    folders, seen = {d["path"] for d in contents["directories"]}, set()
    for path in [d["path"] for d in contents["directories"]] + [f["path"] for f in contents["files"]]:
        parts = path.split("/")
        need(path not in seen and not any(p in ("", ".", "..") or "\0" in p for p in parts), f"{path!r} is no path")
        need(len(parts) == 1 or "/".join(parts[:-1]) in folders, f"{path!r} lies in a folder that is not there")
        seen.add(path)
    for name in ("PG_VERSION", "backup_label", "global/pg_control"):
        need(name in seen, f"{name} is missing: never start PostgreSQL without it")
    return contents


def restore_physical(store, manifest, out, wal):
    contents = read_map(store, manifest)
    by_pack = {}
    for file in contents["files"]:
        for piece in file["pieces"]:
            by_pack.setdefault(piece["pack"], []).append((piece["at"], file, piece))
    if out is not None:
        for folder in contents["directories"]:
            (out / folder["path"]).mkdir(mode=folder["mode"] | 0o700)
        for file in contents["files"]:
            # pg_control comes last, under its own name: without it PostgreSQL starts nothing half restored.
            with (out / place(file)).open("xb") as target:
                target.truncate(file["size"])
    size = 0
    for number, pack in enumerate(contents["packs"]):
        stream = store.checked(pack, manifest, "pack", "zstd")
        held = b""
        at = 0
        for expected, file, piece in sorted(by_pack.get(number, []), key=lambda p: p[0]):
            need(piece["at"] == at == expected, f"the pieces in {pack['path']} do not follow each other")
            digest, left, position = hashlib.sha256(), piece["size"], piece["offset"]
            target = None if out is None else (out / place(file)).open("r+b")
            while left:
                held = held or next(stream, b"")
                need(held, f"{pack['path']} ends before its last piece")
                part, held = held[:left], held[left:]
                digest.update(part)
                if target is not None:
                    target.seek(position)
                    target.write(part)
                left, position = left - len(part), position + len(part)
            if target is not None:
                target.close()
            need(digest.hexdigest() == piece["sha256"], f"{file['path']} is not what was backed up")
            need(piece["offset"] + piece["size"] <= file["size"], f"the pieces of {file['path']} are longer than it is")
            at += piece["size"]
        need(not held and not next(stream, b"") and at == pack["size"], f"{pack['path']} holds more than its pieces")
        for _ in stream:
            raise Bad(f"{pack['path']} holds more than its pieces")
        size += at
    if out is not None:
        finish_directory(out, contents, wal)
    return size


def place(file):
    return file["path"] + (".restoring" if file["path"] == "global/pg_control" else "")


def finish_directory(out, contents, wal):
    for file in contents["files"]:
        path = out / place(file)
        path.chmod(file["mode"])
        os.utime(path, (file["mtime"], file["mtime"]))
    fetch, line = "false", "current"
    if wal is not None:
        fetch, line = (
            "cp " + str(Path(wal).absolute()).replace("%", "%%").replace("'", "''") + "/%f %p",
            newest_line(wal),
        )
    settings = {
        "restore_command": fetch, "recovery_target_timeline": line, "recovery_target_action": "promote",
        "archive_mode": "off", "primary_conninfo": "", "primary_slot_name": "", "recovery_target": "",
        "recovery_target_lsn": "", "recovery_target_name": "", "recovery_target_time": "", "recovery_target_xid": "",
        "recovery_end_command": "", "archive_cleanup_command": "", "synchronous_standby_names": "",
    }  # fmt: skip
    with (out / "postgresql.auto.conf").open("a") as conf:
        conf.write("\n# Written by matriarch-decrypt.py\n" + "".join(f"{k} = '{v}'\n" for k, v in settings.items()))
    (out / "recovery.signal").touch()
    os.sync()
    (out / "global" / "pg_control.restoring").rename(out / "global" / "pg_control")
    os.sync()


def newest_line(wal):
    """The newest timeline in the folder: numbers have gaps, so PostgreSQL's own search ends too early."""
    lines = [int(p.name[:8], 16) for p in Path(wal).glob("*.history")]
    return str(max(lines)) if lines else "current"


# The WAL archive


def archived(store):
    """Every archived file, (name, content), checked."""
    system = json.loads((store.folder / "owner.json").read_bytes())["system_identifier"]
    for path in sorted((store.folder / "wal").glob("*/*")) if (store.folder / "wal").exists() else []:
        encrypted = path.name.endswith(".zst.enc")
        need(encrypted or path.name.endswith(".zst"), f"{path} is nothing of ours")
        name = path.name.removesuffix(".enc").removesuffix(".zst")
        key = f"wal/{name[:8]}/{path.name}"
        need(path.parent.name == name[:8], f"{path} lies in another timeline's folder")
        limit = SEGMENT if not name.endswith((".history", ".backup")) else 1 << 20
        if encrypted:
            with path.open("rb") as file:
                pieces = store.opened(file, key)
                text, _, dek = next(pieces)
                packed = b"".join(pieces)
                file.seek(0)
                dek_id = file.read(38)[22:]
            context = json.loads(text)
            wanted = {
                "format": 1, "role": "wal", "system": system, "timeline": int(name[:8], 16), "name": name,
                "path": key, "codec": "zstd",
            }  # fmt: skip
            need(all(context.get(k) == v for k, v in wanted.items()), f"{key} is {context.get('name')}")
            need(context["packed"] == len(packed), f"{key} has another size than it says")
        else:
            need(store.key is None, f"{key} is not encrypted, so nothing proves who wrote it: use `-` as the key")
            packed = path.read_bytes()
        try:
            need(0 <= zstandard.get_frame_parameters(packed).content_size <= limit, f"{key} would be too big")
            data = zstandard.ZstdDecompressor().decompress(packed, max_output_size=limit, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise Bad(f"{key} does not decompress: {error}") from None
        if encrypted:
            digest_key = hkdf(dek, dek_id, b"matriarch/wal-digest/1", 32)
            mac = hmac.digest(digest_key, data, "sha256").hex()
            need(hmac.compare_digest(mac, context["digest"]), f"{key} holds other content than was archived")
        check_segment(name, data, int(system))
        yield name, data


def check_segment(name, data, system):
    if name.endswith((".history", ".backup")):
        return
    need(len(data) == SEGMENT, f"{name} has {len(data)} bytes")
    magic, info, line, address, _, its_system, size, page = struct.unpack_from("=HHIQI4xQII", data)
    start = int(name[8:16], 16) * (1 << 32) + int(name[16:24], 16) * SEGMENT
    right = magic >> 8 == 0xD1 and info & 2 and its_system == system and address == start and size == SEGMENT
    need(right and page == 8192 and 1 <= line <= int(name[:8], 16), f"{name} is not the WAL that its name says")


def gaps(names):
    """Stretches of each timeline that are missing between two segments that are there."""
    by_line = {}
    for name in names:
        if len(name) == 24:
            by_line.setdefault(name[:8], []).append(int(name[8:16], 16) * 256 + int(name[16:24], 16))
    for line, numbers in sorted(by_line.items()):
        for before, after in zip(sorted(numbers), sorted(numbers)[1:], strict=False):
            if after != before + 1:
                yield f"timeline {int(line, 16)}: {after - before - 1} segments are missing after number {before:X}"


# Commands


def compare_with_bundle(path, found):
    """A store that was set back, or whose backups were taken away, shows against the bundle."""
    if path == "-" or not Path(path).read_bytes().lstrip().startswith(b"{"):
        return
    here = {f"manifests/{m['name']}": sha256(m["raw"]) for m in found}
    for known in json.loads(Path(path).read_bytes())["newest"]:
        digest = here.get(known["manifest"])
        if digest is None:
            print(f"note: {known['manifest']} of the bundle is not here (retention, or somebody)", file=sys.stderr)
        need(digest in (None, known["sha256"]), f"{known['manifest']} is not the one that the bundle knows")


def choose(found, wanted):
    usable = [m for m in found if m["body"] is not None]
    need(usable, "there is no manifest that can be read: without one nothing is a backup")
    if wanted is None:
        broken = [m for m in found if m["body"] is None]
        need(not broken, f"manifests/{broken[0]['name'] if broken else ''} is damaged: say which backup by --id")
        chosen = max(usable, key=lambda m: (m["body"]["sequence"], m["body"]["finished"]))
    else:
        some = [m for m in usable if wanted in (m["body"]["id"], m["body"]["name"], m["body"]["file"])]
        need(len(some) == 1, f"{len(some)} backups are named {wanted}")
        chosen = some[0]
    need(chosen["error"] is None, f"manifests/{chosen['name']}: {chosen['error']}")
    return chosen


def one_backup(store, manifest, out, wal):
    if manifest["body"]["kind"] == "logical":
        return restore_logical(store, manifest, out)
    return restore_physical(store, manifest, out, wal)


def run(given):
    if given.what == "bundle":
        bundle = json.loads(Path(given.key).read_bytes())
        print(bundle["instructions"])
        print(json.dumps({k: bundle[k] for k in bundle if k not in ("instructions", "decryptor")}, indent=2))
        return
    store = Store(given.store, read_key(given.key, given.private))
    if given.what == "object":
        with Path(given.store).open("rb") as file:
            store.folder = Path(given.store).parent
            pieces = store.opened(file, given.store)
            print(next(pieces)[0].decode(), file=sys.stderr)
            for piece in pieces:
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        return
    out = None
    if given.what in ("backup", "wal"):
        need(given.out, "say where to")
        out = Path(given.out)
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        need(not any(out.iterdir()), f"{out} is not empty")
    found = manifests(store)
    compare_with_bundle(given.key, found)
    if given.what == "list":
        for manifest in reversed(found):
            body = manifest["body"] or {"finished": "?", "kind": "?", "name": manifest["name"]}
            print(f"{body['finished']}  {body['kind']:8}  {body['name']}  {manifest['error'] or 'authentic'}")
    elif given.what == "backup":
        manifest = choose(found, given.id)
        try:
            size = one_backup(store, manifest, out, given.wal)
        except BaseException:
            for path in out.iterdir():  # it was empty
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            raise
        print(f"{manifest['body']['name']}: {size} bytes in {out}, every check passed")
    elif given.what == "wal":
        names = []
        for name, data in archived(store):
            (out / name).write_bytes(data)
            names.append(name)
        os.sync()
        print(f"{len(names)} files in {out}, every check passed")
        for gap in gaps(names):
            print(f"note: {gap}", file=sys.stderr)
    else:
        bad = [f"manifests/{m['name']}: {m['error']}" for m in found if m["error"]] + list(chain(found))
        for manifest in found:
            if not manifest["error"]:
                try:
                    print(f"{manifest['body']['name']}: {one_backup(store, manifest, None, None)} bytes, well")
                except Bad as error:
                    bad.append(f"{manifest['body']['name']}: {error}")
        names = [name for name, _ in archived(store)]
        print(f"WAL archive: {len(names)} files, well")
        bad += list(gaps(names))
        need(not bad, "; ".join(bad))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("list", "verify", "backup", "wal", "object", "bundle"))
    parser.add_argument("key")
    parser.add_argument("store", nargs="?")
    parser.add_argument("out", nargs="?")
    parser.add_argument("--id", help="of the backup; default: the newest")
    parser.add_argument("--wal", help="folder with the WAL that a physical backup goes on with")
    parser.add_argument("--private", help="private key that opens a recovery bundle")
    given = parser.parse_args()
    if given.what != "bundle" and given.store is None:
        parser.error("say where the store is")
    try:
        run(given)
    except (Bad, InvalidTag, OSError, ValueError, KeyError, TypeError, struct.error, UnicodeError) as error:
        sys.exit(f"refused: {str(error) or type(error).__name__}")


if __name__ == "__main__":
    main()
