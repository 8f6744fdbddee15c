"""What the demo prints: each step with its time, a sign of life when one takes long, a table at the end.

On a terminal a running step has one line that moves; elsewhere (a log, a pipe) it prints a line every few seconds.
Colour only on a terminal and only without NO_COLOR.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from dev.host import listen

QUIET = 2.0  # seconds that a step may take without a sign of life
EVERY = 5.0  # seconds between two lines where nothing moves
SIGNS = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


@dataclass(frozen=True, slots=True)
class Finished:
    """A line of the summary."""

    title: str
    seconds: float
    result: str


class Step:
    """The step at work. Set `note` to what is going on, `result` to what came out."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.note = ""
        self.result = ""

    def tick(self, _waited: float) -> None:
        """For waits that report progress: the sign of life is the display's business."""


class Display:
    """Prints to one stream; one step at a time."""

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._total = total
        self.live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._colour = self.live and not os.environ.get("NO_COLOR")
        self.finished: list[Finished] = []
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the display was made."""
        return time.monotonic() - self._started

    def paint(self, text: str, code: str) -> str:
        """`text` in a colour or weight, where there is any."""
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text

    def say(self, text: str = "") -> None:
        """A whole line."""
        print(text, file=self._stream, flush=True)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """A step from its start to its end; an exception ends it as failed and goes on its way."""
        step = Step(title)
        started = time.monotonic()
        number = f"[{len(self.finished) + 1:>2}/{self._total}]"
        if not self.live:
            self.say(f"{number} {title} ...")
        done = threading.Event()
        sign = threading.Thread(target=self._signs, args=(step, number, started, done), daemon=True)
        sign.start()
        failed = True
        listen(lambda text: setattr(step, "note", text))
        try:
            yield step
            failed = False
        finally:
            listen(None)
            done.set()
            sign.join()
            seconds = time.monotonic() - started
            mark = self.paint("failed", "31;1") if failed else self.paint("ok", "32")
            start = "\r\x1b[2K" if self.live else ""
            self.say(f"{start}{number} {title:<58} {mark} {seconds:6.1f} s")
            if step.result and not failed:
                for line in step.result.splitlines():
                    self.say(f"        {line}")
            if not failed:
                self.finished.append(Finished(title, seconds, step.result.splitlines()[0] if step.result else ""))

    def _signs(self, step: Step, number: str, started: float, done: threading.Event) -> None:
        turn = 0
        while not done.wait(0.1 if self.live else QUIET if turn == 0 else EVERY):
            seconds = time.monotonic() - started
            note = f": {step.note}" if step.note else ""
            if self.live:
                line = f"{number} {SIGNS[turn % len(SIGNS)]} {step.title}{note}"[:100]
                self._stream.write(f"\r\x1b[2K{line} {self.paint(f'{seconds:.0f} s', '2')}")
                self._stream.flush()
            else:
                self.say(f"        {seconds:5.0f} s{note or ': at work'}")
            turn += 1

    def summary(self) -> None:
        """All steps with their times, and what came out of each."""
        self.say()
        width = max(len(f.title) for f in self.finished)
        for finished in self.finished:
            self.say(f"  {finished.title:<{width}}  {finished.seconds:6.1f} s  {finished.result}")
        self.say(f"  {self.paint('all together', '1'):<{width}}  {self.seconds:6.1f} s")
