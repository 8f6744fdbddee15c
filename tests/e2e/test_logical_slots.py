"""A consumer of changes over a switchover and a failover of the real thing: no gap, nothing taken back."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest

from bench.faults import FAULTS, Victim, struck
from bench.load import Load
from dev import rootfs
from dev.kubectl import Kubectl, wait
from dev.product import Cluster
from tests.e2e.inside import Inside

pytestmark = pytest.mark.timeout(600)


class Consumer:
    """pg_recvlogical from outside, by the Service, coming back by itself as a connector would."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
        self.file = folder / "changes"
        address = cluster.kubectl.need("service", f"{cluster.name}-rw", cluster.namespace)["spec"]["clusterIP"]
        connection = f"host={address} dbname=app user=cdc password=cdc sslmode=require connect_timeout=2"
        loop = (
            'while :; do pg_recvlogical -d "$0" -S cdc --start -f /tmp/out/changes -s 1 -F 1 --no-loop; sleep 0.3; done'
        )
        self._log = (folder / "consumer.log").open("ab")
        self.child = subprocess.Popen(
            rootfs.ensure().command(["sh", "-c", loop, connection], binds={"/tmp/out": folder}),
            stderr=self._log,
        )

    def stop(self) -> None:
        self.child.send_signal(signal.SIGKILL)
        self.child.wait()
        self._log.close()

    def seen(self) -> list[int]:
        """Numbers of all inserted rows in order of arrival, repeats left out."""
        text = self.file.read_text() if self.file.exists() else ""
        return list(dict.fromkeys(int(n) for n in re.findall(r"INSERT: \w+\[\w+\]:(\d+)", text)))


def test_no_change_is_missing_after_a_switchover_and_a_failover(
    kubectl: Kubectl, namespace: str, artifacts: Path, tmp_path: Path
) -> None:
    cluster = Cluster(kubectl, namespace, "cdc")
    cluster.apply(size="600Mi")
    cluster.wait_ready(timeout=240)
    primary = Inside(cluster, cluster.primary)
    primary.sql("CREATE ROLE cdc LOGIN REPLICATION PASSWORD 'cdc'")
    primary.sql("SELECT pg_create_logical_replication_slot('cdc', 'test_decoding', false, false, true)")
    consumer = Consumer(cluster, tmp_path / "consumer")
    try:
        with Load(cluster.database(), artifacts / "load" / "logical.log") as load:
            calm = load.flowing()
            _wait_copies(cluster)
            wanted = next(i["name"] for i in cluster.status()["instanceStatuses"] if i["name"] != cluster.primary)
            cluster.patch({"primary": wanted})
            cluster.wait_primary(wanted)
            load.flowing()
            cluster.wait_ready(timeout=120)
            _wait_copies(cluster)
            before = cluster.primary
            with struck(FAULTS["pod-delete-now"], Victim(cluster, before, None)):
                wait(
                    "another primary", lambda: cluster.status().get("primary") not in (None, before) or None, timeout=60
                )
            load.flowing()
            load.stop()
            assert load.figures(calm).lost == ()
        cluster.wait_ready(timeout=180)
        kept = {int(r[0]) for r in cluster.database().rows("SELECT id FROM outage_writes")}
        wait("all changes", lambda: set(consumer.seen()) >= kept or None, timeout=60)
        seen = consumer.seen()
        assert set(seen) == kept, "the consumer saw what the cluster kept and no more"
    finally:
        consumer.stop()


def _wait_copies(cluster: Cluster) -> None:
    """Until every standby has a whole copy of the slot."""
    primary = cluster.primary
    standbys = [Inside(cluster, i["name"]) for i in cluster.status()["instanceStatuses"] if i["name"] != primary]
    question = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'cdc' AND synced AND NOT temporary"

    def whole() -> bool | None:
        Inside(cluster, primary).sql("SELECT pg_log_standby_snapshot()")
        return all(s.sql(question) == "1" for s in standbys) or None

    wait("copies of the slot", whole, timeout=90)
