"""What the parameter checks say, PostgreSQL says too: every parameter of the image's server is tried with every value.

ALTER SYSTEM reads a value as the configuration file does, check hooks included, and changes nothing that runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dev import catalogue as generator
from matriarch.postgres import catalogue_17
from matriarch.postgres.catalogue import Parameter, catalogue
from matriarch.postgres.owned import OWNED
from matriarch.postgres.parameters import validate

if TYPE_CHECKING:
    from dev.rootfs import Rootfs

SCRIPT = f"""
set -eu
export PGDATA=/var/lib/matriarch/pgdata PGHOST=/tmp PGUSER=postgres
initdb --no-instructions --auth=trust --username=postgres >/dev/null
cat >> $PGDATA/postgresql.conf <<CONF
shared_preload_libraries = '{",".join(generator.LOADED)}'
unix_socket_directories = '/tmp'
listen_addresses = ''
CONF
pg_ctl --wait --log=/tmp/log start >/dev/null || {{ cat /tmp/log >&2; exit 1; }}
psql --no-psqlrc --quiet --tuples-only 2>/dev/null
pg_ctl --wait --mode=fast stop >/dev/null
"""

STRINGS = {
    "timezone": ["Europe/Berlin", "europe/berlin", "Europe/Berln", "UTC+3", "-3", "12", "nonsense"],
    "log_timezone": ["Asia/Tokyo", "Mars/Olympus"],
    "timezone_abbreviations": ["Default", "India", "Elsewhere"],
    "datestyle": ["iso", "iso, dmy", "SQL,mdy", "german, ymd, dmy", "nonsense"],
    "client_encoding": ["UTF8", "utf-8", "latin1", "LATIN10", "koi8r", "euc_jp", "win1252", "sjis", "utf9"],
    "lc_messages": ["C", "C.UTF-8", "xx_XX"],
    "lc_monetary": ["C", "POSIX", "xx_XX"],
    "lc_time": ["C.utf8", "xx_XX"],
    "shared_preload_libraries": ["pg_stat_statements", "pgaudit, auto_explain", "no_such_library"],
}


@dataclass(frozen=True)
class Case:
    name: str
    value: str


def _numbers(parameter: Parameter) -> list[str]:
    assert parameter.least is not None
    assert parameter.greatest is not None
    step = 1
    values = [parameter.least - step, parameter.least, parameter.greatest, parameter.greatest + step]
    unit = parameter.unit if not parameter.unit[:1].isdigit() else "kB"
    other = {"kB": "MB", "B": "kB", "MB": "GB", "ms": "s", "s": "min", "min": "h"}.get(unit, "x")
    extra = [
        "",
        "x",
        "1.4",
        "0x10",
        "010",
        "08",
        "1e2",
        " 7 ",
        f"40{unit}",
        f"3 {other}",
        "1mb",
        "1Min",
        "1TB",
        "1d",
        "+9",
    ]
    return [str(v) for v in values] + extra


def _cases() -> list[Case]:
    cases = []
    for name, parameter in catalogue("17").items():
        match parameter.type:
            case "bool":
                values = ["on", "OFF", "tr", "f", "y", "no", "1", "0", "o", "of", "", "2", "maybe"]
            case "enum":
                values = [*parameter.words, parameter.words[0].upper(), "maybe", "", "true", "0", "debug"]
            case "integer" | "real":
                values = _numbers(parameter)
            case _:
                values = STRINGS.get(name, [])
        # A parameter that is only reported, or has its place in the control file, cannot be altered at all.
        if name not in OWNED and parameter.context != "internal":
            cases += [Case(name, value) for value in values]
    return cases


def test_our_verdict_on_a_value_is_postgresqls(pg_rootfs: Rootfs) -> None:
    cases = _cases()
    lines = [f"ALTER SYSTEM SET {c.name} = '{c.value}';\n\\echo :ERROR" for c in cases]
    answers = pg_rootfs.run(["bash", "-c", SCRIPT], stdin="\n".join(lines) + "\n", timeout=300).split()
    assert len(answers) == len(cases)
    known = catalogue("17")
    refused_by_us, missed_by_us = [], []
    for case, error in zip(cases, answers, strict=True):
        parameter = known[case.name]
        plain = parameter.problem(case.value) is None
        if error == "false" and not plain:
            refused_by_us.append(case)
        if error == "true" and not validate({case.name: case.value}, "17"):
            missed_by_us.append(case)
    assert not missed_by_us, "PostgreSQL refuses what we take"
    assert not refused_by_us, "we refuse what PostgreSQL takes"
    assert len(cases) > 2500
    assert {"true", "false"} == set(answers)


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_the_catalogue_is_what_the_server_says(pg_rootfs: Rootfs) -> None:
    del pg_rootfs  # `text()` uses it; asking for it here gives its error message
    made: dict[str, str] = {}
    exec(compile(generator.text(), "catalogue", "exec"), made)
    theirs, ours = made["PARAMETERS"].splitlines(), catalogue_17.PARAMETERS.splitlines()
    image, catalogued = _minor(made["MADE_FROM"]), _minor(catalogue_17.MADE_FROM)
    assert image >= catalogued, "the image misses an update of PostgreSQL: has its build seen the security archive?"
    if image == catalogued:
        assert theirs == ours
    # A minor release may bring a parameter, and then users wait for the next catalogue; none may go or change.
    assert not set(ours) - set(theirs)
    gone = set(catalogue_17.TIME_ZONES.split()) - set(made["TIME_ZONES"].split())
    assert not gone, "zones that PostgreSQL would refuse"
