"""What a person sees of the demo: nothing hidden when it fails, no escape codes where no terminal is."""

from __future__ import annotations

import io
import time

import pytest

from dev.demo import display
from dev.demo.display import Display


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_plain_lines_with_times_and_results() -> None:
    out = io.StringIO()
    shown = Display(2, out)
    with shown.step("First") as step:
        step.result = "what came out\nand more of it"
    with shown.step("Second"):
        pass
    shown.summary()
    text = out.getvalue()
    assert "\x1b" not in text
    assert "\r" not in text
    assert "[ 1/2] First ..." in text
    assert "        and more of it" in text
    assert "what came out" in text.split("Second ...")[1]


def test_a_failed_step_says_so_and_the_error_goes_on() -> None:
    out = io.StringIO()
    shown = Display(1, out)

    def doomed() -> None:
        with shown.step("Doomed") as step:
            step.result = "not to be shown"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        doomed()
    assert "failed" in out.getvalue()
    assert "not to be shown" not in out.getvalue()
    assert shown.finished == []


def test_a_long_step_gives_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "QUIET", 0.01)
    monkeypatch.setattr(display, "EVERY", 0.01)
    out = io.StringIO()
    with Display(1, out).step("Long") as step:
        step.note = "2 of 3 ready"
        for _ in range(500):
            if "2 of 3 ready" in out.getvalue():
                break
            time.sleep(0.01)
    assert "2 of 3 ready" in out.getvalue()


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colour_on_a_terminal_unless_the_user_does_not_want_it(
    monkeypatch: pytest.MonkeyPatch, no_color: str, coloured: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    assert ("\x1b[" in Display(1, Terminal()).paint("ok", "32")) is coloured
    assert "\x1b[" not in Display(1, io.StringIO()).paint("ok", "32")
