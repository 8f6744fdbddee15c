"""What the API server answers when it does not answer with an object.

ApiError (a MatriarchError: the server understood the request and said no)
├── NotFound    404
├── Conflict    409: exists already, changed since it was read, or a precondition failed
├── Forbidden   403, and 401 after the credentials were read again
├── Invalid     400, 422: the object itself is wrong
└── Gone        410: the resource version is too old (only watches and paged lists see it)

Everything after which the outcome is unknown (no connection, time-out, 429, 5xx) is `matriarch.errors.Unavailable`.
"""

from __future__ import annotations

import json
from typing import Any

from matriarch.errors import MatriarchError, Unavailable

__all__ = ["ApiError", "Conflict", "Forbidden", "Gone", "Invalid", "NotFound", "from_answer"]


class ApiError(MatriarchError):
    """`status` is the HTTP code, `reason` the CamelCase word of the server's Status object."""

    def __init__(self, message: str, *, status: int, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class NotFound(ApiError):  # noqa: N818 - reads as the outcome it is
    """The object, or its kind, is not there."""


class Conflict(ApiError):  # noqa: N818
    """Exists already, was changed by another, or is not the one (uid) that was meant."""

    @property
    def exists(self) -> bool:
        """True after a create of something that is there already."""
        return self.reason == "AlreadyExists"


class Forbidden(ApiError):  # noqa: N818
    """The account may not do this."""


class Invalid(ApiError):  # noqa: N818
    """The schema, a CEL rule or an admission plugin refused the object; the message says which."""


class Gone(ApiError):  # noqa: N818
    """The resource version is no longer known; list again."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: Invalid,
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
}


def from_answer(status: int, body: bytes | dict[str, Any], *, doing: str) -> ApiError | Unavailable:
    """Turn an answer that is not 2xx, or the Status object of a watch's ERROR event, into an exception."""
    details: dict[str, Any] = {}
    if isinstance(body, dict):
        details = body
    else:
        try:
            parsed = json.loads(body)
        except ValueError:
            parsed = None
        if isinstance(parsed, dict):
            details = parsed
    reason = str(details.get("reason") or "")
    message = str(details.get("message") or "") or (
        body.decode(errors="replace").strip()[:300] if isinstance(body, bytes) else ""
    )
    text = f"{doing}: {message or 'no reason given'} ({status})"
    if status == 429 or status >= 500:
        return Unavailable(text)
    return _BY_STATUS.get(status, ApiError)(text, status=status, reason=reason)
