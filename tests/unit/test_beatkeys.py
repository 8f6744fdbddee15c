"""A key that is changed reaches the members at different times, and nobody is cut off by that."""

from __future__ import annotations

from pathlib import Path

import pytest

from matriarch.agent.beatkeys import BeatKeys
from matriarch.agent.clock import SECOND

OLD, NEW = b"a" * 32, b"b" * 32


def test_a_change_of_key(tmp_path: Path) -> None:
    file = tmp_path / "heartbeat.key"
    file.write_text(OLD.hex() + "\n")
    keys = BeatKeys(str(file))
    assert keys.speaking(0) is None
    assert keys.accepted(0) == ()
    assert keys.read(0) == ""
    assert keys.speaking(0) == OLD
    file.write_text(NEW.hex())
    assert keys.read(10 * SECOND) == ""
    assert keys.read(11 * SECOND) == ""  # read again and again, it changed once
    assert keys.speaking(11 * SECOND) == OLD  # others may not have the new one yet
    assert keys.accepted(11 * SECOND) == (NEW, OLD)
    assert keys.speaking(190 * SECOND) == NEW
    assert keys.accepted(190 * SECOND) == (NEW, OLD)
    assert keys.accepted(610 * SECOND) == (NEW,)


@pytest.mark.parametrize("text", ["", "xyz", "ab" * 31, "ab" * 33, None])
def test_a_key_that_cannot_be_read_leaves_the_former_in_force(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "heartbeat.key"
    file.write_text(OLD.hex())
    keys = BeatKeys(str(file))
    keys.read(0)
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    assert str(file) in keys.read(SECOND)
    assert keys.speaking(SECOND) == OLD
    assert keys.accepted(SECOND) == (OLD,)
