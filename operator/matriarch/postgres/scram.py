"""SCRAM-SHA-256 verifiers, so that a password never reaches PostgreSQL, its log or its statistics. Pure.

RFC 5802 and 7677; the text form is PostgreSQL's (pg_authid.rolpassword).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import stringprep
import unicodedata

ITERATIONS = 4096  # PostgreSQL's default of scram_iterations

_VERIFIER = re.compile(r"SCRAM-SHA-256\$(\d+):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")


def verifier(password: str, salt: bytes, iterations: int = ITERATIONS) -> str:
    """What to store for `password`; `salt` is 16 random bytes."""
    salted = hashlib.pbkdf2_hmac("sha256", _prepare(password), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    return f"SCRAM-SHA-256${iterations}:{_text(salt)}${_text(stored)}:{_text(server)}"


def matches(password: str, stored: str | None) -> bool:
    """Whether `stored` is a verifier of `password`: then nothing needs to be written."""
    match = _VERIFIER.fullmatch(stored or "")
    if match is None:
        return False
    return hmac.compare_digest(verifier(password, base64.b64decode(match[2]), int(match[1])), match[0])


def _prepare(password: str) -> bytes:
    """SASLprep (RFC 4013); like PostgreSQL, what it forbids is taken as it is."""
    if password.isascii():
        return password.encode()
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in password if not stringprep.in_table_b1(c))
    normal = unicodedata.normalize("NFKC", mapped)
    return password.encode() if not normal or any(map(_forbidden, normal)) or _mixed(normal) else normal.encode()


def _forbidden(c: str) -> bool:
    return (
        stringprep.in_table_a1(c)
        or stringprep.in_table_c12(c)
        or stringprep.in_table_c21_c22(c)
        or any(table(c) for table in _FORBIDDEN)
    )


_FORBIDDEN = (
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def _mixed(text: str) -> bool:
    """Right-to-left text that RFC 3454 section 6 does not allow."""
    if not any(map(stringprep.in_table_d1, text)):
        return False
    return any(map(stringprep.in_table_d2, text)) or not (
        stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    )


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
