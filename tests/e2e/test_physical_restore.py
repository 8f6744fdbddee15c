"""A physical Backup and the WAL archive brought back by a resource: to a moment chosen at random, and to the end."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from dev import cluster as dev_cluster
from dev import s3
from dev.kubectl import Kubectl, Object, condition, holds, wait
from dev.product import Cluster, Database, one_shot, resource, s3_store
from matriarch.postgres.lsn import parse_lsn
from tests.e2e.fixtures import Operator
from tests.e2e.inside import VOLUME, Inside

pytestmark = pytest.mark.timeout(1500)

BUCKET = "e2e-recovery"
END = 600.0  # seconds in which every Backup and Restore here comes to an end, on a busy machine
MARKS = 40


@dataclass(frozen=True)
class Ledger:
    """A cluster of two with an archive, a physical Backup, and marks that were committed after it, one by one."""

    kubectl: Kubectl
    namespace: str
    server: s3.S3Server
    cluster: Cluster
    prefix: str
    backup: Object
    commits: dict[int, datetime]

    def settings(self) -> Object:
        store = s3_store("offsite", BUCKET, self.server.endpoint, "s3", self.prefix)
        return {"stores": [store], "walArchive": {"store": "offsite"}}

    def objects(self, folder: str) -> dict[str, str]:
        """Key → digest of all WAL below a cluster's folder."""
        place = f"{self.prefix}/{folder}/wal/"
        pages = self.server.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=place)
        return {o["Key"]: o["ETag"] for page in pages for o in page.get("Contents", [])}

    def restore(self, name: str, target: str, recovery: Object, **overrides: object) -> Object:
        manifest = resource(
            "Restore",
            name,
            {
                "source": {"backup": {"name": "base"}},
                "target": {"cluster": target, "overrides": overrides},
                "recoveryTarget": recovery,
            },
        )
        return one_shot(self.kubectl, manifest, self.namespace, timeout=END)


def marks(database: Database) -> list[int]:
    return [row[0] for row in database.rows("SELECT n FROM marks ORDER BY n")]


@pytest.fixture(scope="module")
def ledger(ground: dev_cluster.Ground, kubectl: Kubectl, operator: Operator) -> Iterator[Ledger]:
    server, prefix, namespace = ground.s3(), uuid.uuid4().hex[:8], f"ledger-{uuid.uuid4().hex[:6]}"
    server.make_bucket(BUCKET)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}})
    secret = {"ACCESS_KEY_ID": server.access_key, "SECRET_ACCESS_KEY": server.secret_key}
    kubectl.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "stringData": secret}, namespace=namespace
    )
    cluster = Cluster(kubectl, namespace, "ledger")
    found = Ledger(kubectl, namespace, server, cluster, prefix, {}, {})
    cluster.apply(
        instances=2,
        backup=found.settings(),
        parameters={"track_commit_timestamp": "on"},
        deletionPolicy="Delete",
    )
    cluster.wait_ready(timeout=END)
    database = cluster.database()
    database.execute("CREATE TABLE marks (n int PRIMARY KEY); CREATE TABLE bulk AS SELECT generate_series(1, 50000) g")
    backup = one_shot(
        kubectl, resource("Backup", "base", {"cluster": "ledger", "method": "physical"}), namespace, timeout=END
    )
    for n in range(MARKS):
        database.execute(f"INSERT INTO marks VALUES ({n})")
        time.sleep(random.uniform(0, 0.2))
    commits = dict(database.rows("SELECT n, pg_xact_commit_timestamp(xmin) FROM marks"))
    written = parse_lsn(str(database.value("SELECT pg_current_wal_lsn()::text")))

    def stored() -> bool | None:
        told = (cluster.status().get("walArchive") or {}).get("lastLsn")
        return parse_lsn(told) > written if told else None

    wait("all marks in the archive", lambda: stored() or None, timeout=240, show=cluster.describe)
    yield Ledger(kubectl, namespace, server, cluster, prefix, backup, commits)
    kubectl.run("delete", "databasecluster", "--all", "-n", namespace, "--ignore-not-found", timeout=120)
    kubectl.run("delete", "namespace", namespace, "--wait=false", timeout=60)


def test_a_moment_out_of_reach_is_refused_and_nothing_is_made(ledger: Ledger) -> None:
    late = (datetime.now(UTC) + timedelta(minutes=10)).isoformat()
    early = (min(ledger.commits.values()) - timedelta(days=1)).isoformat()
    for name, moment, reason in (("late", late, "TargetTooLate"), ("early", early, "TargetTooEarly")):
        spec = {
            "source": {"backup": {"name": "base"}},
            "target": {"cluster": "never"},
            "recoveryTarget": {"time": moment},
        }
        ledger.kubectl.apply(resource("Restore", name, spec), namespace=ledger.namespace)

        def ended(name: str = name) -> Object | None:
            found = ledger.kubectl.get("Restore", name, ledger.namespace)
            return found if holds(found, "Failed") or holds(found, "Complete") else None

        failed = condition(wait(f"the end of Restore {name}", ended, timeout=END), "Failed")
        assert failed["reason"] == reason, failed
        assert "restorable is" in failed["message"]
    assert ledger.kubectl.get("DatabaseCluster", "never", ledger.namespace) is None
    assert ledger.kubectl.get("pvc", "never-1", ledger.namespace) is None


def test_exactly_what_was_committed_before_a_random_moment(ledger: Ledger) -> None:
    first, last = min(ledger.commits.values()), max(ledger.commits.values())
    moment = first + (last - first) * random.random()  # another one each time
    before = ledger.objects(ledger.backup["status"]["folder"])
    restore = ledger.restore("to-a-moment", "copy", {"time": moment.isoformat()}, instances=2)
    copy = Cluster(ledger.kubectl, ledger.namespace, "copy")
    database = copy.database()  # by the password of its own Secret
    expected = sorted(n for n, at in ledger.commits.items() if at <= moment)
    assert marks(database) == expected
    assert database.value("SELECT count(*) FROM bulk") == 50000
    status = restore["status"]
    assert status["rpoSeconds"] == 0
    assert status["rtoSeconds"] > 0
    assert [s["state"] for s in status["steps"]] == ["done"] * 6
    system = status["recovered"]["systemIdentifier"]
    assert copy.status()["systemIdentifier"] == system != ledger.backup["status"]["systemIdentifier"]
    copy.wait_ready(timeout=END)  # the second instance is copied from the first
    database.execute("INSERT INTO marks VALUES (1000)")
    assert marks(ledger.cluster.database()) == list(range(MARKS)), "the source was touched"
    folder = f"{ledger.namespace}/copy-{system}"
    wait("WAL of the copy in a folder of its own", lambda: ledger.objects(folder) or None, timeout=240)
    after = ledger.objects(ledger.backup["status"]["folder"])
    assert {k: after.get(k) for k in before} == before
    ledger.kubectl.delete("databasecluster", "copy", ledger.namespace)


def _in_place(name: str, recovery: Object) -> Object:
    spec = {
        "source": {"backup": {"name": "base"}},
        "target": {"cluster": "ledger"},
        "inPlace": {"confirm": "ledger"},
        "recoveryTarget": recovery,
    }
    return resource("Restore", name, spec)


def test_a_restore_in_place_that_is_given_up_changes_nothing(ledger: Ledger) -> None:
    kubectl, namespace, cluster = ledger.kubectl, ledger.namespace, ledger.cluster
    cluster.wait_ready(timeout=END)
    cluster.database().execute("INSERT INTO marks VALUES (500)")
    before, system = cluster.status()["leadership"], cluster.status()["systemIdentifier"]
    kubectl.apply(_in_place("given-up", {"to": "latest"}), namespace=namespace)

    def held() -> bool | None:
        found = kubectl.get("Restore", "given-up", namespace) or {}
        return (found.get("status") or {}).get("step") == "restore" or None

    wait("the instances to be stopped", held, timeout=END, show=cluster.describe)
    assert kubectl.list("pod", namespace, "matriarch.dev/cluster=ledger,app.kubernetes.io/component=database") == []
    slices = kubectl.list("endpointslice", namespace, "matriarch.dev/cluster=ledger")
    assert slices
    assert not any(
        s.get("endpoints") for s in slices if s["metadata"]["name"] in ("ledger-rw", "ledger-ro", "ledger-r")
    )
    kubectl.run("delete", "restore", "given-up", "-n", namespace, timeout=60)
    wait("the cluster to serve", lambda: cluster.status().get("primary"), timeout=END, show=cluster.describe)
    cluster.wait_ready(timeout=END)
    assert marks(cluster.database()) == [*range(MARKS), 500], "something that was acknowledged is missing"
    assert cluster.status()["systemIdentifier"] == system
    assert cluster.status()["leadership"]["epoch"] >= before["epoch"]
    left = Inside(cluster, cluster.primary)
    wait("no copy beside the data", lambda: "restored" not in left.run("ls", VOLUME) or None, timeout=60)


def test_in_place_everything_is_as_it_was_at_that_moment(ledger: Ledger) -> None:
    """The mistake is undone on the same volumes, under the same name and password; what was there can be had back."""
    kubectl, namespace, cluster = ledger.kubectl, ledger.namespace, ledger.cluster
    moment = sorted(ledger.commits.values())[MARKS // 2]
    expected = sorted(n for n, at in ledger.commits.items() if at <= moment)
    cluster.wait_ready(timeout=END)
    cluster.database().execute("DROP TABLE bulk")
    volumes = {c["metadata"]["name"]: c["metadata"]["uid"] for c in kubectl.list("pvc", namespace)}
    system, primary, epoch = (
        cluster.status()["systemIdentifier"], cluster.primary, cluster.status()["leadership"]["epoch"]
    )  # fmt: skip
    restore = one_shot(kubectl, _in_place("undo", {"time": moment.isoformat()}), namespace, timeout=END)
    status, uid = restore["status"], restore["metadata"]["uid"]
    assert [s["name"] for s in status["steps"]] == [
        "check", "verify", "stop-application", "close-door", "safety-backup", "stop-instances", "restore", "start",
        "open-door", "start-application",
    ]  # fmt: skip
    assert kubectl.need("Backup", status["safetyBackup"], namespace)["status"]["phase"] == "Complete"
    assert status["rtoSeconds"] > 0
    assert marks(cluster.database()) == expected
    assert cluster.database().value("SELECT count(*) FROM bulk") == 50000
    now = cluster.wait_ready(timeout=END)["status"]  # the replica, whose data was of before, is copied anew
    assert now["systemIdentifier"] == status["recovered"]["systemIdentifier"] != system
    assert now["leadership"]["epoch"] > epoch
    assert {c["metadata"]["name"]: c["metadata"]["uid"] for c in kubectl.list("pvc", namespace)} == volumes
    cluster.database().execute("INSERT INTO marks VALUES (1000)")
    folder = f"{namespace}/ledger-{now['systemIdentifier']}"
    wait("WAL in a folder of its own", lambda: ledger.objects(folder) or None, timeout=240, show=cluster.describe)

    kept = f"pgdata.before-{uid}"
    assert kept in Inside(cluster, primary).run("ls", VOLUME)
    wait("the kept data named", lambda: holds(cluster.get(), "ReplacedDataKept") or None, timeout=60)
    heir = next(i for i in cluster.instances() if i != cluster.primary)
    cluster.hand_over(heir)
    cluster.wait_primary(heir)
    assert marks(cluster.database()) == [*expected, 1000]
    note = f"matriarch.dev/forget-replaced={uid}"
    kubectl.run("annotate", "databasecluster", "ledger", "-n", namespace, note)
    wait("the replaced data gone", lambda: kept not in Inside(cluster, primary).run("ls", VOLUME) or None, timeout=120)
    wait("nothing kept", lambda: not holds(cluster.get(), "ReplacedDataKept") or None, timeout=60)
    cluster.wait_ready(timeout=END)


@pytest.mark.long  # minutes until the lost volumes are gone; recovery to the latest is in tests/postgres, too
def test_the_end_of_the_archive_under_the_name_of_the_lost_cluster(ledger: Ledger) -> None:
    ledger.kubectl.delete("databasecluster", "ledger", ledger.namespace)
    for kind, name in (("pvc", "ledger-1"), ("pvc", "ledger-2"), ("lease", "ledger")):
        wait(f"{kind} {name} gone", lambda k=kind, n=name: not ledger.kubectl.get(k, n, ledger.namespace), timeout=480)
    before = ledger.objects(ledger.backup["status"]["folder"])
    restore = ledger.restore("to-the-end", "ledger", {"to": "latest"}, backup=ledger.settings())
    assert marks(ledger.cluster.database()) == list(range(MARKS))
    status = restore["status"]
    newest = max(ledger.commits.values())
    assert status["rpoSeconds"] <= (datetime.now(UTC) - newest).total_seconds()
    assert datetime.fromisoformat(status["recovered"]["lastCommit"]) >= newest - timedelta(seconds=1)
    ledger.cluster.database().execute("INSERT INTO marks VALUES (1000)")
    folder = f"{ledger.namespace}/ledger-{status['recovered']['systemIdentifier']}"
    assert folder != ledger.backup["status"]["folder"]
    wait("WAL in a folder of its own", lambda: ledger.objects(folder) or None, timeout=240)
    assert ledger.objects(ledger.backup["status"]["folder"]) == before, "among the files of the lost cluster"
