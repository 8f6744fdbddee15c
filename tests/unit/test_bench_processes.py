"""Which process a fault strikes: the wrong one would measure something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.processes import Process, agent, backend, first_process, pod_processes, postmaster, servers

UID = "0a1b2c3d-1111-2222-3333-444455556666"
V1 = f"12:memory:/kubebox/node1/kubepods/burstable/pod{UID}/abc\n1:name=systemd:/\n"
SYSTEMD = "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + UID.replace("-", "_") + ".slice/x\n"
OTHER = "12:memory:/kubebox/node1/kubepods/burstable/pod99999999-1111-2222-3333-444455556666/abc\n"


def process(proc: Path, pid: int, *, inner: str, parent: int, name: str, cgroup: str, command: str = "") -> None:
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "cgroup").write_text(cgroup)
    (folder / "cmdline").write_bytes(command.replace(" ", "\0").encode())
    (folder / "status").write_text(f"Name:\t{name}\nPPid:\t{parent}\nNSpid:\t{pid}\t{inner}\n")


@pytest.mark.parametrize("cgroup", [V1, SYSTEMD])
def test_the_pods_own_postmaster_and_first_process(tmp_path: Path, cgroup: str) -> None:
    process(tmp_path, 100, inner="1", parent=50, name="pause", cgroup=cgroup)
    process(tmp_path, 200, inner="1", parent=60, name="python3", cgroup=cgroup, command="python -m m.agent.main")
    process(tmp_path, 201, inner="7", parent=200, name="python3", cgroup=cgroup, command="python -m m.agent.main")
    process(tmp_path, 300, inner="20", parent=200, name="postgres", cgroup=cgroup, command="postgres -D /data")
    walsender = "postgres: orders-1: walsender standby 10.0.0.9(41000) streaming 0/3000148"
    process(tmp_path, 301, inner="21", parent=300, name="postgres", cgroup=cgroup, command=walsender)
    session = "postgres: orders-1: app app 10.0.0.1(51000) idle"
    process(tmp_path, 302, inner="22", parent=300, name="postgres", cgroup=cgroup, command=session)
    process(tmp_path, 400, inner="20", parent=390, name="postgres", cgroup=OTHER)
    (tmp_path / "self").mkdir()
    found = pod_processes(UID, tmp_path)
    assert sorted(p.pid for p in found) == [100, 200, 201, 300, 301, 302]
    assert postmaster(found) == 300
    assert first_process(found) == 200
    assert sorted(p.pid for p in servers(found)) == [300, 301, 302]
    assert backend(found, "app") == 302
    assert backend(found, "application") is None
    assert agent(found, "m.agent.main") == 201
    assert agent(found, "bin/patroni") is None


def test_a_pod_elsewhere_has_no_processes_here(tmp_path: Path) -> None:
    process(tmp_path, 400, inner="20", parent=390, name="postgres", cgroup=OTHER)
    assert pod_processes(UID, tmp_path) == []
    assert postmaster([]) is None
    assert first_process([Process(1, 1, 0, "pause")]) is None
