#!/usr/bin/env python3
"""Decrypt a Matriarch backup with nothing but this file, the key and the package `cryptography`.

    python3 matriarch-decrypt.py KEYFILE backup-….sql.gz.enc | gunzip | psql -X -v ON_ERROR_STOP=1 -d postgres

KEYFILE holds the key as 32 bytes, 64 hex digits or base64. Written for the day on which nothing else is there: it
follows docs/backup-format.md and shares no code with Matriarch. Output that ends with an error must not be used.
"""

import base64
import hashlib
import hmac
import json
import struct
import sys
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    prk = hmac.digest(salt or bytes(32), secret, "sha256")
    out = block = b""
    for i in range(1, -(-length // 32) + 1):
        block = hmac.digest(prk, block + info + bytes([i]), "sha256")
        out += block
    return out[:length]


def read_key(path: str) -> bytes:
    text = Path(path).read_bytes()
    if len(text) == 32:
        return text
    text = b"".join(text.split())
    if len(text) == 64:
        return bytes.fromhex(text.decode())
    key = base64.b64decode(text.replace(b"-", b"+").replace(b"_", b"/") + b"=" * (-len(text) % 4))
    if len(key) != 32:
        sys.exit("the key file does not hold 32 bytes")
    return key


def data_key(kek: bytes, dek_id: bytes, slots: list) -> bytes:
    kek_id = hkdf(kek, b"", b"matriarch/kek-id/1", 8).hex()
    for slot in slots:
        if slot["alg"] == "A256GCM" and slot["kek"] == kek_id:
            wrapping = hkdf(kek, dek_id, b"matriarch/kek-wrap/1", 32)
            aad = f"matriarch/slot/1 A256GCM {dek_id.hex()} {kek_id}".encode()
            return AESGCM(wrapping).decrypt(bytes.fromhex(slot["nonce"]), bytes.fromhex(slot["wrapped"]), aad)
    sys.exit(f"this is key {kek_id}; the backup needs {' or '.join(s['kek'] for s in slots)}")


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    kek = read_key(sys.argv[1])
    with Path(sys.argv[2]).open("rb") as file:
        fixed = file.read(98)
        if len(fixed) < 98 or fixed[:8] != b"MTRBKUP\0":
            sys.exit("this is no encrypted Matriarch backup")
        version, suite, flags, length, log2, _, dek_id, _, salt, prefix, size = struct.unpack(
            ">HHIIBB16s16s32s7sxI", fixed[8:]
        )
        if (version, suite, flags) != (1, 1, 0):
            sys.exit(f"format version {version}, suite {suite}, flags {flags:#x} is not known here")
        header = fixed + file.read(length - len(fixed))
        context, commitment = header[98 : 98 + size], header[-32:]
        (slots_size,) = struct.unpack(">I", file.read(4))
        dek = data_key(kek, dek_id, json.loads(file.read(slots_size))["slots"])
        keys = hkdf(dek, salt, b"matriarch/object/1" + struct.pack(">H", suite) + context, 64)
        if not hmac.compare_digest(keys[32:], commitment):
            sys.exit("the key does not belong to this object")
        print(context.decode(), file=sys.stderr)

        aead, aad, number = AESGCM(keys[:32]), hashlib.sha256(header).digest(), 0
        sealed = file.read((1 << log2) + 16)
        while True:
            following = file.read((1 << log2) + 16)
            last = not following
            if last and len(sealed) == 16 and number:
                sys.exit("the last chunk is empty: the file was altered")
            try:
                plain = aead.decrypt(prefix + struct.pack(">IB", number, last), sealed, aad)
            except InvalidTag:
                sys.exit(f"chunk {number} is not authentic: the file was altered or cut off")
            sys.stdout.buffer.write(plain)
            if last:
                break
            sealed, number = following, number + 1
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
