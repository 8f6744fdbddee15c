"""Parameters with rules beyond their type and range, where PostgreSQL does not start with a wrong value. Pure.

Stricter than PostgreSQL where that is simpler: what is taken here, PostgreSQL takes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping

from matriarch.postgres.catalogue import Parameter, time_zones
from matriarch.postgres.preload import LIBRARIES, libraries

Check = Callable[[Parameter, str], str | None]

LOCALES = ("C", "C.UTF-8", "C.utf8", "POSIX")
"""Locales of the image. PostgreSQL does not start with another."""


def special_problem(parameter: Parameter, value: str) -> str | None:
    """Why `value`, which has the right type, cannot be set, as the end of a sentence; None when it can."""
    check = _CHECKS.get(parameter.name)
    return check(parameter, value) if check else None


def _list_of(what: str, allowed: Iterable[str]) -> Check:
    words = tuple(allowed)

    def check(_: Parameter, value: str) -> str | None:
        stray = [word for word in libraries(value) if word not in words]
        return f"{stray[0]} is no {what} of the image: use any of {', '.join(words)}" if stray else None

    return check


_OFFSET = re.compile(r"[-+]?1?\d|(UTC|GMT)[-+]1?\d")


def _zone(_: Parameter, value: str) -> str | None:
    if value.lower() in time_zones() or _OFFSET.fullmatch(value):
        return None
    close = difflib.get_close_matches(value.lower(), time_zones(), n=1)
    hint = f" (did you mean {time_zones()[close[0]]}?)" if close else ""
    return f"{value!r} is not a time zone: write a name such as Europe/Berlin{hint}"


def _locale(_: Parameter, value: str) -> str | None:
    return None if value in LOCALES else f"{value!r} is not a locale of the image: use any of {', '.join(LOCALES)}"


def _one_of(*words: str) -> Check:
    return lambda _, value: None if value.lower() in words else f"{value!r} is not one of {', '.join(words)}"


_STYLES = ("iso", "sql", "postgres", "german")
_ORDERS = ("dmy", "mdy", "ymd")


def _date_style(_: Parameter, value: str) -> str | None:
    words = [word.lower() for word in libraries(value)]
    stray = [word for word in words if word not in _STYLES + _ORDERS]
    if stray:
        return f"{stray[0]!r} is not known: write a style and an order, as in iso, dmy"
    twice = [kind for kind in (_STYLES, _ORDERS) if len(set(words) & set(kind)) > 1]
    return f"{value!r} contradicts itself: write one style and one order, as in iso, dmy" if twice else None


_ENCODING = re.compile(
    r"utf8|unicode|sqlascii|latin([1-9]|10)|iso8859[5-8]|koi8[ru]|win(866|874|125[0-8])|euc(jp|cn|kr|tw)|sjis|big5|gbk|uhc"
)


def _encoding(_: Parameter, value: str) -> str | None:
    plain = re.sub(r"[^a-z0-9]", "", value.lower())
    return None if _ENCODING.fullmatch(plain) else f"{value!r} is not a known encoding: write a name such as UTF8"


def _whole(parameter: Parameter, value: str) -> int:
    return int(parameter.number(value).to_integral_value())


def _banks(parameter: Parameter, value: str) -> str | None:
    blocks = _whole(parameter, value)
    return None if blocks % 16 == 0 else f"{value} is {blocks} blocks of 8kB, and only multiples of 16 will do"


def _ring(parameter: Parameter, value: str) -> str | None:
    size = _whole(parameter, value)
    return None if size == 0 or size >= 128 else f"{value} is too little: write 0, or 128kB or more"


def _stack(parameter: Parameter, value: str) -> str | None:
    return (
        None if _whole(parameter, value) <= 7168 else f"{value} is more than the container's stack: write 7MB or less"
    )


_HIDES_WARNINGS = ("error", "log", "fatal", "panic")


def _log_level(_: Parameter, value: str) -> str | None:
    if value.lower() not in _HIDES_WARNINGS:
        return None
    return f"{value!r} hides cancelled waits for replication, which are found by their warning: write warning or lower"


def _per_transaction(_: Parameter, __: str) -> str | None:
    return "it belongs to each transaction and cannot be set for all: use the one that begins with default_"


_CHECKS: Mapping[str, Check] = {
    "client_encoding": _encoding,
    "commit_timestamp_buffers": _banks,
    "datestyle": _date_style,
    "lc_messages": _locale,
    "lc_monetary": _locale,
    "lc_numeric": _locale,
    "lc_time": _locale,
    "local_preload_libraries": _list_of("library", LIBRARIES),
    "log_min_messages": _log_level,
    "log_timezone": _zone,
    "max_stack_depth": _stack,
    "multixact_member_buffers": _banks,
    "multixact_offset_buffers": _banks,
    "notify_buffers": _banks,
    "serializable_buffers": _banks,
    "session_preload_libraries": _list_of("library", LIBRARIES),
    "shared_preload_libraries": _list_of("library", LIBRARIES),
    "subtransaction_buffers": _banks,
    "timezone": _zone,
    "timezone_abbreviations": _one_of("default", "australia", "india"),
    "transaction_buffers": _banks,
    "transaction_deferrable": _per_transaction,
    "transaction_isolation": _per_transaction,
    "transaction_read_only": _per_transaction,
    "vacuum_buffer_usage_limit": _ring,
}
