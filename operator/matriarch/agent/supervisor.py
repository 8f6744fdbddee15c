"""PID 1 of a database pod: starts, reaps and, past the deadline, ends everything else.

It keeps the promise that a primary without answers stops in time even when agent and postgres hang, so it does next
to nothing: no disk and no network name is waited for after the start, and nothing here depends on the agent. It
never exits because of a deadline (the kubelet would back off): it ends all children and starts again in place.

    locking ──taken──▶ running ──deadline──▶ ending ──none left──▶ locking …
                          └──SIGTERM: the agent's work, or its time is up──▶ ending ──none left──▶ exit 0

Messages: `docs/architecture.md`. Protocol: `docs/protocol.md`.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from matriarch.agent import fuse, processes
from matriarch.agent.clock import MILLISECOND, SECOND, boottime
from matriarch.agent.console import Console, refuse
from matriarch.agent.control import Connection, Control
from matriarch.agent.presence_port import PORT, PresencePort
from matriarch.agent.turn import on_signals, turn
from matriarch.postgres.volumelock import VolumeLock

_FARTHEST = 60 * SECOND  # a deadline beyond this is no deadline but a fault
_LOCK_LIMIT = 60 * SECOND  # the former Pod's grace and kill
_SWEEP = 10 * MILLISECOND
_START_LIMIT = 30 * SECOND  # for a first sign of life: Python may be read from a slow disk
_STAY_LIMIT = 10 * SECOND  # killed processes that are still there wait for a disk
_POSTGRES_NICE = 5

_NAME = "supervisor"


class Settings:
    """Where things are; the options of the command line are for tests."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.lock = "/var/lib/matriarch/lock"
        self.run = "/run/matriarch"
        self.port = str(PORT)
        self.heartbeat = json.dumps([sys.executable, "-m", "matriarch.agent.heartbeat"])
        self.agent = json.dumps([sys.executable, "-m", "matriarch.agent.main"])
        self.grace = environment.get("MATRIARCH_GRACE_SECONDS", "30")
        self.ipv6 = ":" in environment.get("MATRIARCH_POD_IP", "")
        for argument in arguments:
            name, _, value = argument.removeprefix("--").partition("=")
            if name not in {"lock", "run", "port", "heartbeat", "agent"} or not value:
                raise ValueError(f"{argument!r} is no option of the supervisor")
            setattr(self, name, value)
        grace = float(self.grace)
        if not 0 < grace < 86400:
            raise ValueError(f"MATRIARCH_GRACE_SECONDS is {self.grace}; it must be above 0 and below a day")
        # ends everything a little before the kubelet does, so that the last words get out
        self.termination_time = round((grace - min(2.0, grace / 10)) * SECOND)


class Helper:
    """A process of our own that is started again whenever it ends or says nothing for `silence`: heartbeat, agent."""

    def __init__(self, name: str, *, longest_pause: int, silence: int) -> None:
        self.name = name
        self.pid: int | None = None
        self.start_at = 0
        self.kill_at = 0
        self._pause, self._longest = 0, longest_pause
        self._silence = silence
        self._started = 0

    def started(self, pid: int, now: int) -> None:
        self.pid, self._started = pid, now
        self.kill_at = now + max(self._silence, _START_LIMIT)

    def sign_of_life(self, now: int) -> None:
        self.kill_at = now + self._silence

    def hangs(self, now: int) -> bool:
        """True once per silence."""
        if self.pid is None or now < self.kill_at:
            return False
        self.kill_at = now + max(self._silence, _START_LIMIT)
        return True

    def ended(self, now: int) -> None:
        """The first restart is at once; one that does not stay up is restarted ever more slowly."""
        self.pid = None
        if now - self._started > 10 * SECOND:
            self._pause = 0
        self.start_at = now + self._pause
        self._pause = min(max(self._pause * 2, 50 * MILLISECOND), self._longest)

    def reset(self) -> None:
        self.pid, self.start_at, self._pause = None, 0, 0


class Sweep:
    """`end-others` under way. Twice in a row none must be left: a fork can hide behind one listing's cursor."""

    def __init__(self, pid: int, until: int, answer: Callable[[bool], None]) -> None:
        self.pid, self.until, self.answer = pid, until, answer
        self.empty = 0


class Supervisor:
    """The state machine above, and everything that it holds."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self._settings, self._console = settings, console
        self._selector = selectors.DefaultSelector()
        self._phase = "locking"
        self._give_up = boottime() + _LOCK_LIMIT
        self._told_waiting = False
        self._ending_since = 0
        self._told_staying = 0
        # a hung heartbeat is replaced in time for the new one to hear voters before the deadline
        self._heartbeat = Helper("heartbeat", longest_pause=SECOND, silence=600 * MILLISECOND)
        self._agent = Helper("agent", longest_pause=5 * SECOND, silence=30 * SECOND)
        self._postgres: int | None = None
        self._last_exit: dict[str, Any] | None = None
        self._orphaned: set[int] = set()  # sessions of agents that died: their tools go with them
        self._armed = False
        self._deadline: int | None = None
        self._deadline_epoch = 0
        self._fences = 0
        self._terminate_at: int | None = None
        self._sweeps: list[Sweep] = []
        self._sweep_at: int | None = None
        self._deadlines: socket.socket | None = None
        self._children_left = True

        family = socket.AF_INET6 if settings.ipv6 else socket.AF_INET
        self._presence = PresencePort(self._selector, console, family, int(settings.port))
        self._lock = VolumeLock(settings.lock)
        self._control = Control(
            self._selector, console, f"{settings.run}/supervisor.sock", greet=self._greet, serve=self._serve
        )
        on_signals(
            self._selector,
            [(signal.SIGCHLD, self._reap), (signal.SIGTERM, self._terminate), (signal.SIGINT, self._terminate)],
        )

    def run(self) -> NoReturn:
        while True:
            self._step(boottime())
            turn(self._selector, self._wake_at())

    def _wake_at(self) -> int | None:
        if self._phase != "running":
            return boottime() + (_SWEEP if self._phase == "ending" else 10 * _SWEEP)
        instants = [h.start_at if h.pid is None else h.kill_at for h in (self._heartbeat, self._agent)]
        optional = (self._sweep_at, self._terminate_at, self._deadline if self._armed else None)
        return min(*instants, *(i for i in optional if i is not None))

    def _step(self, now: int) -> None:
        if self._phase == "running":
            self._check_deadline(now)
        if self._phase == "running" and self._terminate_at is not None and now >= self._terminate_at:
            self._end_all("the time to terminate is up")
        match self._phase:
            case "locking":
                self._try_lock(now)
            case "running":
                if self._sweep_at is not None and now >= self._sweep_at:
                    self._sweep(now)
                for helper, start in ((self._heartbeat, self._start_heartbeat), (self._agent, self._start_agent)):
                    if helper.pid is None and now >= helper.start_at:
                        start(now)
                    elif helper.hangs(now):
                        self._console.say(f"the {helper.name} hangs: ending it")
                        processes.kill([helper.pid] if helper.pid is not None else [])
            case "ending":
                self._finish_ending(now)

    # The lock

    def _try_lock(self, now: int) -> None:
        if self._lock.take():
            self._phase = "running"
            self._told_waiting = False
            self._heartbeat.reset()
            self._agent.reset()
            self._step(now)
        elif now >= self._give_up:
            self._console.say(
                f"{self._settings.lock} is still locked after {_LOCK_LIMIT // SECOND} s: another Pod uses this volume. "
                "Find and delete it; this one starts again by itself."
            )
            raise SystemExit(1)
        elif not self._told_waiting:
            self._told_waiting = True
            self._console.say(f"{self._settings.lock} is locked by another Pod on this volume: waiting for its end")

    # The deadline

    def _check_deadline(self, now: int) -> None:
        if not self._armed or self._deadline is None or now < self._deadline:
            return
        self._read_deadlines()  # a newer one may lie there when this process was held up
        if self._deadline > now:
            return
        late = (now - self._deadline) / MILLISECOND
        self._fences += 1
        self._end_all(f"the deadline passed {late:.1f} ms ago: no voter answers and the Lease is not renewed")

    def _read_deadlines(self) -> None:
        for _ in range(64):
            if self._deadlines is None:
                return
            try:
                raw = self._deadlines.recv(64)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._console.say(f"the heartbeat's deadlines cannot be read: {error}")
                return
            if len(raw) == fuse.BYTES:
                epoch, deadline = fuse.unpack(raw)
                now = boottime()
                self._heartbeat.sign_of_life(now)
                if deadline is None or deadline > now + _FARTHEST:
                    continue
                # A heartbeat that was started again knows an old renewal only: that takes nothing back.
                if epoch > self._deadline_epoch or deadline > (self._deadline or 0):
                    self._deadline, self._deadline_epoch = max(deadline, self._deadline or 0), epoch

    def _end_all(self, why: str) -> None:
        os.kill(-1, signal.SIGKILL)  # first of all; -1 spares PID 1 itself
        self._phase, self._ending_since, self._told_staying = "ending", boottime(), 0
        self._armed, self._deadline = False, None
        for sweep in self._sweeps:
            sweep.answer(False)  # noqa: FBT003 - the answer is the outcome
        self._sweeps, self._sweep_at = [], None
        self._orphaned.clear()
        self._console.say(f"ending all processes: {why}")

    def _finish_ending(self, now: int) -> None:
        self._reap()
        left = [pid for pid in processes.living() if pid != 1]
        if left or self._children_left:
            processes.kill(left)
            stayed = (now - self._ending_since) // _STAY_LIMIT
            if stayed > self._told_staying:
                # exiting would drop the lock while they may still write, and the kernel would wait for them anyway
                self._told_staying = stayed
                self._console.say(
                    f"processes {left} do not end: they wait for a disk. The volume stays locked; "
                    "nothing starts until they are gone. Look at the node and its storage."
                )
            return
        took = (boottime() - self._ending_since) / MILLISECOND
        self._console.say(f"all processes have ended, {took:.0f} ms after the kill")
        if self._terminate_at is not None:
            raise SystemExit(0)
        self._lock.drop()
        self._phase, self._give_up = "locking", now + _LOCK_LIMIT

    # Children

    def _start_heartbeat(self, now: int) -> None:
        if self._deadlines is not None:
            self._read_deadlines()  # the former's last word still counts
            self._selector.unregister(self._deadlines)
            self._deadlines.close()
        self._deadlines, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._deadlines.settimeout(0)
        self._selector.register(self._deadlines, selectors.EVENT_READ, self._read_deadlines)
        env = {**os.environ, fuse.ENVIRONMENT: str(theirs.fileno())}
        argv = json.loads(self._settings.heartbeat)
        self._heartbeat.started(processes.spawn(argv, env, inherit=[theirs.fileno()]), now)
        theirs.close()

    def _start_agent(self, now: int) -> None:
        self._agent.started(processes.spawn(json.loads(self._settings.agent), os.environ), now)

    def _reap(self) -> None:
        ended, self._children_left = processes.reap()
        now = boottime()
        for pid, status in ended:
            if pid == self._postgres:
                self._postgres = None
                self._last_exit = {"event": "exit", "name": "postgres", "pid": pid, "status": status}
                self._control.tell_all(self._last_exit)
            elif pid == self._agent.pid:
                self._agent.ended(now)
                self._agent_ended(pid, status, now)
            elif pid == self._heartbeat.pid:
                self._heartbeat.ended(now)
                if self._phase == "running":
                    self._console.say(f"the heartbeat ended with status {status} and is started again")

    def _agent_ended(self, pid: int, status: int, now: int) -> None:
        if self._phase != "running":
            return
        if self._terminate_at is not None and status == 0:
            self._end_all("the agent has finished its work for the termination")
            return
        # a second base backup must not meet the first one's process
        self._orphaned.add(pid)
        self._sweep_at = now
        self._console.say(f"the agent ended with status {status} and is started again")

    def _sweep(self, now: int) -> None:
        for session in list(self._orphaned):
            left = processes.living(session=session)
            processes.kill(left)
            if not left:
                self._orphaned.discard(session)
        for sweep in list(self._sweeps):
            keep = {1, sweep.pid, self._heartbeat.pid, self._agent.pid}
            left = [pid for pid in processes.living() if pid not in keep]
            processes.kill(left)
            sweep.empty = 0 if left else sweep.empty + 1
            if sweep.empty == 2 or now >= sweep.until:
                self._sweeps.remove(sweep)
                sweep.answer(sweep.empty == 2)
        self._sweep_at = now + _SWEEP if self._orphaned or self._sweeps else None

    def _terminate(self) -> None:
        if self._terminate_at is not None:
            return
        now = boottime()
        if self._phase == "locking":
            self._console.say("asked to terminate before anything was started")
            raise SystemExit(0)
        self._terminate_at = now + self._settings.termination_time
        self._console.say(f"asked to terminate: {self._settings.termination_time / SECOND:.1f} s for the agent's work")
        self._control.tell_all({"event": "terminate", "deadline": self._terminate_at})

    # The agent's requests

    def _greet(self, connection: Connection) -> None:
        """What a new connection may have missed."""
        if self._last_exit is not None:
            connection.send({**self._last_exit, "again": True})
        if self._terminate_at is not None:
            connection.send({"event": "terminate", "deadline": self._terminate_at})

    def _serve(self, connection: Connection, message: dict[str, Any]) -> None:
        identity = message.get("id")
        if connection.pid == self._agent.pid:
            self._agent.sign_of_life(boottime())

        def answer(error: str = "", **fields: Any) -> None:
            connection.send({"id": identity, "ok": not error, **({"error": error} if error else fields)})

        match message:
            case {"op": "alive"}:
                pass
            case _ if self._phase != "running":
                answer("everything is being ended: ask again when it has started anew")
            case {"op": "start", "name": "postgres", "argv": [str(), *_] as argv, "env": dict(env)}:
                if self._postgres is not None:
                    answer(f"postgres runs already, as process {self._postgres}")
                elif not all(isinstance(text, str) for text in (*argv, *env, *env.values())):
                    answer("argv and env hold text alone")
                elif self._sweeps:
                    answer("end-others is under way: start postgres when it has answered")
                else:
                    self._postgres = processes.spawn(argv, env, nice=_POSTGRES_NICE)
                    answer(pid=self._postgres)
            case {"op": "state"}:
                answer(
                    postgres=self._postgres,
                    last_exit=self._last_exit,
                    armed=self._armed,
                    deadline=self._deadline,
                    fences=self._fences,
                    terminating=self._terminate_at is not None,
                )
            case {"op": "end-others", "timeout": int() | float() as seconds} if 0 < seconds <= 600:
                self._end_others(connection, seconds, answer)
            case {"op": "arm"}:
                self._read_deadlines()
                if self._deadline is None:
                    answer("no deadline is known yet: the heartbeat has no state in which it counts")
                elif self._deadline <= boottime():
                    answer("the last deadline is past: renew the Lease or hear voters first")
                else:
                    self._armed = True
                    answer()
            case {"op": "disarm"}:
                self._read_deadlines()
                self._armed, self._deadline = False, None
                answer()
            case _:
                answer(f"{message.get('op')!r} with these fields is nothing that the supervisor does")

    def _end_others(self, connection: Connection, seconds: float, answer: Callable[..., None]) -> None:
        now = boottime()

        def done(gone: bool) -> None:
            if gone:
                answer()
            else:
                answer("some processes do not end: they wait for a disk")

        self._sweeps.append(Sweep(connection.pid, now + round(seconds * SECOND), done))
        self._sweep_at = now


def main() -> NoReturn:
    console = Console(_NAME)
    if os.getpid() != 1:
        refuse(_NAME, "must be PID 1 of its container: it ends every process that it can see. Start it as entry point.")
        raise SystemExit(64)
    os.umask(0o077)
    try:
        supervisor = Supervisor(Settings(sys.argv[1:], os.environ), console)
    except (OSError, ValueError) as error:
        refuse(_NAME, f"cannot start: {error}")
        raise SystemExit(1) from None
    _stay_in_memory()
    supervisor.run()


def _stay_in_memory() -> None:
    """Best effort: a page that must be read from a hung disk would hold up the deadline."""
    gc.collect()
    gc.freeze()
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY:
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).mlockall(1 | 2 | 4)  # MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT: as far as it is in use


if __name__ == "__main__":
    main()
