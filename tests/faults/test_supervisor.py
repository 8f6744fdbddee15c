"""The supervisor as PID 1 of real namespaces, against processes that die, hang, fork and hide."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from matriarch.agent.clock import boottime
from matriarch.postgres.volumelock import VolumeLock
from tests.faults.namespaces import AS_USER, ENVIRONMENT, USER, Pod, alive, children, command_line, wait_for

# a postmaster with a backend in a session of its own, as PostgreSQL's backends are
POSTMASTER = ["/bin/sh", "-c", "setsid sleep 1001 & exec sleep 1000"]


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    made = Pod(tmp_path / "pod")
    yield made
    made.close()


def start_postmaster(pod: Pod) -> tuple[int, int]:
    """Postmaster and backend, by their pids outside."""
    pod.call("start_postgres", POSTMASTER, {"PATH": "/usr/bin:/bin"})
    postmaster = pod.child("sleep 1000")
    return postmaster, wait_for(lambda: children(postmaster))[0]


def test_it_refuses_to_be_anything_but_pid_1() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "matriarch.agent.supervisor"],
        check=False,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 64
    assert "must be PID 1" in run.stderr


def test_it_starts_its_two_and_postgres_at_the_agents_word(pod: Pod) -> None:
    pod.child("stand_in_heartbeat")
    state = pod.call("state")
    assert state["postgres"] is None
    assert not state["armed"]
    postmaster, backend = start_postmaster(pod)
    assert os.getsid(postmaster) == postmaster
    assert os.getpriority(os.PRIO_PROCESS, postmaster) == 5
    assert os.getpriority(os.PRIO_PROCESS, pod.child("stand_in_heartbeat")) == 0
    assert "runs already" in pod.try_call("start_postgres", POSTMASTER, {})["error"]
    assert alive(backend)


def test_the_end_of_postgres_is_told_with_its_status(pod: Pod) -> None:
    pid = pod.call("start_postgres", ["/bin/sh", "-c", "exit 3"], {})
    event = {"type": "ProcessExit", "name": "postgres", "pid": pid, "status": 3}
    assert pod.call("event", timeout=5) == event
    pid = pod.call("start_postgres", ["/no/such/postgres"], {})
    assert pod.call("event", timeout=5) == {**event, "pid": pid, "status": 127}
    pid = pod.call("start_postgres", ["sleep", "1000"], {"PATH": os.environ["PATH"]})
    os.kill(pod.child("sleep 1000"), signal.SIGKILL)
    assert pod.call("event", timeout=5) == {**event, "pid": pid, "status": -9}
    assert pod.call("state")["last_exit"] == {"name": "postgres", "pid": pid, "status": -9}


@pytest.mark.parametrize("name", ["stand_in_agent", "stand_in_heartbeat"])
def test_a_dead_helper_comes_back_and_postgres_does_not_notice(pod: Pod, name: str) -> None:
    postmaster, backend = start_postmaster(pod)
    for _ in range(3):
        former = pod.child(name)
        os.kill(former, signal.SIGKILL)
        pod.child(name, other_than=former)
    pod.forget_agent()
    assert pod.call("state")["postgres"] is not None
    assert alive(postmaster)
    assert alive(backend)


def test_with_the_agent_go_its_tools(pod: Pod) -> None:
    postmaster, _ = start_postmaster(pod)
    pod.call("shell", script="sleep 1002 & wait")
    agent = pod.child("stand_in_agent")
    tool = wait_for(lambda: children(agent))[0]
    grandchild = wait_for(lambda: children(tool))[0]
    os.kill(agent, signal.SIGKILL)
    wait_for(lambda: not alive(tool) and not alive(grandchild))
    assert alive(postmaster)


def test_a_hung_heartbeat_is_replaced(pod: Pod) -> None:
    former = pod.child("stand_in_heartbeat")
    pod.deadline_in(50)
    pod.hang_heartbeat()
    pod.child("stand_in_heartbeat", other_than=former)
    assert "the heartbeat hangs" in pod.said


def test_backends_of_a_dead_postmaster_are_ended_on_request(pod: Pod) -> None:
    postmaster, backend = start_postmaster(pod)
    heartbeat, agent = pod.child("stand_in_heartbeat"), pod.child("stand_in_agent")
    os.kill(postmaster, signal.SIGKILL)
    assert pod.call("event", timeout=5)["status"] == -9
    assert alive(backend)
    assert children(pod.pid1).count(backend) == 1  # an orphan now
    assert pod.call("end_others") is True
    assert not alive(backend)
    assert alive(heartbeat)
    assert alive(agent)


def test_not_even_a_process_that_keeps_forking_escapes(pod: Pod) -> None:
    script = "f() { while :; do setsid sh -c 'sleep 1' & done; }; f & f & wait"
    pod.call("start_postgres", ["/bin/sh", "-c", script], {"PATH": os.environ["PATH"]})
    time.sleep(0.3)
    assert pod.call("end_others", 10) is True
    left = [command_line(c) for c in children(pod.pid1)]
    assert len(left) == 2, left
    assert pod.call("state")["postgres"] is None


def test_arming_needs_a_deadline_that_is_still_to_come(pod: Pod) -> None:
    assert "no deadline is known" in pod.try_call("arm")["error"]
    pod.deadline_in(0.05)
    time.sleep(0.1)
    assert "is past" in pod.try_call("arm")["error"]
    assert pod.call("state")["fences"] == 0
    pod.deadline_in(50)
    pod.call("arm")
    assert pod.call("state")["armed"]
    pod.call("disarm")
    assert "no deadline is known" in pod.try_call("arm")["error"]


def test_past_the_deadline_everything_ends_and_starts_again_in_place(pod: Pod) -> None:
    postmaster, backend = start_postmaster(pod)
    pid1, heartbeat, agent = pod.pid1, pod.child("stand_in_heartbeat"), pod.child("stand_in_agent")
    deadline = pod.deadline_in(0.5)
    pod.call("arm")
    wait_for(lambda: not alive(backend) and not alive(postmaster) and not alive(agent) and not alive(heartbeat))
    late = boottime() - deadline
    assert 0 <= late < 200e6
    pod.child("stand_in_heartbeat", other_than=heartbeat)
    pod.child("stand_in_agent", other_than=agent)
    pod.forget_agent()
    state = pod.call("state")
    assert pod.pid1 == pid1
    assert (state["fences"], state["armed"], state["postgres"]) == (1, False, None)
    start_postmaster(pod)


def test_a_later_deadline_saves_it_and_a_stopped_process_is_ended_too(pod: Pod) -> None:
    postmaster, backend = start_postmaster(pod)
    pod.deadline_in(0.4)
    pod.call("arm")
    pod.deadline_in(0.8)
    os.kill(backend, signal.SIGSTOP)
    time.sleep(0.6)
    assert alive(postmaster)
    wait_for(lambda: not alive(backend) and not alive(postmaster), 1)


def test_frozen_past_its_deadline_it_acts_first_thing_but_believes_a_newer_word(pod: Pod) -> None:
    postmaster, _ = start_postmaster(pod)
    pod.deadline_in(0.3)
    pod.call("arm")
    os.kill(pod.pid1, signal.SIGSTOP)
    pod.deadline_in(50)  # waits in the socket
    time.sleep(0.5)
    os.kill(pod.pid1, signal.SIGCONT)
    assert pod.call("state")["fences"] == 0
    pod.deadline_in(0.1)
    os.kill(pod.pid1, signal.SIGSTOP)
    time.sleep(0.3)
    assert alive(postmaster)
    os.kill(pod.pid1, signal.SIGCONT)
    wait_for(lambda: not alive(postmaster), 0.2)


def lock_is_free(path: Path) -> bool:
    """By a descriptor of this process, which is another Pod as far as the lock knows."""
    lock = VolumeLock(str(path))
    try:
        return lock.take()
    finally:
        lock.drop()
        os.close(lock._descriptor)


def test_the_volume_is_locked_while_it_lives(pod: Pod) -> None:
    pod.call("state")
    path = pod.folder / "lock"
    assert not lock_is_free(path)
    os.kill(pod.child("stand_in_agent"), signal.SIGKILL)
    assert not lock_is_free(path)
    os.kill(pod.pid1, signal.SIGKILL)
    pod.exit_status()
    assert lock_is_free(path)


def test_a_second_pod_on_the_volume_waits_and_then_goes_on(pod: Pod, tmp_path: Path) -> None:
    pod.call("state")
    second = Pod(tmp_path / "second", lock=pod.folder / "lock")
    try:
        wait_for(lambda: "is locked by another Pod" in second.said)
        assert children(second.pid1) == []
        os.kill(pod.pid1, signal.SIGKILL)
        assert second.call("state")["fences"] == 0
    finally:
        second.close()


def test_asked_to_terminate_it_lets_the_agent_work_and_exits_with_0(pod: Pod) -> None:
    _, backend = start_postmaster(pod)
    os.kill(pod.pid1, signal.SIGTERM)
    event = pod.call("event", timeout=5)
    assert event["type"] == "TerminationRequested"
    assert 27e9 < event["deadline"] - boottime() < 28.1e9
    assert alive(backend)
    # an agent that crashes in the middle is told again
    former = pod.child("stand_in_agent")
    os.kill(former, signal.SIGKILL)
    pod.child("stand_in_agent", other_than=former)
    pod.forget_agent()
    assert pod.call("event", timeout=5) == event
    with pytest.raises((AssertionError, ConnectionError)):
        pod.call("exit", status=0)
    assert pod.exit_status() == 0
    assert not alive(backend)


def test_an_agent_that_does_not_finish_is_ended_with_the_rest(tmp_path: Path) -> None:
    pod = Pod(tmp_path / "pod", grace=1)
    try:
        _, backend = start_postmaster(pod)
        asked = time.monotonic()
        os.kill(pod.pid1, signal.SIGTERM)
        assert pod.exit_status() == 0
        assert 0.8 < time.monotonic() - asked < 2
        assert not alive(backend)
    finally:
        pod.close()


def test_other_users_get_no_answer(pod: Pod) -> None:
    pod.call("state")
    path = pod.folder / "supervisor.sock"
    path.chmod(0o777)  # the file's mode is only the first fence
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(5)
        os.seteuid(65534)
        try:
            connection.connect(str(path))
        finally:
            os.seteuid(0)
        assert connection.recv(100) == b""
    assert f"only user {USER} may ask" in pod.said


def test_nonsense_is_answered_and_harms_nothing(pod: Pod) -> None:
    script = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "s.connect(sys.argv[1])\n"
        's.send(b\'{"id": 1, "op": "explode"}\'); print(s.recv(999))\n'
        's.send(b\'{"id": 2, "op": "start", "name": "rm", "argv": ["rm"], "env": {}}\'); print(s.recv(999))\n'
        's.send(b\'{"id": 3, "op": "end-others", "timeout": "x"}\'); print(s.recv(999))\n'
        "s.send(b'no json'); print(s.recv(999))\n"
    )
    pod.call("state")
    out = subprocess.run(
        [
            *AS_USER,
            *(sys.executable, "-c", script, str(pod.folder / "supervisor.sock")),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert all('"ok": false' in line for line in out[:3]), out
    assert out[3] == "b''"
    assert pod.call("state")["postgres"] is None


def test_the_lock_uses_descriptions_and_not_processes(tmp_path: Path) -> None:
    lock = VolumeLock(str(tmp_path / "lock"))
    assert lock.take()
    os.close(os.open(tmp_path / "lock", os.O_RDWR))  # a plain POSIX lock would be gone now
    assert not lock_is_free(tmp_path / "lock")
    lock.drop()
    assert lock_is_free(tmp_path / "lock")
    assert hasattr(fcntl, "F_OFD_SETLK")
