"""The heartbeat process: who lives, and until when this holder may go on.

A process of its own, started by the supervisor, so that a busy, hung or dead agent neither ends a good primary nor
keeps a bad one. It goes on with the last state that the agent gave it, waits for no disk after the start (its key is
on a memory volume), and is small. The rules are in `pulse.py` and `presence.py`; here are their sockets.
"""

from __future__ import annotations

import contextlib
import gc
import os
import secrets
import selectors
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from matriarch.agent import fuse
from matriarch.agent.beatcodec import state_of, view_fields
from matriarch.agent.beatkeys import BeatKeys
from matriarch.agent.clock import MILLISECOND, boottime
from matriarch.agent.console import Console, refuse
from matriarch.agent.control import Connection, Control
from matriarch.agent.presence import Presence
from matriarch.agent.presence_port import PORT as PRESENCE_PORT
from matriarch.agent.pulse import Outgoing, Pulse
from matriarch.agent.turn import on_signals, turn
from matriarch.agent.wire import MAX_PACKET, PORT, SESSION_BYTES, Context, decode, encode
from matriarch.decide.election import SUSPECT

_NAME = "heartbeat"
_SIGN = 200 * MILLISECOND
"""So often the supervisor gets a sign of life, also without news."""
_VIEW = 240 * MILLISECOND
"""So often the agent gets a view, also without news: a little more than a beat, which mostly brings some."""
_SLACK = 20 * MILLISECOND
"""What is due so soon is done along with what is due now: one waking instead of two."""


class Settings:
    """Where things are; the options of the command line are for tests."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.run = "/run/matriarch"
        self.key = "/etc/matriarch/tls/heartbeat.key"
        self.port = str(PORT)
        self.presence = str(PRESENCE_PORT)
        for argument in arguments:
            name, _, value = argument.removeprefix("--").partition("=")
            if name not in {"run", "key", "port", "presence"} or not value:
                raise ValueError(f"{argument!r} is no option of the heartbeat")
            setattr(self, name, value)
        self.address = environment.get("MATRIARCH_POD_IP", "")
        try:
            self.context = Context(environment["MATRIARCH_NAMESPACE"], environment["MATRIARCH_CLUSTER"])
        except KeyError as error:
            raise ValueError(f"the environment lacks {error.args[0]}") from None
        number = environment.get(fuse.ENVIRONMENT)
        self.fuse = int(number) if number else None


class Heartbeat:
    """Everything the process holds; `run` never returns."""

    def __init__(self, settings: Settings, console: Console) -> None:
        now = boottime()
        self._console, self._context, self._port = console, settings.context, int(settings.port)
        self._selector = selectors.DefaultSelector()
        self._keys = BeatKeys(settings.key)
        self._read_keys(now)
        self._pulse = Pulse(secrets.token_bytes(SESSION_BYTES), now)
        self._presence = Presence(
            self._selector,
            heard=lambda: self._pulse.heard(self._presence.instance),
            changed=self._mark,
            clock=boottime,
            port=int(settings.presence),
        )
        self._agent: Connection | None = None
        self._sequence = 0  # of the state in force, as this agent connection knows it
        self._view_at = self._sign_at = now
        self._told: tuple[int, int | None] | None = None  # what the supervisor was last told
        self._fuse = socket.socket(fileno=settings.fuse) if settings.fuse is not None else None
        if self._fuse is not None:
            self._fuse.settimeout(0)
            os.set_inheritable(self._fuse.fileno(), False)  # noqa: FBT003 - positional only

        family = socket.AF_INET6 if ":" in settings.address else socket.AF_INET
        self._udp = socket.socket(family, socket.SOCK_DGRAM)
        self._udp.settimeout(0)
        self._udp.bind((settings.address, self._port))
        self._selector.register(self._udp, selectors.EVENT_READ, self._receive)
        self._control = Control(
            self._selector, console, f"{settings.run}/heartbeat.sock", greet=self._greet, serve=self._serve
        )
        on_signals(self._selector, [(signal.SIGTERM, self._stop), (signal.SIGINT, self._stop)])

    def run(self) -> NoReturn:
        while True:
            self._step(boottime())
            instants = [self._pulse.due(), self._view_at, self._presence.due(), self._sign_at if self._fuse else None]
            turn(self._selector, min(i for i in instants if i is not None))

    def _step(self, now: int) -> None:
        self._presence.tick(now)
        packets = self._pulse.tick(now)
        self._tell(now)
        self._send(packets, now)

    def _tell(self, now: int) -> None:
        """First the supervisor, then the agent: a view's deadline is one that counts already."""
        self._tell_supervisor(now)
        if self._pulse.changed or now >= self._view_at:
            self._tell_agent(now)

    def _tell_supervisor(self, now: int) -> None:
        deadline = self._pulse.deadline if self._pulse.counts else None
        word = (deadline.epoch, deadline.at) if deadline is not None else (0, None)
        if self._fuse is None or (word == self._told and now < self._sign_at - _SLACK):
            return
        self._sign_at = now + _SIGN
        with contextlib.suppress(OSError):  # it is held up: the next sign carries the newest deadline again
            self._fuse.send(fuse.pack(*word))
            self._told = word

    def _tell_agent(self, now: int) -> None:
        self._view_at = now + _VIEW
        if self._agent is None or not self._agent.idle:
            return  # a hung agent finds the newest view when it reads again, not a queue of old ones
        self._pulse.changed = False
        view = self._pulse.view(self._sequence)
        peers = tuple(
            replace(peer, presence=self._presence.state, closed_at=self._presence.closed_at)
            if peer.instance == self._presence.instance
            else peer
            for peer in view.peers
        )
        self._agent.send(view_fields(replace(view, peers=peers), now))

    def _receive(self) -> None:
        for _ in range(64):  # a flood must not hold up the beats
            try:
                raw, address = self._udp.recvfrom(MAX_PACKET + 1)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # an ICMP error of something sent earlier: silence says the same
            now = boottime()
            known = decode(raw, self._keys.accepted(now), self._context)
            if known is None:
                continue
            packet, key = known
            silent = self._is_silent(packet.sender, now)
            answers = self._pulse.receive(packet, str(address[0]), key, now)
            if silent and packet.sender == self._presence.instance:
                self._presence.renew()
            # a lease is in the agent's view before the holder can count on it
            self._tell(now)
            self._send(answers, now)

    def _is_silent(self, instance: str, now: int) -> bool:
        heard = self._pulse.heard(instance)
        return heard is not None and now - heard >= SUSPECT

    def _send(self, packets: Sequence[Outgoing], now: int) -> None:
        speaking = self._keys.speaking(now)
        for out in packets:
            key = out.key or speaking
            if key is None:
                continue
            with contextlib.suppress(OSError):  # no route, full queue: the same as a lost packet
                self._udp.sendto(encode(out.packet, key, self._context), (out.address, self._port))

    # The agent

    def _greet(self, connection: Connection) -> None:
        if self._agent is not None:
            self._control.close(self._agent, "a newer agent came")
        connection.keep_short()
        self._agent, self._sequence = connection, 0
        self._tell_agent(boottime())

    def _serve(self, connection: Connection, message: dict[str, Any]) -> None:
        if connection is not self._agent:
            return
        try:
            state = state_of(message)
        except ValueError as error:
            self._control.close(connection, str(error))
            return
        if state.sequence < self._sequence:
            return
        now = boottime()
        self._read_keys(now)
        self._pulse.apply(state, now)
        self._sequence = state.sequence
        holder = state.holder.instance if state.holder is not None and state.role != "holder" else ""
        watched = holder if holder != state.me.instance else ""
        self._presence.follow(watched, state.addresses.get(watched, ""))
        self._tell(now)

    def _read_keys(self, now: int) -> None:
        if error := self._keys.read(now):
            self._console.say(error)

    def _mark(self) -> None:
        self._pulse.changed = True

    def _stop(self) -> None:
        raise SystemExit(0)


def main() -> NoReturn:
    console = Console(_NAME)
    try:
        heartbeat = Heartbeat(Settings(sys.argv[1:], os.environ), console)
    except (OSError, ValueError) as error:
        refuse(_NAME, f"cannot start: {error}")
        raise SystemExit(1) from None
    gc.collect()
    gc.freeze()
    heartbeat.run()


if __name__ == "__main__":
    main()
