"""Connection strings and names between instances."""

from __future__ import annotations

from dataclasses import replace

import pytest

from matriarch.postgres.conninfo import (
    CLONE_ROLE,
    Upstream,
    application_name,
    primary_conninfo,
    render_conninfo,
    render_service,
    slot_name,
    tool_conninfo,
)

UPSTREAM = Upstream("orders-1", "10.0.0.1", "orders-1.orders-members.prod.svc", "matriarch_2", "orders-2-0a1b")


def test_a_receivers_string_holds_no_key_and_changes_with_its_upstream() -> None:
    text = primary_conninfo(UPSTREAM)
    assert "service='matriarch_stream'" in text
    assert "sslkey" not in text
    assert "hostaddr='10.0.0.1'" in text
    assert primary_conninfo(replace(UPSTREAM, address="10.0.0.2")) != text
    assert primary_conninfo(replace(UPSTREAM, port=5433)) != text


def test_the_service_file_holds_what_a_receiver_needs() -> None:
    lines = render_service("/run/matriarch/stream").splitlines()
    assert lines[0] == "[matriarch_stream]"
    entries = dict(line.split("=", 1) for line in lines[1:])
    assert entries["sslkey"] == "/run/matriarch/stream/tls.key"
    assert (entries["sslmode"], entries["user"]) == ("verify-full", "matriarch_stream")
    with pytest.raises(ValueError, match="service file"):
        render_service("/run\nuser=postgres")


def test_tools_are_no_voters_by_name() -> None:
    text = tool_conninfo(UPSTREAM, role=CLONE_ROLE, database=None, purpose="clone", tls_folder="/t")
    assert "application_name='clone orders-2-0a1b'" in text
    assert "user='matriarch_clone'" in text
    assert "dbname" not in text
    assert "service" not in text


def test_values_are_quoted() -> None:
    assert render_conninfo({"password": r"a'b\c d"}) == r"password='a\'b\\c d'"


@pytest.mark.parametrize(("instance", "slot"), [("orders-2", "matriarch_2"), ("a-b.c-9", "matriarch_9")])
def test_slot_names(instance: str, slot: str) -> None:
    assert slot_name(instance) == slot


@pytest.mark.parametrize("instance", ["orders", "orders-", "orders-x", ""])
def test_only_instances_have_slots(instance: str) -> None:
    with pytest.raises(ValueError, match="not an instance"):
        slot_name(instance)


def test_a_name_that_postgresql_would_cut_is_refused() -> None:
    assert application_name("orders-2", "0a1b") == "orders-2-0a1b"
    with pytest.raises(ValueError, match="63 bytes"):
        application_name("o" * 60, "0a1b")
