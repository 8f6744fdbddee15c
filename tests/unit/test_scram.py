"""Password verifiers; tests/postgres/test_pg_lifecycle.py logs in with one."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.postgres.scram import matches, verifier


def test_the_example_of_the_standard() -> None:
    """RFC 7677, 3: user, pencil; its client proof and server signature follow from these two keys."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    _, _, keys = verifier("pencil", salt, 4096).split("$")
    stored, server = (base64.b64decode(k) for k in keys.split(":"))
    message = (
        b"n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )
    signature = hmac.digest(server, message, "sha256")
    assert base64.b64encode(signature) == b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    client = bytes(a ^ b for a, b in zip(proof, hmac.digest(stored, message, "sha256"), strict=True))
    assert hashlib.sha256(client).digest() == stored


@given(st.text(), st.binary(min_size=16, max_size=16))
def test_a_password_matches_its_own_verifier(password: str, salt: bytes) -> None:
    stored = verifier(password, salt, 1)
    assert matches(password, stored)
    assert not matches(password + "x", stored)


@pytest.mark.parametrize(("typed", "same"), [("a\u00a0b", "a b"), ("x\u00ady", "xy"), ("\u2168\u00e4", "IX\u00e4")])
def test_what_is_typed_differently_and_means_the_same_matches(typed: str, same: str) -> None:
    """SASLprep's table, RFC 4013, 3."""
    assert matches(typed, verifier(same, b"0" * 16, 1))


@pytest.mark.parametrize("stored", [None, "", "md5abc", "SCRAM-SHA-256$x"])
def test_anything_else_is_no_verifier(stored: str | None) -> None:
    assert not matches("secret", stored)
