"""The agent's side of `/run/matriarch/supervisor.sock`: what only PID 1 can do is asked of it here.

Errors of every call: Unavailable when the supervisor does not answer in time (the outcome is unknown: ask `state`),
Refused when it says no.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matriarch.agent.clock import SECOND
from matriarch.agent.seqpacket import SeqpacketClient
from matriarch.errors import Refused, Unavailable

log = logging.getLogger(__name__)

SOCKET = "/run/matriarch/supervisor.sock"
_SIGN_OF_LIFE = 5.0  # seconds; an agent that says nothing for 30 s is ended and started again


@dataclass(frozen=True, slots=True)
class ProcessExit:
    """A child that the agent had started is gone. `status`: its exit code, or minus the signal that ended it."""

    name: str
    pid: int
    status: int


@dataclass(frozen=True, slots=True)
class TerminationRequested:
    """The kubelet wants this pod to end. At `deadline` (boot-time ns) the supervisor ends everything by itself.

    The agent stops postgres and exits with status 0 when it is done; the supervisor then ends the rest and itself.
    """

    deadline: int


@dataclass(frozen=True, slots=True)
class SupervisorState:
    """`postgres`: pid of the running postmaster. `deadline`: boot-time ns. `fences`: how often it ended all."""

    postgres: int | None
    last_exit: ProcessExit | None
    armed: bool
    deadline: int | None
    fences: int
    terminating: bool


class SupervisorClient:
    """Use `await SupervisorClient.connect()`. Reconnects by itself; one instance per agent."""

    def __init__(self, path: str = SOCKET) -> None:
        self.events: asyncio.Queue[ProcessExit | TerminationRequested] = asyncio.Queue(maxsize=64)
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._last_exit: ProcessExit | None = None
        self._first = True
        self._terminating = False
        self._connection = SeqpacketClient(path, on_open=_nothing, on_message=self._receive, on_lost=self._lost)
        self._alive = asyncio.create_task(self._say_alive(), name="signs of life to the supervisor")

    @classmethod
    async def connect(cls, path: str = SOCKET, *, timeout: float = 10.0) -> SupervisorClient:
        """Raises Unavailable when nobody listens at `path` within `timeout` seconds."""
        client = cls(path)
        if not await client._connection.wait_open(timeout):
            await client.close()
            raise Unavailable(f"The supervisor does not listen at {path}; this pod cannot start its database.")
        return client

    async def start_postgres(self, argv: Sequence[str], env: Mapping[str, str], *, timeout: float = 5.0) -> int:
        """Start the postmaster in its own session, at nice 5; its pid.

        Refused while one runs. A program that cannot be executed shows as a ProcessExit with status 127.
        `env` is the whole environment of the child.
        """
        answer = await self._call({"op": "start", "name": "postgres", "argv": list(argv), "env": dict(env)}, timeout)
        return int(answer["pid"])

    async def state(self, *, timeout: float = 5.0) -> SupervisorState:
        """What the supervisor knows now; it answers from memory."""
        answer = await self._call({"op": "state"}, timeout)
        last = answer["last_exit"]
        return SupervisorState(
            postgres=answer["postgres"],
            last_exit=ProcessExit(last["name"], last["pid"], last["status"]) if last is not None else None,
            armed=answer["armed"],
            deadline=answer["deadline"],
            fences=answer["fences"],
            terminating=answer["terminating"],
        )

    async def end_others(self, timeout: float = 5.0) -> bool:
        """SIGKILL every process but supervisor, heartbeat and this agent, until none is left.

        False: some were left after `timeout` seconds (they wait for a disk), so nothing may be said about them.
        Children of the agent itself are among the ended.
        """
        try:
            await self._call({"op": "end-others", "timeout": timeout}, timeout + 2.0)
        except Refused:
            return False
        return True

    async def arm(self, *, timeout: float = 5.0) -> None:
        """From now on the heartbeat's deadline counts. Refused while no deadline in the future is known: then the
        heartbeat has no state with `fence` yet (its view's `deadline` says when it has)."""
        await self._call({"op": "arm"}, timeout)

    async def disarm(self, *, timeout: float = 5.0) -> None:
        """No deadline counts any more: nothing that may acknowledge or read runs. Forgets the deadline."""
        await self._call({"op": "disarm"}, timeout)

    async def close(self) -> None:
        self._alive.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._alive
        await self._connection.close()

    async def _say_alive(self) -> None:
        while True:
            await self._connection.send(b'{"op": "alive"}')
            await asyncio.sleep(_SIGN_OF_LIFE)

    async def _call(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        identity = next(self._ids)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[identity] = answer
        try:
            async with asyncio.timeout(timeout):
                await self._connection.wait_open(timeout)
                if not await self._connection.send(json.dumps({"id": identity, **request}).encode()):
                    raise Unavailable(f"The supervisor could not be asked for {request['op']!r}: no connection.")
                reply = await answer
        except TimeoutError:
            raise Unavailable(f"The supervisor did not answer {request['op']!r} within {timeout:g} s.") from None
        finally:
            del self._waiting[identity]
        if not reply.get("ok"):
            raise Refused(str(reply.get("error", "The supervisor refused without a reason.")))
        return reply

    async def _receive(self, raw: bytes) -> None:
        message = json.loads(raw)
        match message:
            case {"event": "exit", "name": name, "pid": pid, "status": status}:
                # with "again": the last one before this connection, which is news only after a reconnect
                exited = ProcessExit(name, pid, status)
                known = message.get("again", False) and (self._first or exited == self._last_exit)
                self._last_exit = exited
                if not known:
                    self._put(exited)
            case {"event": "terminate", "deadline": deadline}:
                if not self._terminating:
                    self._terminating = True
                    self._put(TerminationRequested(deadline))
            case {"id": identity} if (waiting := self._waiting.get(identity)) is not None and not waiting.done():
                waiting.set_result(message)
            case _:
                log.debug("late or unknown message of the supervisor: %s", message)

    def _put(self, event: ProcessExit | TerminationRequested) -> None:
        if self.events.full():
            self.events.get_nowait()  # nobody listens; the newest says most
        self.events.put_nowait(event)

    async def _lost(self) -> None:
        self._first = False
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(Unavailable("The connection to the supervisor was lost before it answered."))


async def _nothing() -> None:
    return None


def seconds_until(deadline: int, now: int) -> float:
    """From boot-time nanoseconds to seconds left, at least 0."""
    return max(0.0, (deadline - now) / SECOND)
