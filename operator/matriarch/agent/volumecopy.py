"""Keeps the newest of what the API server has on the volume too, without anybody waiting for the disk.

An agent that starts while the API server is away goes by it, so an old copy is worth mending: a write that fails is
tried again until it is there, or until there is something newer.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from matriarch.errors import MatriarchError

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds


class VolumeCopy:
    """`write` replaces the copy and is durable when it returns. It is called by one thread, with the newest alone."""

    def __init__(self, what: str, write: Callable[[dict[str, Any]], None]) -> None:
        self._what, self._write = what, write
        self._wanted: dict[str, Any] | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def keep(self, content: dict[str, Any]) -> None:
        """Returns at once."""
        with self._changed:
            self._wanted = content
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"copy of {self._what}", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            with self._changed:
                while self._wanted is None:
                    self._changed.wait()
                content = self._wanted
            try:
                self._write(content)
            except (MatriarchError, OSError) as error:
                log.error("the copy of %s could not be written: %s", self._what, error)
                with self._changed:
                    if self._wanted is content:
                        self._changed.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            pause = FIRST_PAUSE
            with self._changed:
                if self._wanted is content:
                    self._wanted = None
