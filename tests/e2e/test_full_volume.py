"""Volumes that are really full: who has room takes over, writes stop in order, growing heals, nothing is lost."""

from __future__ import annotations

import contextlib

import asyncpg
import pytest

from dev.kubectl import Kubectl, wait
from dev.product import Cluster
from tests.e2e.inside import VOLUME, Inside, condition_of, events, wait_condition

MB = 1 << 20
pytestmark = pytest.mark.timeout(600)


def _fill(cluster: Cluster, rows: int = 4, limit: int = 400) -> list[int]:
    """Inserts rows of 1 MiB that do not compress, `rows` a statement, until it is refused; the ids acknowledged."""
    database = cluster.database()
    database.execute("CREATE TABLE IF NOT EXISTS filler (id bigserial PRIMARY KEY, data bytea)")
    database.execute("ALTER TABLE filler ALTER data SET STORAGE EXTERNAL")
    kept: list[int] = []
    for _ in range(limit):
        try:
            found = database.rows(
                f"INSERT INTO filler (data) SELECT convert_to(repeat(md5(random()::text), 32768), 'UTF8') "
                f"FROM generate_series(1, {rows}) RETURNING id",
                timeout=30,
            )
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return kept
        kept += [int(r[0]) for r in found]
    raise AssertionError("it was never full")


def _holds(cluster: Cluster, kept: list[int]) -> None:
    found = {r[0] for r in cluster.database().rows("SELECT id FROM filler WHERE length(data) = 1048576")}
    assert set(kept) <= found


def _holds_soon(cluster: Cluster, kept: list[int]) -> None:
    """The last byte may have ended PostgreSQL, which then starts by its ballast: that takes its time, and no more."""

    def read() -> bool | None:
        try:
            _holds(cluster, kept)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return None
        return True

    wait("reads go on", read, timeout=90, show=cluster.describe)


def test_a_full_cluster_stops_writes_says_so_and_grows(kubectl: Kubectl, namespace: str) -> None:
    cluster = Cluster(kubectl, namespace, "full")
    cluster.apply(size="300Mi")
    cluster.wait_ready(timeout=240)
    ballast = Inside(cluster, cluster.primary).run("stat", "-c", "%s %b", f"{VOLUME}/ballast").split()
    assert int(ballast[0]) == 32 * MB
    assert int(ballast[1]) * 512 >= 32 * MB, "its blocks are really taken"
    kept = _fill(cluster)
    assert kept
    found = wait_condition(cluster, "Ready", "VolumeFull", timeout=60)
    assert "spec.storage.size" in found["message"]
    assert condition_of(cluster, "Stalled")["status"] == "True"
    assert condition_of(cluster, "Available")["status"] == "False"
    _holds_soon(cluster, kept)  # reads go on
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        cluster.database().execute("INSERT INTO filler (data) VALUES ('x')")
    assert any("volume" in m for m in events(cluster, "VolumeFull"))

    cluster.patch({"storage": {"size": "700Mi"}})
    cluster.wait_ready(timeout=120)
    cluster.database().execute("INSERT INTO filler (data) VALUES ('x')")
    _holds(cluster, kept)
    inside = Inside(cluster, cluster.primary)
    wait("the ballast again", lambda: inside.run("stat", "-c", "%s", f"{VOLUME}/ballast") or None, timeout=30)
    settings = inside.sql("SELECT pg_size_bytes(current_setting('max_slot_wal_keep_size')) / 1048576")
    assert int(settings) > 100, "WAL that slots may keep follows the volume"


def test_the_primary_hands_over_to_a_replica_that_has_room(kubectl: Kubectl, namespace: str) -> None:
    cluster = Cluster(kubectl, namespace, "room")
    cluster.apply(size="500Mi")
    cluster.wait_ready(timeout=240)
    cluster.database().execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")
    before = cluster.primary
    inside = Inside(cluster, before)
    inside.occupy(leave=24 * MB)
    try:
        wait("another primary", lambda: (cluster.status().get("primary") or before) != before or None, timeout=60)
        cluster.database().execute("INSERT INTO t VALUES (1001)")
        assert any("takes over" in m for m in events(cluster, "VolumeFull"))
        assert condition_of(cluster, "VolumePressure")["status"] == "True"
    finally:
        inside.vacate()
    cluster.wait_ready(timeout=120)
    assert cluster.database().value("SELECT count(*) FROM t") == 1001


def test_a_single_instance_that_ended_for_want_of_room_starts_by_its_ballast(kubectl: Kubectl, namespace: str) -> None:
    """A stranger takes the last byte at once, so PostgreSQL finds no room for its log and ends."""
    cluster = Cluster(kubectl, namespace, "lone")
    cluster.apply(size="300Mi", instances=1)
    cluster.wait_ready(timeout=240)
    kept = []
    database = cluster.database()
    database.execute("CREATE TABLE filler (id bigserial PRIMARY KEY, data bytea)")
    inside = Inside(cluster, "lone-1")
    inside.occupy(leave=0)
    with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        for _ in range(100):
            kept += [
                int(r[0])
                for r in database.rows(
                    "INSERT INTO filler (data) SELECT convert_to(repeat(md5(random()::text), 32768), 'UTF8') "
                    "FROM generate_series(1, 8) RETURNING id"
                )
            ]
    wait_condition(cluster, "Ready", "VolumeFull", timeout=90)
    _holds(cluster, kept)
    cluster.patch({"storage": {"size": "600Mi"}})
    cluster.wait_ready(timeout=120)
    _holds(cluster, kept)
    cluster.database().execute("INSERT INTO filler (data) VALUES ('x')")
    inside.vacate()
