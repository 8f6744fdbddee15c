"""How a replica cluster's designated primary reaches the server that it follows."""

from __future__ import annotations

from pathlib import Path

import pytest

from matriarch.agent.postgres import streamkey
from matriarch.agent.postgres.facts import Paths
from matriarch.postgres.conninfo import Upstream, primary_conninfo
from matriarch.postgres.outside import (
    FILES,
    receiver_conninfo,
    render_pass_file,
    render_source_service,
    replication_conninfo,
    source_tool_conninfo,
)
from matriarch.postgres.settings import StreamSettings, render_stream

SOURCE = Upstream("source", "", "pg.example.com", "", "replica dr/dr-1", "copier", 5433, outside=True)
MEMBER = Upstream("dr-1", "10.0.0.1", "dr-1.dr-members.dr.svc", "matriarch_2", "dr-2-0a1b")


def test_a_receivers_string_names_the_server_and_no_key() -> None:
    text = receiver_conninfo(SOURCE)
    assert "service='matriarch_source'" in text
    assert "host='pg.example.com'" in text
    assert "user='copier'" in text
    assert "sslmode='verify-full'" in text
    for word in ("hostaddr", "sslkey", "passfile", "dbname"):
        assert word not in text
    assert receiver_conninfo(MEMBER) == primary_conninfo(MEMBER)


def test_slots_are_copied_from_a_primary_of_this_cluster_alone() -> None:
    def worker(conninfo: str) -> bool:
        return "sync_replication_slots = 'on'" in render_stream(StreamSettings(primary_conninfo=conninfo))

    cascades = Upstream("dr-1", "10.0.0.1", "dr-1", "matriarch_2", "dr-2-0a1b", copies_slots=False)
    assert worker(receiver_conninfo(MEMBER))
    assert not worker(receiver_conninfo(cascades))
    assert not worker(receiver_conninfo(SOURCE))
    assert not worker("")


@pytest.mark.parametrize(
    ("present", "there", "absent"),
    [
        (FILES, ("sslrootcert", "sslcert", "sslkey", "passfile"), ()),
        (("ca.crt", "password"), ("sslrootcert", "passfile"), ("sslcert", "sslkey")),
        (("tls.crt",), (), ("sslcert", "sslkey", "sslrootcert", "passfile")),
    ],
)
def test_what_the_secret_holds_is_used(
    present: tuple[str, ...], there: tuple[str, ...], absent: tuple[str, ...]
) -> None:
    service = render_source_service("/run/matriarch/source", present)
    tool = source_tool_conninfo(SOURCE, purpose="clone", folder="/f", present=present, database=None)
    assert all(f"{key}=/run/matriarch/source/" in service for key in there)
    assert all(f"{key}='/f/" in tool for key in there)
    assert not any(key in service or key in tool for key in absent)
    assert "application_name='clone replica dr/dr-1'" in tool
    assert replication_conninfo(SOURCE, purpose="look", folder="/f", present=present).endswith("replication='true'")


def test_any_password_fits_into_the_file() -> None:
    assert render_pass_file(r"a:b\c d") == "*:*:*:*:a\\:b\\\\c d\n"
    with pytest.raises(ValueError, match="line break"):
        render_pass_file("a\nb")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(tmp_path / "v", tmp_path / "r", tmp_path / "s", source=tmp_path / "o")
    found.secret.mkdir()
    for name in ("ca.crt", "tls.crt", "tls.key"):
        (found.secret / name).write_text(f"own {name}")
    return found


def test_the_service_file_knows_the_source_only_where_its_secret_is_mounted(paths: Paths) -> None:
    streamkey.copy_tls(paths)
    streamkey.put(paths)
    service = paths.stream / "pg_service.conf"
    assert "[matriarch_source]" not in service.read_text()
    paths.source.mkdir()
    (paths.source / "password").write_text("secret\n")
    assert not streamkey.copy_tls(paths)  # the server's own are as they were
    assert "[matriarch_source]" in service.read_text()
    assert (paths.source_keys / "pgpass").read_text() == "*:*:*:*:secret\n"
    assert (paths.source_keys / "pgpass").stat().st_mode & 0o777 == 0o600
    streamkey.take_away(paths)
    assert not service.exists()
    assert not streamkey.copy_tls(paths)
    assert not service.exists()  # a promise is not undone by a new password


def test_a_password_that_cannot_be_used_breaks_nothing_else(paths: Paths) -> None:
    paths.source.mkdir()
    (paths.source / "password").write_text("a\nb")
    streamkey.copy_tls(paths)
    streamkey.put(paths)
    assert "[matriarch_stream]" in (paths.stream / "pg_service.conf").read_text()
    with pytest.raises(ValueError, match="line break"):
        streamkey.copy_source_keys(paths)
