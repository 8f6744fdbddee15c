"""What PostgreSQL knows about its own parameters, and how it reads their values. Pure.

The rules of reading are PostgreSQL's (src/backend/utils/misc/guc.c: parse_int, parse_real, parse_bool); a test asks a
real server about every parameter and expects the same answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from functools import cache
from types import MappingProxyType
from typing import Literal

from matriarch.errors import Refused
from matriarch.postgres import catalogue_17

VERSIONS = ("17",)
"""Major versions with a catalogue."""

_MEMORY = {"B": 1, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}
_TIME = {
    "us": Decimal("0.001"),
    "ms": Decimal(1),
    "s": Decimal(1000),
    "min": Decimal(60_000),
    "h": Decimal(3_600_000),
    "d": Decimal(86_400_000),
}
_NUMBER = re.compile(
    r"\s*(?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?))\s*(?P<unit>[a-zA-Z]*)\s*"
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter as pg_settings describes it. `least` and `greatest` count in `unit`."""

    name: str
    type: Literal["bool", "integer", "real", "enum", "string"]
    unit: str
    context: Literal["internal", "postmaster", "sighup", "superuser-backend", "backend", "superuser", "user"]
    least: Decimal | None
    greatest: Decimal | None
    words: tuple[str, ...]

    @property
    def needs_restart(self) -> bool:
        """A new value counts only after a restart of PostgreSQL."""
        return self.context == "postmaster"

    @property
    def units(self) -> tuple[str, ...]:
        """What may stand behind the number; empty: nothing may."""
        if not self.unit:
            return ()
        return tuple(_MEMORY if self.unit.endswith("B") else _TIME)

    def number(self, value: str) -> Decimal:
        """`value` in `unit`, unrounded. Raises ValueError with the reason when it is no number of this parameter."""
        match = _NUMBER.fullmatch(value)
        if match is None:
            raise ValueError(f"{value!r} is not a number{self._with_unit()}")
        number, unit = _decimal(match["number"], whole=self.type == "integer"), match["unit"]
        if not unit:
            return number
        if unit not in self.units:
            allowed = f"use {', '.join(self.units)}" if self.units else "it has no unit"
            raise ValueError(f"{value!r} has a unit that does not fit: {allowed} (upper and lower case matter)")
        return number * _size(unit) / _size(self.unit)

    def _with_unit(self) -> str:
        return f" with one of the units {', '.join(self.units)}" if self.units else ""

    def problem(self, value: str) -> str | None:
        """Why PostgreSQL would refuse `value`, as the end of a sentence; None when it takes it."""
        if re.search(r"[\r\n\0]", value):
            return "its value must be on one line"
        match self.type:
            case "bool":
                return None if truth(value) is not None else f"{value!r} is neither on nor off"
            case "enum":
                return None if self._is_word(value) else f"{value!r} is not one of {', '.join(self.words)}"
            case "integer" | "real":
                return self._number_problem(value)
            case _:
                return None

    def _is_word(self, value: str) -> bool:
        words, word = set(self.words), value.lower()
        hidden = {"debug"} if "debug2" in words else set()
        if {"on", "off"} <= words:  # these took a boolean once, and still take its other spellings
            hidden |= {"true", "false", "yes", "no", "1", "0"}
        return word in words or word in hidden

    def _number_problem(self, value: str) -> str | None:
        try:
            number = self.number(value)
        except ValueError as error:
            return str(error)
        if self.type == "integer":
            number = number.to_integral_value(ROUND_HALF_EVEN)
        if (self.least is not None and number < self.least) or (self.greatest is not None and number > self.greatest):
            return f"{value} is outside its range of {self.least}{self._suffix} to {self.greatest}{self._suffix}"
        return None

    @property
    def _suffix(self) -> str:
        return f" x {self.unit}" if self.unit[:1].isdigit() else self.unit


def catalogue(version: str) -> Mapping[str, Parameter]:
    """Every parameter of a major version by its name in lower case. Raises Refused for a version without one."""
    if version not in VERSIONS:
        raise Refused(
            f"version {version} is not known: this release runs {', '.join(VERSIONS)}", reason="UnknownVersion"
        )
    return _read(catalogue_17.PARAMETERS)


@cache
def time_zones() -> Mapping[str, str]:
    """Names of time zones: lower case → as they are written."""
    return MappingProxyType({name.lower(): name for name in catalogue_17.TIME_ZONES.split()})


@cache
def _read(text: str) -> Mapping[str, Parameter]:
    rows = (line.split("|") for line in text.splitlines())
    return MappingProxyType(
        {
            name: Parameter(
                name=name,
                type=kind,  # type: ignore[arg-type]  # a test holds every row against the literals
                unit=unit,
                context=context,  # type: ignore[arg-type]  # the same
                least=Decimal(least) if least else None,
                greatest=Decimal(greatest) if greatest else None,
                words=tuple(words.split(",")) if words else (),
            )
            for name, kind, unit, context, least, greatest, words in rows
        }
    )


def truth(value: str) -> bool | None:
    """PostgreSQL's booleans: any beginning of true, false, yes, no; on, of, off; 1, 0. None for anything else."""
    word = value.lower()
    if not word:
        return None
    if "true".startswith(word) or "yes".startswith(word) or word in {"on", "1"}:
        return True
    if "false".startswith(word) or "no".startswith(word) or word in {"of", "off", "0"}:
        return False
    return None


def _decimal(text: str, *, whole: bool) -> Decimal:
    """strtol() with base 0 for whole numbers: 0x is hexadecimal and a leading 0 octal; strtod() for the rest."""
    sign, digits = (-1 if text.startswith("-") else 1), text.lstrip("+-")
    if digits[:2] in {"0x", "0X"}:
        return Decimal(sign * int(digits, 16))
    if whole and re.fullmatch(r"0\d+", digits):
        if not re.fullmatch(r"0[0-7]+", digits):
            raise ValueError(f"{text!r} begins with 0 and is not an octal number")
        return Decimal(sign * int(digits, 8))
    return sign * Decimal(digits)


def _size(unit: str) -> Decimal:
    count, name = re.fullmatch(r"(\d*)(\w+)", unit).groups()  # type: ignore[union-attr]  # units come from the catalogue
    factor = Decimal(_MEMORY[name]) if name in _MEMORY else _TIME[name]
    return factor * int(count or 1)
