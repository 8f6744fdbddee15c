"""As in a cluster: the agent's roles and rules, client certificates, checked names, a pinned address."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from matriarch.backup import backup as engine
from matriarch.backup import restore
from matriarch.backup.jobspec import BackupTask, RestoreTask, ServerSpec
from matriarch.backup.server import Server
from matriarch.errors import MatriarchError, Refused, Unavailable
from tests.postgres.backup.bed import CLUSTER, KEY, local
from tests.postgres.pgbox import Box, Member


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Names as the cluster's DNS would know them: name → address."""
    known: dict[str, str] = {}
    resolve: Callable[..., Any] = socket.getaddrinfo

    def lookup(host: Any, *args: Any, **more: Any) -> Any:
        return resolve(known.get(host, host), *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return known


def server(box: Box, member: Member, role: str, folder: Path, names: dict[str, str]) -> Server:
    box.ca.issue(role, folder)
    names[member.instance] = member.address
    spec = ServerSpec(hosts=(member.instance,), port=box.port, user=role, tls=str(folder))
    return Server.from_spec(spec, member.instance)


async def test_a_cluster_is_backed_up_and_restored_by_certificates(
    box: Box, tools: Path, tmp_path: Path, names: dict[str, str]
) -> None:
    one = await box.primary()
    two = await box.standby(2, one)
    await one.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")
    await one.sql("SELECT lo_from_bytea(0, 'large')")
    await one.sql("CREATE TABLE secret AS SELECT 1 AS i")
    await one.sql("ALTER TABLE secret ENABLE ROW LEVEL SECURITY")
    lsn = await one.value("SELECT pg_current_wal_flush_lsn()::text")
    while not await two.value(f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'"):
        pass
    store = local(tmp_path / "store")
    readers = [server(box, m, "matriarch_backup", tmp_path / "backup-tls", names) for m in (two, one)]
    request = engine.Request(
        store=store,
        servers=readers,
        prefer="standby",
        key=KEY,
        task=BackupTask(),
        cluster=CLUSTER,
    )
    opened, warnings = await engine.backup(request)
    assert (opened.body.origin.source, opened.body.rows) == ("standby", 1001)
    assert opened.details.role_passwords
    assert opened.details.databases[0].large_objects.hash is not None
    assert warnings == ()

    await one.sql("DELETE FROM t")
    writer = server(box, one, "postgres", tmp_path / "restore-tls", names)
    task = RestoreTask(backup="latest", mode="in-place", restore_id="r")
    again = restore.Request(store=store, servers=[writer], keys=(KEY,), task=task)
    done = await restore.restore(again)
    assert done.rows == 1001
    assert await one.value("SELECT count(*) FROM t") == 1000
    # The next backup may still connect.
    replaced, _ = await engine.backup(replace(request, servers=readers[1:], prefer="any"))
    assert replaced.body.rows == 1001

    # A replica is no target.
    reader = server(box, two, "postgres", tmp_path / "restore-tls", names)
    with pytest.raises(Refused) as refused:
        await restore.restore(replace(again, servers=[reader], task=replace(task, restore_id="s")))
    assert refused.value.reason == "TargetIsReplica"


async def test_a_server_that_is_another_one_gets_nothing(
    box: Box, tools: Path, tmp_path: Path, names: dict[str, str]
) -> None:
    one = await box.primary()
    good = server(box, one, "matriarch_backup", tmp_path / "tls", names)
    names["orders-9"] = one.address

    async def refusal(changed: Server) -> MatriarchError:
        with pytest.raises(MatriarchError) as error:
            await changed.connect()
        return error.value

    await (await good.connect()).close()
    other_name = Server({**good.settings, "host": "orders-9"}, pin=True)
    assert "not trusted" in str(await refusal(other_name))
    box.ca.issue("somebody", tmp_path / "else")
    stranger = {"sslcert": f"{tmp_path}/else/tls.crt", "sslkey": f"{tmp_path}/else/tls.key"}
    assert isinstance(await refusal(Server({**good.settings, **stranger})), Refused)
    assert isinstance(await refusal(Server({**good.settings, "port": "1"})), Unavailable)
