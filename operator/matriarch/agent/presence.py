"""Watches the holder's PID 1 through a TCP connection that nobody speaks on (`presence_port.py`).

Silence says nothing; a kernel that closes the connection and then refuses two new ones says that PID 1 is gone, and
its whole PID namespace with it, while the node lives. A connect that runs into its time limit is silence, as is any
error that this machine itself may have made up.

    unknown ──connected──▶ connected ──FIN, RST──▶ closed ──refused twice──▶ refused
                               ▲──────────connected again─────┴───────────────┘

PID 1's sockets close an instant before the kernel kills its children, so a holder that is still heard from after the
first refusal is not gone: the two refusals are then asked for again.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
from collections.abc import Callable
from typing import Literal

from matriarch.agent.clock import MILLISECOND, SECOND
from matriarch.agent.presence_port import PORT

State = Literal["unknown", "connected", "closed", "refused"]

_SOON = (10 * MILLISECOND, 20 * MILLISECOND)
"""Waits before the first and the second connect after a close: so at 10 and 30 ms."""
_BOUND = 100 * MILLISECOND  # for a connect that is to tell refusal from silence
_FIRST_BOUND = SECOND
_AGAIN = 250 * MILLISECOND
_RENEW = 600 * SECOND  # so that no table of connections on the way forgets this one
_RENEW_AGAIN = 10 * SECOND

_REFUSALS = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH})


class Presence:
    """`heard` tells when the watched instance was last heard from; `changed` is called when the state changes."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        *,
        heard: Callable[[], int | None],
        changed: Callable[[], None],
        clock: Callable[[], int],
        port: int = PORT,
    ) -> None:
        self._selector, self._port = selector, port
        self._heard, self._changed, self._clock = heard, changed, clock
        self.instance = ""
        self.state: State = "unknown"
        self.closed_at: int | None = None
        self._address = ""
        self._held: socket.socket | None = None
        self._trial: socket.socket | None = None
        self._trial_until = 0
        self._next = 0
        self._refusals = 0
        self._refused_at = 0

    def follow(self, instance: str, address: str) -> None:
        """Watch `instance` at `address` from now on; nobody when either is empty. The same again changes nothing."""
        if (instance, address) == (self.instance, self._address):
            return
        self._close_held()
        self._close_trial()
        self.instance, self._address = instance, address
        self.closed_at, self._refusals, self._next = None, 0, 0
        self._set("unknown")

    def renew(self) -> None:
        """The holder was silent and is heard again: whether this connection outlived that shows a new one."""
        if self._held is not None and self._trial is None:
            self._next = 0

    def due(self) -> int | None:
        """When `tick` has something to do; None for never."""
        if not self._address:
            return None
        return self._trial_until if self._trial is not None else self._next

    def tick(self, now: int) -> None:
        if not self._address:
            return
        if self._trial is not None:
            if now >= self._trial_until:
                self._failed(now, refused=False)
        elif now >= self._next:
            self._connect(now)

    def _connect(self, now: int) -> None:
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        trial = socket.socket(family, socket.SOCK_STREAM)
        trial.settimeout(0)
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
        self._trial = trial
        self._trial_until = now + (_BOUND if self.state in {"closed", "refused"} else _FIRST_BOUND)
        try:
            trial.connect((self._address, self._port))
        except BlockingIOError:
            self._selector.register(trial, selectors.EVENT_WRITE, self._decided)
        except OSError as error:
            # at once: no other kernel was asked, unless both are the same
            self._failed(now, refused=error.errno == errno.ECONNREFUSED)
        else:
            self._connected(now)

    def _decided(self) -> None:
        trial, now = self._trial, self._clock()
        if trial is None:
            return
        code = trial.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._failed(now, refused=code in _REFUSALS)
        else:
            self._connected(now)

    def _connected(self, now: int) -> None:
        trial, self._trial = self._trial, None
        if trial is None:
            return
        self._unregister(trial)
        self._close_held()
        self._held = trial
        self._selector.register(trial, selectors.EVENT_READ, self._readable)
        self._refusals, self._next = 0, now + _RENEW
        self._set("connected")

    def _failed(self, now: int, *, refused: bool) -> None:
        self._close_trial()
        if self._held is not None:
            if refused:
                # the connection at hand leads to something that is no more; that is no close that anybody saw
                self._close_held()
                self._next = now + _AGAIN
                self._set("unknown")
            else:
                self._next = now + _RENEW_AGAIN
            return
        self._next = now + _AGAIN
        if self.state != "closed":
            return
        if not refused:
            self._refusals = 0
        elif self._refusals == 0:
            self._refusals, self._refused_at = 1, now
            self._next = now + _SOON[1]
        elif (self._heard() or 0) > self._refused_at:
            self._refusals, self._refused_at = 1, now
        else:
            self._set("refused")

    def _readable(self) -> None:
        held, now = self._held, self._clock()
        if held is None:
            return
        by_kernel = True
        try:
            if held.recv(64):
                by_kernel = False  # whoever speaks here is not PID 1
        except (BlockingIOError, InterruptedError):
            return
        except ConnectionResetError:
            pass
        except OSError:
            by_kernel = False  # such as "no route": may be of this machine's own making
        self._close_held()
        self._close_trial()
        self._refusals = 0
        if by_kernel:
            self.closed_at = now
            self._next = now + _SOON[0]
            self._set("closed")
        else:
            self._next = now + _AGAIN
            self._set("unknown")

    def _set(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self._changed()

    def _close_held(self) -> None:
        if self._held is not None:
            self._unregister(self._held)
            self._held.close()
            self._held = None

    def _close_trial(self) -> None:
        if self._trial is not None:
            self._unregister(self._trial)
            self._trial.close()
            self._trial = None

    def _unregister(self, connection: socket.socket) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(connection)
