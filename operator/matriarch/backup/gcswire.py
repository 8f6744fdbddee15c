"""What an answer of Google Cloud Storage says, and what the lack of one may mean."""

from __future__ import annotations

import base64
from typing import Any

BINARY = "application/octet-stream"


class Over(Exception):  # noqa: N818 - reads as the outcome it is
    """This upload can't be finished any more, another one can. Never leaves the store."""


def status_of(error: BaseException) -> int | None:
    """Of the answer; None: there was none, or not all of it. (The library calls a success without its headers so.)"""
    code = getattr(error, "code", None)
    return int(code) if isinstance(code, int) and code >= 400 else None


def may_have_worked(error: BaseException) -> bool:
    """Whether a request that ended so may have had its effect."""
    status = status_of(error)
    return status is None or status >= 500 or status == 408


def is_missing(error: BaseException) -> bool:
    """The object, or the session of an upload. A bucket that is not there has the same status and other words."""
    return status_of(error) in (404, 410) and "bucket does not exist" not in str(error).lower()


def is_taken(error: BaseException) -> bool:
    return status_of(error) == 412


def raise_unless(answer: Any, *wanted: int) -> None:
    """The library's exception for an answer with another status."""
    if answer.status_code in wanted:
        return
    if answer.status_code < 400:
        raise ConnectionError(f"the answer has the status {answer.status_code}")
    from google.api_core.exceptions import from_http_response

    raise from_http_response(answer)


def header(answer: Any, name: str) -> str:
    """What each such answer has. A connection that ends among an answer's headers looks like one with fewer of them."""
    found: str | None = answer.headers.get(name)
    if found is None:
        raise ConnectionError(f"the answer ended before its {name}")
    return found


def length(answer: Any) -> int:
    return int(header(answer, "content-length"))


def stored_crc(answer: Any) -> str | None:
    """Of the whole object, whatever part of it was asked for."""
    for part in (answer.headers.get("x-goog-hash") or "").split(","):
        name, _, value = part.strip().partition("=")
        if name == "crc32c" and value:
            return str(value)
    return None


class Crc:
    """CRC-32C of what passes by, in the words of the store: base64 of four bytes, the highest first."""

    def __init__(self) -> None:
        import google_crc32c

        self._sum = google_crc32c.Checksum()

    def update(self, data: bytes) -> None:
        self._sum.update(data)

    def value(self) -> str:
        return base64.b64encode(self._sum.digest()).decode()

    @classmethod
    def of(cls, data: bytes) -> str:
        crc = cls()
        crc.update(data)
        return crc.value()
