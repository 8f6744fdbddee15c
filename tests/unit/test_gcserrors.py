"""What an error of Google's client library means, kind by kind: the words of answers are those of its documentation."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import requests
from google.api_core.exceptions import from_http_response
from google.auth import exceptions as auth
from requests.exceptions import (
    ChunkedEncodingError,
    InvalidURL,
    JSONDecodeError,
    ReadTimeout,
    SSLError,
)
from requests.exceptions import (
    ConnectionError as RequestFailed,
)

from matriarch.backup.gcserrors import explain
from matriarch.backup.gcswire import is_missing, is_taken, may_have_worked, status_of
from matriarch.errors import Refused, Unavailable

WHERE = "gs://backups/orders"


def answer(status: int, message: str = "", reason: str = "") -> Exception:
    import json

    made = requests.Response()
    made.status_code = status
    made.request = requests.Request("GET", "https://storage.googleapis.com/x").prepare()
    made._content = json.dumps({"error": {"message": message, "errors": [{"reason": reason}]}}).encode()
    return from_http_response(made)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("error", "kind", "reason", "says"),
    [
        (answer(401, "Invalid Credentials", "authError"), Refused, "CredentialsRefused", "service account's key"),
        (answer(403, "x has no storage.objects.list", "forbidden"), Refused, "CredentialsRefused", "role"),
        (answer(403, "Rate Limit Exceeded", "rateLimitExceeded"), Unavailable, "StoreUnavailable", "does not answer"),
        (answer(403, "Object is subject to bucket's retention policy", "retentionPolicyNotMet"), Refused,
         "StoreRefused", "without a retention policy"),
        (answer(404, "The specified bucket does not exist.", "notFound"), Refused, "BucketMissing", "bucket backups"),
        (answer(429, "rate of requests", "rateLimitExceeded"), Unavailable, "StoreUnavailable", "rate of requests"),
        (answer(408), Unavailable, "StoreUnavailable", ""),
        (answer(500), Unavailable, "StoreUnavailable", ""),
        (answer(503, "backendError"), Unavailable, "StoreUnavailable", "backendError"),
        (answer(400, "Invalid argument.", "invalid"), Refused, "StoreRefused", "400"),
        (answer(400, "Provided CRC32C does not match", "invalid"), Unavailable, "StoreUnavailable", "altered"),
        (auth.DefaultCredentialsError("none"), Refused, "CredentialsMissing", "GOOGLE_APPLICATION_CREDENTIALS"),
        (auth.RefreshError("invalid_grant: Invalid JWT Signature."), Refused, "CredentialsRefused", "Signature"),
        (auth.RefreshError("away", retryable=True), Unavailable, "StoreUnavailable", "away"),
        (auth.RefreshError("Invalid JWT: Token must be a short-lived token (60 minutes)"), Refused, "ClockSkewed",
         "clock"),
        (auth.TransportError("no route"), Unavailable, "StoreUnavailable", "no route"),
        (SSLError("CERTIFICATE_VERIFY_FAILED"), Refused, "StoreRefused", "not trusted"),
        (SSLError("EOF in the handshake"), Unavailable, "StoreUnavailable", "handshake"),
        (ssl.SSLError("CERTIFICATE_VERIFY_FAILED"), Refused, "StoreRefused", "not trusted"),
        (RequestFailed("refused"), Unavailable, "StoreUnavailable", "refused"),
        (ReadTimeout("read"), Unavailable, "StoreUnavailable", "read"),
        (ChunkedEncodingError("cut"), Unavailable, "StoreUnavailable", "cut"),
        (JSONDecodeError("Expecting value", "", 0), Unavailable, "StoreUnavailable", "Expecting"),
        (InvalidURL("no host"), Refused, "StoreRefused", "settings"),
        (OSError("network down"), Unavailable, "StoreUnavailable", "network down"),
    ],
)  # fmt: skip
def test_errors(error: Exception, kind: type[Any], reason: str, says: str) -> None:
    found = explain(error, WHERE)
    assert (type(found), getattr(found, "reason", "")) == (kind, reason)
    assert says in str(found)


def test_a_bug_is_none_of_these() -> None:
    with pytest.raises(ZeroDivisionError):
        explain(ZeroDivisionError(), WHERE)


@pytest.mark.parametrize(
    ("error", "missing", "taken", "perhaps"),
    [
        (answer(404, "No such object: backups/a"), True, False, False),
        (answer(404, "The specified bucket does not exist."), False, False, False),
        (answer(410), True, False, False),
        (answer(412, "conditionNotMet"), False, True, False),
        (answer(429), False, False, False),
        (answer(503), False, False, True),
        (ReadTimeout(), False, False, True),
    ],
)
def test_what_became_of_a_request(error: Exception, missing: bool, taken: bool, perhaps: bool) -> None:
    assert (is_missing(error), is_taken(error), may_have_worked(error)) == (missing, taken, perhaps)
    assert status_of(error) == getattr(error, "code", None)
