"""Checks the parameters that users ask for, and says what a change of them takes. Pure.

PostgreSQL refuses to start with a wrong parameter, so a mistake has to be found before any instance sees it. A finding
is a sentence for the user: what is wrong, why, and what to do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from matriarch.postgres.catalogue import Parameter, catalogue, truth
from matriarch.postgres.owned import OWNED, refusal
from matriarch.postgres.settings import SHARED_DEFAULTS
from matriarch.postgres.special import special_problem

__all__ = ["OWNED", "Change", "Finding", "catalogue", "change", "merge", "needs_restart", "validate"]

FLOORS: Mapping[str, tuple[int, str]] = {
    "max_connections": (20, "the operator and the superuser need some of them"),
    "max_wal_senders": (20, "instances copy each other through them"),
    "max_replication_slots": (20, "every instance keeps one for each other"),
    "superuser_reserved_connections": (4, "the agent's probes must get in when clients have taken the rest"),
    "min_wal_size": (32, "PostgreSQL does not start with less than two segments of 16MB"),
    "max_wal_size": (32, "PostgreSQL does not start with less than two segments of 16MB"),
}
"""Least value that works, in the parameter's own unit, and why. PostgreSQL's own ranges allow less."""

MAX_PROCESSES = 262_142
"""PostgreSQL does not start when the sum of its process limits is above this (MAX_BACKENDS, 2^18 - 1)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One parameter that cannot be set so. `reason` is a CamelCase word for a condition."""

    parameter: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Change:
    """What it takes to bring a change into force, by names in alphabetical order."""

    reload: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    replicas_first: tuple[str, ...] = ()
    """Raised, and a standby needs at least the primary's value."""
    primary_first: tuple[str, ...] = ()
    """Lowered: standbys follow once they replayed the primary's lower value."""


def validate(parameters: Mapping[str, str], version: str) -> list[Finding]:
    """Everything that is wrong, by name; empty when PostgreSQL of this major version would start with it.

    Raises Refused for an unknown version.
    """
    known = catalogue(version)
    found = [f for name in sorted(parameters) if (f := _check(name, str(parameters[name]), known, version))]
    return found or _check_together({name.lower(): str(value) for name, value in parameters.items()}, known)


def merge(*layers: Mapping[str, str]) -> dict[str, str]:
    """Later layers win, name by name; names in lower case, since PostgreSQL does not tell the cases apart."""
    return {name.lower(): str(value) for layer in layers for name, value in layer.items()}


def needs_restart(names: Iterable[str], version: str) -> tuple[str, ...]:
    """Those of `names` that count only after a restart. An unknown name (an extension's) needs none."""
    known = catalogue(version)
    return tuple(sorted(n for n in {name.lower() for name in names} if n in known and known[n].needs_restart))


def change(old: Mapping[str, str], new: Mapping[str, str], version: str) -> Change:
    """What differs between two valid sets, and in which order instances may take it (ha-protocol, part 8)."""
    known, old, new = catalogue(version), merge(old), merge(new)
    differing = sorted(n for n in old.keys() | new.keys() if _differs(known.get(n), old.get(n), new.get(n)))
    restart = needs_restart(differing, version)
    steps = {n: _step(known[n], old.get(n), new.get(n)) for n in differing if n in SHARED_DEFAULTS}
    return Change(
        reload=tuple(n for n in differing if n not in restart),
        restart=restart,
        replicas_first=tuple(n for n in differing if steps.get(n, 0) > 0),
        primary_first=tuple(n for n in differing if steps.get(n, 0) < 0),
    )


def _check(name: str, value: str, known: Mapping[str, Parameter], version: str) -> Finding | None:
    lower = name.lower()
    if lower in OWNED:
        return Finding(name, "OwnedParameter", refusal(lower))
    parameter = known.get(lower)
    if parameter is None:
        return _check_unknown(name, value, known, version)
    if parameter.context == "internal":
        return Finding(
            name, "ReadOnlyParameter", f"parameter {name} cannot be set, because PostgreSQL only reports it: remove it"
        )
    problem = (
        parameter.problem(value)
        or special_problem(parameter, value)
        or _plain(lower, value)
        or _limit(parameter, value)
    )
    if problem:
        return Finding(name, "InvalidParameter", f"parameter {name}: {problem}")
    return None


def _check_unknown(name: str, value: str, known: Mapping[str, Parameter], version: str) -> Finding | None:
    lower = name.lower()
    prefix, dot, _ = lower.partition(".")
    if dot and not any(other.startswith(f"{prefix}.") for other in known):
        if not re.fullmatch(r"[a-z_][a-z0-9_$]*(\.[a-z_][a-z0-9_$]*)+", lower):
            return Finding(name, "UnknownParameter", f"parameter {name} is no name that PostgreSQL reads: correct it")
        if re.search(r"[\r\n\0]", value):
            return Finding(name, "InvalidParameter", f"parameter {name}: its value must be on one line")
        return None  # an application's own setting, which PostgreSQL stores without knowing it
    close = difflib.get_close_matches(lower, [n for n in known if n not in OWNED], n=1, cutoff=0.7)
    hint = f"did you mean {close[0]}?" if close else "remove it or correct its spelling"
    return Finding(name, "UnknownParameter", f"parameter {name} does not exist in PostgreSQL {version}: {hint}")


def _plain(name: str, value: str) -> str | None:
    """What a primary and its standbys compare is read by others than PostgreSQL too."""
    if name in SHARED_DEFAULTS and not re.fullmatch(r"\d+", value):
        return f"{value!r} is not a plain whole number, such as {SHARED_DEFAULTS[name]}"
    return None


def _limit(parameter: Parameter, value: str) -> str | None:
    if parameter.name not in FLOORS:
        return None
    least, why = FLOORS[parameter.name]
    if parameter.number(value) >= least:
        return None
    return f"{value} is too little, because {why}: write {least}{parameter.unit} or more"


def _check_together(parameters: Mapping[str, str], known: Mapping[str, Parameter]) -> list[Finding]:
    """Rules between parameters that PostgreSQL checks at its start."""

    def number(name: str, default: int) -> Decimal:
        return known[name].number(parameters.get(name, str(default)))

    found = []
    connections = number("max_connections", SHARED_DEFAULTS["max_connections"])
    reserved = number("superuser_reserved_connections", 8) + number("reserved_connections", 0)
    if reserved >= connections:
        found.append(
            Finding(
                "max_connections",
                "InvalidParameter",
                f"parameter max_connections: {connections} leaves none for clients, because"
                f" superuser_reserved_connections and reserved_connections take {reserved}: raise it or lower those",
            )
        )
    processes = (
        connections
        + number("autovacuum_max_workers", 3)
        + sum(number(name, SHARED_DEFAULTS[name]) for name in ("max_worker_processes", "max_wal_senders"))
    )
    if processes > MAX_PROCESSES:
        found.append(
            Finding(
                "max_connections",
                "InvalidParameter",
                f"parameter max_connections: with autovacuum_max_workers, max_worker_processes and max_wal_senders it"
                f" comes to {processes} processes, and PostgreSQL starts with at most {MAX_PROCESSES}: lower them",
            )
        )
    return found


def _differs(parameter: Parameter | None, old: str | None, new: str | None) -> bool:
    if old is None or new is None or parameter is None:
        return old != new
    return _meaning(parameter, old) != _meaning(parameter, new)


def _meaning(parameter: Parameter, value: str) -> object:
    """64MB and 65536kB, on and true are the same."""
    match parameter.type:
        case "bool":
            return truth(value)
        case "integer" | "real":
            return parameter.number(value)
        case "enum":
            return value.lower()
        case _:
            return value


def _step(parameter: Parameter, old: str | None, new: str | None) -> int:
    default = str(SHARED_DEFAULTS[parameter.name])
    before, after = parameter.number(old or default), parameter.number(new or default)
    return (after > before) - (after < before)
