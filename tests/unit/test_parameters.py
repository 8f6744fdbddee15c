"""The checks of users' parameters. That they agree with PostgreSQL is shown in tests/postgres/test_catalogue.py."""

from __future__ import annotations

from decimal import Decimal
from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.errors import Refused
from matriarch.postgres.catalogue import Parameter, catalogue, truth
from matriarch.postgres.owned import GROUPS, OWNED
from matriarch.postgres.parameters import Change, change, merge, needs_restart, validate

GOOD = [
    {},
    {"work_mem": "64MB", "shared_buffers": "1GB", "random_page_cost": "1.1", "jit": "off"},
    {"WORK_MEM": "64MB", "DateStyle": "iso, dmy"},
    {"max_connections": "200", "superuser_reserved_connections": "10"},
    {"shared_preload_libraries": "pg_stat_statements, pgaudit", "pgaudit.log": "ddl, write"},
    {"myapp.tenant": "42", "myapp.mode": "anything at all"},
    {"log_min_duration_statement": "250ms", "statement_timeout": "1min", "timezone": "Europe/Berlin"},
    {"min_wal_size": "32MB", "max_wal_size": "1GB"},
]

BAD = [
    (
        {"wrok_mem": "4MB"},
        "UnknownParameter",
        "parameter wrok_mem does not exist in PostgreSQL 17: did you mean work_mem?",
    ),
    (
        {"zzzzzz": "1"},
        "UnknownParameter",
        "parameter zzzzzz does not exist in PostgreSQL 17: remove it or correct its spelling",
    ),
    (
        {"pgaudit.lgo": "ddl"},
        "UnknownParameter",
        "parameter pgaudit.lgo does not exist in PostgreSQL 17: did you mean pgaudit.log?",
    ),
    (
        {"fsync": "off"},
        "OwnedParameter",
        (
            "parameter fsync belongs to Matriarch: it stays on, because an acknowledged write must be on disk."
            " Remove it from parameters"
        ),
    ),
    (
        {"Synchronous_Standby_Names": "*"},
        "OwnedParameter",
        (
            "parameter synchronous_standby_names belongs to Matriarch: replication and failover are built on it; use"
            " spec.replication. Remove it from parameters"
        ),
    ),
    (
        {"block_size": "8192"},
        "ReadOnlyParameter",
        "parameter block_size cannot be set, because PostgreSQL only reports it: remove it",
    ),
    ({"work_mem": "1"}, "InvalidParameter", "parameter work_mem: 1 is outside its range of 64kB to 2147483647kB"),
    (
        {"work_mem": "64mb"},
        "InvalidParameter",
        "parameter work_mem: '64mb' has a unit that does not fit: use B, kB, MB, GB, TB (upper and lower case matter)",
    ),
    (
        {"statement_timeout": "1GB"},
        "InvalidParameter",
        (
            "parameter statement_timeout: '1GB' has a unit that does not fit: use us, ms, s, min, h, d (upper and lower"
            " case matter)"
        ),
    ),
    (
        {"max_connections": "100MB"},
        "InvalidParameter",
        "parameter max_connections: '100MB' has a unit that does not fit: it has no unit (upper and lower case matter)",
    ),
    (
        {"work_mem": "plenty"},
        "InvalidParameter",
        "parameter work_mem: 'plenty' is not a number with one of the units B, kB, MB, GB, TB",
    ),
    ({"jit": "maybe"}, "InvalidParameter", "parameter jit: 'maybe' is neither on nor off"),
    (
        {"default_transaction_isolation": "snapshot"},
        "InvalidParameter",
        (
            "parameter default_transaction_isolation: 'snapshot' is not one of serializable, repeatable read, read"
            " committed, read uncommitted"
        ),
    ),
    (
        {"max_connections": "10"},
        "InvalidParameter",
        (
            "parameter max_connections: 10 is too little, because the operator and the superuser need some of them:"
            " write 20 or more"
        ),
    ),
    (
        {"max_connections": "0x100"},
        "InvalidParameter",
        "parameter max_connections: '0x100' is not a plain whole number, such as 100",
    ),
    (
        {"max_connections": "25", "reserved_connections": "20"},
        "InvalidParameter",
        (
            "parameter max_connections: 25 leaves none for clients, because superuser_reserved_connections and"
            " reserved_connections take 28: raise it or lower those"
        ),
    ),
    (
        {"max_connections": "262143"},
        "InvalidParameter",
        (
            "parameter max_connections: with autovacuum_max_workers, max_worker_processes and max_wal_senders it comes"
            " to 262186 processes, and PostgreSQL starts with at most 262142: lower them"
        ),
    ),
    (
        {"shared_preload_libraries": "pg_stat_statements,timescaledb"},
        "InvalidParameter",
        (
            "parameter shared_preload_libraries: timescaledb is no library of the image: use any of auth_delay,"
            " auto_explain, passwordcheck, pg_prewarm, pg_qualstats, pg_stat_statements, pgaudit"
        ),
    ),
    (
        {"timezone": "Europe/Berln"},
        "InvalidParameter",
        (
            "parameter timezone: 'Europe/Berln' is not a time zone: write a name such as Europe/Berlin (did you mean"
            " Europe/Berlin?)"
        ),
    ),
    (
        {"search_path": "a\nfsync = off"},
        "InvalidParameter",
        "parameter search_path: its value must be on one line",
    ),
    (
        {"my.app": "a\nfsync = off"},
        "InvalidParameter",
        "parameter my.app: its value must be on one line",
    ),
    (
        {"my.app = 1\nfsync": "off"},
        "UnknownParameter",
        "parameter my.app = 1\nfsync is no name that PostgreSQL reads: correct it",
    ),
]


@pytest.mark.parametrize("parameters", GOOD, ids=str)
def test_good_parameters_have_no_finding(parameters: dict[str, str]) -> None:
    assert validate(parameters, "17") == []


@pytest.mark.parametrize(("parameters", "reason", "message"), BAD, ids=lambda v: str(v)[:40])
def test_a_mistake_is_named_with_what_to_do(parameters: dict[str, str], reason: str, message: str) -> None:
    assert [(f.reason, f.message) for f in validate(parameters, "17")] == [(reason, message)]


def test_every_mistake_is_reported_at_once() -> None:
    found = validate({"fsync": "off", "wrok_mem": "1", "work_mem": "64MB", "jit": "x"}, "17")
    assert [f.parameter for f in found] == ["fsync", "jit", "wrok_mem"]


def test_an_unknown_version_is_refused_with_the_list() -> None:
    with pytest.raises(Refused, match="version 12 is not known: this release runs 17"):
        validate({}, "12")


def test_what_matriarch_sets_is_what_users_cannot() -> None:
    """A parameter that the agent writes and users could overwrite would be lost without a word."""
    from matriarch.postgres import settings

    assert set(settings._OWNED) <= set(OWNED)
    assert set(OWNED).isdisjoint(settings._DEFAULTS)


def test_owned_names_exist_and_stand_in_one_group() -> None:
    names = [name for _, group in GROUPS for name in group]
    assert len(names) == len(set(names))
    assert [n for n in names if n not in catalogue("17") and n != "stats_temp_directory"] == []


def test_the_whole_catalogue_is_well_formed() -> None:
    hints = get_type_hints(Parameter)
    for name, parameter in catalogue("17").items():
        assert name == name.lower() == parameter.name
        assert parameter.type in get_args(hints["type"])
        assert parameter.context in get_args(hints["context"])
        assert (parameter.least is None) == (parameter.type not in {"integer", "real"})
        assert bool(parameter.words) == (parameter.type == "enum")
    assert len(catalogue("17")) > 400


@pytest.mark.parametrize(
    ("name", "value", "number"),
    [
        ("work_mem", "64MB", 65536),
        ("work_mem", "64", 64),
        ("shared_buffers", "128MB", 16384),
        ("statement_timeout", "1.5min", 90_000),
        ("checkpoint_timeout", "1h", 3600),
        ("wal_summary_keep_time", "1d", 1440),
        ("max_connections", "010", 8),
        ("vacuum_cost_delay", "500us", Decimal("0.5")),
    ],
)
def test_numbers_are_read_in_the_parameters_own_unit(name: str, value: str, number: object) -> None:
    assert catalogue("17")[name].number(value) == number


@given(st.integers(min_value=64, max_value=2_147_483_647))
def test_a_memory_size_means_the_same_in_every_unit(size: int) -> None:
    work_mem = catalogue("17")["work_mem"]
    assert work_mem.number(f"{size}kB") == work_mem.number(f"{size * 1024}B") == work_mem.number(str(size)) == size


@given(st.text(max_size=8))
def test_any_text_gets_a_verdict(text: str) -> None:
    for name in ("work_mem", "jit", "wal_compression", "random_page_cost", "timezone", "datestyle", "search_path"):
        assert isinstance(validate({name: text}, "17"), list)
    assert truth(text) in {True, False, None}


def test_changes_say_what_they_take() -> None:
    old = {"max_connections": "100", "work_mem": "64MB", "jit": "on", "shared_buffers": "1GB", "my.app": "1"}
    new = {"max_connections": "200", "work_mem": "65536kB", "jit": "true", "shared_buffers": "2GB", "my.app": "2"}
    assert change(old, new, "17") == Change(
        reload=("my.app",), restart=("max_connections", "shared_buffers"), replicas_first=("max_connections",)
    )
    assert change(new, old, "17").primary_first == ("max_connections",)
    assert change(old, old, "17") == Change()


def test_an_absent_shared_setting_counts_with_its_default() -> None:
    assert change({}, {"max_connections": "100"}, "17").replicas_first == ()
    assert change({}, {"max_connections": "101"}, "17").replicas_first == ("max_connections",)
    assert change({"max_locks_per_transaction": "128"}, {}, "17").primary_first == ("max_locks_per_transaction",)


def test_raised_and_lowered_at_once_are_told_apart() -> None:
    both = change({}, {"max_connections": "200", "max_locks_per_transaction": "32"}, "17")
    assert (both.replicas_first, both.primary_first) == (("max_connections",), ("max_locks_per_transaction",))


def test_later_layers_win_whatever_the_case() -> None:
    assert merge({"Work_Mem": "1MB", "jit": "on"}, {"work_mem": "2MB"}) == {"work_mem": "2MB", "jit": "on"}


def test_restart_is_known_by_name() -> None:
    assert needs_restart(["work_mem", "Shared_Buffers", "my.app", "max_connections"], "17") == (
        "max_connections",
        "shared_buffers",
    )
