"""What a member said is durable, never lowered, and never guessed."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from matriarch.agent.memberfiles import MemberFiles
from matriarch.errors import Corrupt, Refused


@pytest.fixture
def files(tmp_path: Path) -> MemberFiles:
    return MemberFiles(tmp_path / "member")


@pytest.mark.parametrize("word", ["promise", "fenced"])
def test_an_epoch_is_remembered_and_only_grows(files: MemberFiles, word: str) -> None:
    read, write = getattr(files, word), getattr(files, f"write_{word}")
    assert read() == 0
    write(3)
    write(3)
    write(7)
    with pytest.raises(Refused, match="epoch 7 already is"):
        write(6)
    assert read() == 7
    assert getattr(MemberFiles(files.folder), word)() == 7
    assert json.loads((files.folder / f"{word}.json").read_text()) == {"epoch": 7}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"epoch": "3"}', '{"epoch": -1}', '{"epoch": true}', "{}"])
def test_a_promise_that_cannot_be_read_is_not_no_promise(files: MemberFiles, text: str) -> None:
    (files.folder / "promise.json").write_text(text)
    with pytest.raises(Corrupt, match=r"promise\.json"):
        files.promise()
    with pytest.raises(Corrupt):
        files.write_promise(9)


def test_an_incarnation_lasts_until_the_claim_is_another(files: MemberFiles) -> None:
    assert files.incarnation() is None
    first = files.ensure_incarnation("claim-1")
    assert files.ensure_incarnation("claim-1") == first
    copied = files.ensure_incarnation("claim-2")  # a volume made from a snapshot of the first
    assert copied.id != first.id
    assert files.incarnation() == copied
    renewed = files.renew_incarnation("claim-2")
    assert renewed.id not in {first.id, copied.id}
    assert files.ensure_incarnation("claim-2") == renewed


def test_without_the_claims_uid_there_is_no_incarnation(files: MemberFiles) -> None:
    with pytest.raises(Refused, match="MATRIARCH_CLAIM_UID"):
        files.ensure_incarnation("")
    assert files.incarnation() is None


def test_copies_of_lease_and_config(files: MemberFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    assert files.lease() is None
    assert files.config() is None
    files.write_lease({"spec": {"holderIdentity": "orders-1"}})
    files.write_config({"cluster": "orders"})
    assert files.lease() == {"spec": {"holderIdentity": "orders-1"}}
    assert files.config() == {"cluster": "orders"}
    monkeypatch.setattr(os, "fsync", lambda _: pytest.fail("the disk was asked for nothing"))
    files.write_lease({"spec": {"holderIdentity": "orders-1"}})


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_interrupted_anywhere_the_old_content_is_whole(
    files: MemberFiles, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    files.write_promise(3)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if step == "fsync":
            patch.setattr(os, "fsync", crash)
        else:
            patch.setattr(Path, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            files.write_promise(4)
    assert MemberFiles(files.folder).promise() == 3
    files.write_promise(5)  # what the crash left behind is in nobody's way
    assert files.promise() == 5


def test_content_reaches_the_disk_before_its_name_and_the_name_before_the_answer(
    files: MemberFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        steps.append("folder" if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir() else "file")
        fsync(descriptor)

    def watched_replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    files.write_promise(1)
    assert steps == ["file", "rename", "folder"]


def test_a_hung_write_never_takes_a_later_promise_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = MemberFiles(tmp_path / "member")
    hung, goes_on = threading.Event(), threading.Event()
    write = MemberFiles._write

    def slow(self: MemberFiles, name: str, content: dict[str, object]) -> None:
        if content["epoch"] == 5:  # the disk hangs between the look at the known promise and the write
            hung.set()
            goes_on.wait(5)
        write(self, name, content)

    monkeypatch.setattr(MemberFiles, "_write", slow)
    first = threading.Thread(target=files.write_promise, args=(5,))
    first.start()
    assert hung.wait(5)
    later = threading.Thread(target=files.write_promise, args=(7,))
    later.start()
    later.join(0.2)  # it waits for the first one; without that it would be through by now
    goes_on.set()
    first.join(5)
    later.join(5)
    assert files.promise() == 7
