"""Errors that cross a module's border, by what the caller can do about them.

MatriarchError
├── Refused            the request is wrong or unsafe as it stands: nothing was changed, say so and stop
├── Unavailable        something that is needed does not answer now: try again later, with a back-off
└── Corrupt            data failed a check: never use it, never overwrite it, tell a person
"""

from __future__ import annotations


class MatriarchError(Exception):
    """Root of the tree. The message is one sentence that says what, why and what to do."""


class Refused(MatriarchError):  # noqa: N818 - reads as the outcome it is
    """Refused before anything changed. `reason` is a CamelCase word for a condition."""

    def __init__(self, message: str, *, reason: str = "Refused") -> None:
        super().__init__(message)
        self.reason = reason


class Unavailable(MatriarchError):  # noqa: N818
    """Not now. Nothing is known about the outcome of the call that failed."""

    def __init__(self, message: str, *, reason: str = "Unavailable") -> None:
        super().__init__(message)
        self.reason = reason


class Corrupt(MatriarchError):  # noqa: N818
    """Data that failed its checksum, authentication or structure."""

    def __init__(self, message: str, *, reason: str = "Corrupt") -> None:
        super().__init__(message)
        self.reason = reason
