"""A physical backup's Job as in a cluster: the agent's roles and rules, a certificate, the replica's own address."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from matriarch.backup import catalog
from matriarch.backup.job import Job, exit_code
from matriarch.backup.jobspec import (
    BackupTask,
    ClusterIdentity,
    Exit,
    JobSpec,
    LocalStore,
    Reason,
    ServerSpec,
    StoreSpec,
    VerifyTask,
)
from matriarch.backup.physical import backup as engine
from tests.postgres.backup.bed import CLUSTER, KEY, keys_in, local
from tests.postgres.backup.physbed import physical_restore
from tests.postgres.pgbox import Box, Member

pytestmark = pytest.mark.timeout(240)
CHOSEN = "backup-2026-03-01T02:00:00.000Z-abcdefghij"


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members' names as the cluster's DNS knows them."""
    resolve = socket.getaddrinfo

    def lookup(host: Any, *args: Any, **more: Any) -> Any:
        name = str(host)
        return resolve(f"127.0.0.{name[-1]}" if name.startswith("orders-") else host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)


def job(box: Box, member: Member, folder: Path, system: str, *, user: str = "matriarch_backup", **more: Any) -> Job:
    box.ca.issue(user, folder / "tls")
    (folder / "keys").mkdir(exist_ok=True)
    (folder / "keys" / "backup-key").write_bytes(KEY.secret)
    spec = JobSpec(
        **{
            "task": "backup",
            "cluster": ClusterIdentity(
                namespace=CLUSTER.namespace, name=CLUSTER.name, uid=CLUSTER.uid, system_identifier=system
            ),
            "store": StoreSpec(local=LocalStore(path=str(folder / "store"))),
            "keys": ("backup-key",),
            "server": ServerSpec(hosts=(member.instance,), port=box.port, user=user, tls=str(folder / "tls")),
            "backup": BackupTask(
                name=CHOSEN,
                method="physical",
                pgdata=str(member.paths.pgdata),
                resource="nightly-1",
                schedule="nightly",
            ),
            **more,
        }
    )
    return Job(JobSpec.from_json(spec.to_json()), str(folder / "keys"))


async def test_a_replica_is_read_by_its_own_name_and_a_promotion_ends_it(
    box: Box, tools: Path, tmp_path: Path, resolved: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await box.primary()
    two = await box.standby(2, one)
    await one.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")
    system = await one.value("SELECT system_identifier::text FROM pg_control_system()")
    (tmp_path / "store").mkdir()
    store = local(tmp_path / "store")

    stranger = await job(box, two, tmp_path, system, user="matriarch_pooler").run()
    assert (stranger.reason, exit_code(stranger)) == (Reason.PERMISSION_DENIED, Exit.REFUSED)

    made = await job(box, two, tmp_path, system).run()
    assert made.ok, made.message
    assert made.backup is not None
    assert made.backup.physical is not None
    assert (made.backup.source, made.backup.instance, made.backup.timeline) == ("standby", "orders-2", 1)
    assert made.backup.physical.pages == "passed"
    assert made.backup.id.startswith("abcdefghij")
    assert made.backup.size > 20_000_000
    (manifest,) = catalog.read_catalog(store).manifests
    assert (manifest.body.resource, manifest.body.schedule) == ("nightly-1", "nightly")
    again = await job(box, two, tmp_path, system).run()
    assert again.backup == made.backup, "a second run of a finished Job made another backup"
    checked = await job(box, two, tmp_path, system, task="verify", verify=VerifyTask()).run()
    assert checked.ok, checked.message
    other = VerifyTask(backup=made.backup.id, method="logical")
    refused = await job(box, two, tmp_path, system, task="verify", verify=other).run()
    assert (refused.reason, exit_code(refused)) == (Reason.BAD_SPEC, Exit.REFUSED)
    physical_restore(store, tmp_path / "restored")

    read = engine.read_control

    def promoting(pgdata: Path) -> bytes:
        os.kill(int((one.paths.pgdata / "postmaster.pid").read_text().split()[0]), 9)
        (pgdata / "promote").touch()
        os.kill(int((pgdata / "postmaster.pid").read_text().split()[0]), 10)  # SIGUSR1: what pg_ctl promote does
        while not any("2.history" in p.name for p in (pgdata / "pg_wal").iterdir()):
            pass
        return read(pgdata)

    monkeypatch.setattr(engine, "read_control", promoting)
    chosen = BackupTask(name=CHOSEN.replace("02:00", "03:00"), method="physical", pgdata=str(two.paths.pgdata))
    failed = await job(box, two, tmp_path, system, backup=chosen).run()
    assert (failed.ok, failed.reason, exit_code(failed)) == (False, Reason.SOURCE_CHANGED, Exit.RETRY)
    assert "promoted" in failed.message or "standby on timeline 1" in failed.message
    assert len(keys_in(store, "manifests")) == 1
    assert all(made.backup.id in key for key in keys_in(store, "physical"))
    monkeypatch.undo()


def test_a_physical_task_says_where_the_files_are() -> None:
    with pytest.raises(ValueError, match="needs pgdata"):
        JobSpec(
            task="backup",
            cluster=CLUSTER,
            store=StoreSpec(local=LocalStore(path="/x")),
            server=ServerSpec(hosts=("orders-2",)),
            backup=BackupTask(method="physical"),
        )
