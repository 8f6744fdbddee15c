"""The libraries that PostgreSQL may load at its start. Pure.

A library that is not there keeps PostgreSQL from starting, so only those of the image are taken.
"""

from __future__ import annotations

LIBRARIES = (
    "auth_delay",
    "auto_explain",
    "passwordcheck",
    "pg_prewarm",
    "pg_qualstats",
    "pg_stat_statements",
    "pgaudit",
)
"""What `shared_preload_libraries` may name."""


def libraries(value: str) -> tuple[str, ...]:
    """The names in a value of shared_preload_libraries, in their order, each once."""
    words = (word.strip().strip('"').strip() for word in value.split(","))
    return tuple(dict.fromkeys(word for word in words if word))
