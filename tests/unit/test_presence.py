"""Presence against real sockets: a kernel that closes and refuses is told from one that says nothing."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from matriarch.agent.clock import MILLISECOND, SECOND, boottime
from matriarch.agent.console import Console
from matriarch.agent.presence import Presence
from matriarch.agent.presence_port import MAX_CONNECTIONS, MAX_PER_ADDRESS, PresencePort
from matriarch.agent.turn import turn

ADDRESS = "127.0.0.1"


class Watch:
    """A Presence with its loop, and a listener that the test opens and closes."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.heard: int | None = None
        self.states: list[str] = []
        self.listener = socket.create_server((ADDRESS, 0))
        self.port = self.listener.getsockname()[1]
        self.accepted: list[socket.socket] = []
        self.presence = Presence(
            self.selector,
            heard=lambda: self.heard,
            changed=lambda: self.states.append(self.presence.state),
            clock=boottime,
            port=self.port,
        )
        self.presence.follow("orders-1", ADDRESS)

    def until(self, what: Callable[[], object], seconds: float = 5) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, self.states
            self.spin()

    def spin(self) -> None:
        self.presence.tick(boottime())
        due = self.presence.due()
        limit = boottime() + 5 * MILLISECOND
        turn(self.selector, limit if due is None else min(due, limit))

    def accept(self) -> socket.socket:
        self.listener.settimeout(5)
        accepted, _ = self.listener.accept()
        self.accepted.append(accepted)
        return accepted

    def connected(self) -> socket.socket:
        self.until(lambda: self.presence.state == "connected")
        return self.accept()

    def listen_again(self) -> None:
        self.listener = socket.create_server((ADDRESS, self.port))

    def close(self) -> None:
        self.presence.follow("", "")
        for end in (self.listener, *self.accepted):
            end.close()
        self.selector.close()


@pytest.fixture
def watch() -> Iterator[Watch]:
    made = Watch()
    yield made
    made.close()


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


@pytest.mark.parametrize("end", [socket.socket.close, reset])
def test_closed_and_refused_twice(watch: Watch, end: Callable[[socket.socket], None]) -> None:
    connection = watch.connected()
    watch.listener.close()
    before = boottime()
    end(connection)
    watch.until(lambda: watch.presence.state == "refused")
    assert watch.states == ["connected", "closed", "refused"]
    assert watch.presence.closed_at is not None
    assert boottime() - watch.presence.closed_at >= 30 * MILLISECOND
    assert before <= watch.presence.closed_at
    # a new PID 1 in the same Pod
    watch.listen_again()
    watch.until(lambda: watch.presence.state == "connected")
    assert watch.presence.closed_at is not None


def test_closed_and_let_in_again_is_alive(watch: Watch) -> None:
    watch.connected().close()
    watch.until(lambda: watch.states == ["connected", "closed", "connected"])


def test_who_is_heard_after_the_first_refusal_is_not_gone(watch: Watch) -> None:
    connection = watch.connected()
    watch.listener.close()
    watch.heard = boottime() + 100 * MILLISECOND  # packets go on for a while
    connection.close()
    watch.until(lambda: watch.presence.state == "closed")
    end = time.monotonic() + 0.08
    while time.monotonic() < end:
        watch.spin()
        assert watch.presence.state == "closed"
    watch.until(lambda: watch.presence.state == "refused")


def test_a_refusal_without_a_connection_before_says_nothing(watch: Watch) -> None:
    watch.connected()
    watch.presence.follow("orders-2", "127.0.0.2")  # nobody listens there
    end = time.monotonic() + 0.7
    while time.monotonic() < end:
        watch.spin()
    assert watch.presence.state == "unknown"


def test_silence_is_no_refusal(watch: Watch) -> None:
    connection = watch.connected()
    watch.listener.close()
    # a full backlog: the kernel drops what comes
    full = socket.socket()
    full.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    full.bind((ADDRESS, watch.port))
    full.listen(0)
    fillers = []
    for _ in range(3):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex((ADDRESS, watch.port))
        fillers.append(filler)
    time.sleep(0.05)
    connection.close()
    end = time.monotonic() + 0.6
    while time.monotonic() < end:
        watch.spin()
    assert watch.presence.state == "closed"
    for each in (full, *fillers):
        each.close()


def test_who_speaks_is_not_pid_1(watch: Watch) -> None:
    watch.connected().sendall(b"HTTP/1.1 400 Bad Request")
    watch.until(lambda: "unknown" in watch.states)
    assert watch.presence.closed_at is None


def test_another_holder_is_watched_anew(watch: Watch) -> None:
    watch.connected().close()
    watch.until(lambda: watch.presence.state == "closed")
    watch.presence.follow("orders-2", ADDRESS)
    assert watch.presence.state == "unknown"
    assert watch.presence.closed_at is None
    watch.connected()
    watch.presence.follow("", "")
    assert watch.presence.due() is None


def test_after_silence_the_connection_is_made_anew_and_an_outlived_one_found_out(watch: Watch) -> None:
    first = watch.connected()
    watch.presence.renew()
    watch.until(lambda: watch.presence.due() is not None and (watch.presence.due() or 0) > boottime() + SECOND)
    second = watch.accept()
    first.settimeout(5)
    assert first.recv(1) == b""  # given up for the new one
    assert watch.states == ["connected"]
    watch.listener.close()
    watch.presence.renew()
    watch.until(lambda: watch.presence.state == "unknown")  # refused, but no close was seen
    second.close()


@pytest.fixture
def port() -> Iterator[tuple[selectors.BaseSelector, int]]:
    selector = selectors.DefaultSelector()
    with socket.create_server((ADDRESS, 0)) as free:
        number = free.getsockname()[1]
    made = PresencePort(selector, Console("test"), socket.AF_INET, number)
    yield selector, number
    for key in list(selector.get_map().values()):
        assert isinstance(key.fileobj, socket.socket)
        key.fileobj.close()
    selector.close()
    del made


def connect(selector: selectors.BaseSelector, number: int, source: str) -> socket.socket:
    connection = socket.create_connection((ADDRESS, number), source_address=(source, 0))
    turn(selector, boottime() + 50 * MILLISECOND)
    connection.settimeout(0.2)
    return connection


def is_held(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) != b""
    except TimeoutError:
        return True
    except ConnectionError:
        return False


def test_the_port_holds_a_bounded_number_and_a_peers_newest(port: tuple[selectors.BaseSelector, int]) -> None:
    selector, number = port
    mine = [connect(selector, number, "127.0.0.7") for _ in range(MAX_PER_ADDRESS + 1)]
    assert [is_held(c) for c in mine] == [False] + [True] * MAX_PER_ADDRESS
    others = [connect(selector, number, f"127.0.1.{n}") for n in range(1, MAX_CONNECTIONS)]
    held = sum(1 for key in selector.get_map().values()) - 1
    assert held == MAX_CONNECTIONS
    assert is_held(mine[-1])
    assert not is_held(others[-1])
    for connection in (*mine, *others):
        connection.close()
    for _ in range(MAX_CONNECTIONS):
        turn(selector, boottime())
    assert len(selector.get_map()) == 1  # all let go


def test_the_port_closes_on_who_speaks(port: tuple[selectors.BaseSelector, int]) -> None:
    selector, number = port
    connection = connect(selector, number, "127.0.0.7")
    connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
    turn(selector, boottime() + 50 * MILLISECOND)
    assert not is_held(connection)
    connection.close()
