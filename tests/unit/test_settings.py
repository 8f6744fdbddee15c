"""The configuration that PostgreSQL gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.postgres.owned import OWNED
from matriarch.postgres.settings import (
    _OWNED,
    GB,
    MB,
    ServerSettings,
    StreamSettings,
    computed_sizes,
    held_up,
    include_main,
    parse_stream,
    render_main,
    render_stream,
    slot_limit,
)
from matriarch.postgres.standbynames import NOBODY


def _render(settings: ServerSettings, floors: dict[str, int] | None = None) -> dict[str, str]:
    text = render_main(settings, instance="orders-1", socket_dir="/run/m/pg", tls_folder="/run/m/tls", floors=floors)
    lines = [line for line in text.splitlines() if " = " in line]
    assert text.endswith("include 'matriarch.stream.conf'\n")
    return {name: value.strip("'") for name, value in (line.split(" = ", 1) for line in lines)}


def test_what_the_protocol_needs_is_there_and_wins() -> None:
    values = _render(ServerSettings({"fsync": "off", "FSYNC": "off", "wal_level": "minimal", "work_mem": "9MB"}))
    assert values["fsync"] == values["full_page_writes"] == values["synchronous_commit"] == "on"
    assert values["restart_after_crash"] == values["allow_alter_system"] == "off"
    assert values["wal_retrieve_retry_interval"] == "100ms"
    assert values["wal_level"] == "logical"
    assert values["work_mem"] == "9MB"
    assert values["ssl_key_file"] == "/run/m/tls/tls.key"
    assert values["cluster_name"] == "orders-1"
    assert "synchronous_standby_names" not in values  # that is the other file's


def test_all_that_is_fixed_is_refused_to_users() -> None:
    fixed = set(_OWNED) | {"max_slot_wal_keep_size", "cluster_name", "port", "ssl_key_file", "primary_conninfo"}
    assert fixed <= set(OWNED)


def test_libraries_are_joined_once_each() -> None:
    settings = ServerSettings(
        {"shared_preload_libraries": "pgaudit, pg_stat_statements"}, preload=("pg_stat_statements",)
    )
    assert _render(settings)["shared_preload_libraries"] == "pg_stat_statements,pgaudit"


def test_what_keeps_a_standby_above_what_is_wanted_is_seen() -> None:
    """Lowered on the primary, not yet replayed here: what is written now must be written again later."""
    assert held_up({"max_connections": "120"}, {"max_connections": 150})
    assert held_up({}, {"max_worker_processes": 10_000})
    assert not held_up({"max_connections": "120"}, {"max_connections": 120})
    assert not held_up({"max_connections": "150"}, {})


@pytest.mark.parametrize(
    ("configured", "floor", "expected"), [("100", 50, "100"), ("20", 50, "50"), (None, 120, "120"), (None, 0, "100")]
)
def test_a_standby_has_at_least_what_its_primary_has(configured: str | None, floor: int, expected: str) -> None:
    settings = ServerSettings({} if configured is None else {"max_connections": configured})
    assert _render(settings, {"max_connections": floor})["max_connections"] == expected


@given(st.integers(0, 2048 * GB), st.integers(0, 64_000 * GB), st.integers(1, 5000))
def test_sizes_fit_what_there_is(memory: int, volume: int, connections: int) -> None:
    settings = ServerSettings({"max_connections": str(connections)}, memory=memory, volume=volume)
    sizes = {name: _bytes(text) for name, text in computed_sizes(settings).items()}
    if memory >= 256 * MB:
        assert sizes["shared_buffers"] <= memory // 4
        assert sizes["maintenance_work_mem"] <= memory // 8
        assert sizes["work_mem"] * connections <= max(memory // 4, 4 * MB * connections)
    if volume >= 2 * GB:
        assert sizes["max_wal_size"] + sizes["wal_keep_size"] + slot_limit(volume) <= volume // 2
    if "max_wal_size" in sizes:
        assert sizes["min_wal_size"] <= sizes["max_wal_size"]
        assert sizes["min_wal_size"] >= 32 * MB  # PostgreSQL refuses less than two segments
    assert slot_limit(volume) > 0


def test_without_a_limit_postgresqls_own_sizes_stay() -> None:
    assert set(computed_sizes(ServerSettings())) == {"wal_keep_size"}


def test_users_win_over_computed_sizes() -> None:
    assert _render(ServerSettings({"shared_buffers": "1GB"}, memory=8 * GB))["shared_buffers"] == "1GB"


@given(
    st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=("Cs", "Zl", "Zp", "Cc"))),
    st.text("abc'\\ =") | st.just("service='s' dbname='postgres'"),
)
def test_stream_settings_survive_their_file(names: str, conninfo: str) -> None:
    stream = StreamSettings(names, conninfo, "matriarch_1", ("matriarch_2", "matriarch_3"))
    assert parse_stream(render_stream(stream)) == stream
    copies = "sync_replication_slots = 'on'" in render_stream(stream)
    assert copies is (" dbname=" in conninfo), "the worker runs only where there is somebody to ask"


def test_a_stream_file_of_an_earlier_release_is_read() -> None:
    text = "primary_conninfo = 'x'\nprimary_slot_name = 's'\nsynchronous_standby_names = 'n'\n"
    assert parse_stream(text) == StreamSettings("n", "x", "s")


def test_a_delayed_replica_replays_late() -> None:
    assert _render(ServerSettings(delay=60))["recovery_min_apply_delay"] == "60s"
    assert "recovery_min_apply_delay" not in _render(ServerSettings())


def test_a_full_volume_makes_transactions_read_only_whatever_users_set() -> None:
    settings = ServerSettings({"default_transaction_read_only": "off"}, read_only=True)
    assert _render(settings)["default_transaction_read_only"] == "on"
    assert "default_transaction_read_only" not in _render(ServerSettings())


def test_where_there_is_no_room_no_wal_waits_for_summaries() -> None:
    assert _render(ServerSettings())["summarize_wal"] == "on"
    for settings in (ServerSettings(read_only=True), ServerSettings({"summarize_wal": "on"}, summarize=False)):
        assert _render(settings)["summarize_wal"] == "off"


@pytest.mark.parametrize(
    ("volume", "limit"), [(0, 4 * GB), (300 * MB, 64 * MB), (10 * GB, 2 * GB), (900 * GB, 64 * GB)]
)
def test_wal_kept_by_slots_is_capped_by_the_volume(volume: int, limit: int) -> None:
    assert slot_limit(volume) == limit
    assert _render(ServerSettings(volume=volume))["max_slot_wal_keep_size"] == f"{limit // MB}MB"


@pytest.mark.parametrize("text", ["", "synchronous_standby_names = ''\n", "fsync = 'off'\n", "x\n"])
def test_a_damaged_stream_file_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"matriarch\.stream\.conf"):
        parse_stream(text)


def test_the_default_rule_lets_nobody_acknowledge() -> None:
    assert StreamSettings().standby_names == ServerSettings().standby_names == NOBODY


@pytest.mark.parametrize(("name", "value"), [("a b", "1"), ("x;y", "1"), ("x", "1\nfsync = off"), ("", "1")])
def test_no_value_can_become_another_line(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="not a parameter"):
        _render(ServerSettings({name: value}))


def test_our_file_is_the_last_word_once() -> None:
    text = include_main("lc_messages = 'C'\ninclude 'matriarch.conf'\nport = 1\n")
    assert text == "lc_messages = 'C'\nport = 1\ninclude 'matriarch.conf'\n"
    assert include_main(text) == text


def _bytes(text: str) -> int:
    assert text.endswith("MB")
    return int(text[:-2]) * MB
