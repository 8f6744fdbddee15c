"""A tag stands for exactly what goes into an image."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dev import images
from dev.hostconfig import Archives, archives_in, debian_archives

if TYPE_CHECKING:
    from pathlib import Path

PARTS = st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=5)), max_size=5)


@given(PARTS, st.randoms())
def test_order_does_not_matter(parts: list[tuple[str, bytes]], chance: random.Random) -> None:
    shuffled = list(parts)
    chance.shuffle(shuffled)
    assert images.digest(parts) == images.digest(shuffled)


def test_names_and_contents_cannot_be_mistaken_for_each_other() -> None:
    variants = [[("a", b"bc")], [("ab", b"c")], [("a", b""), ("b", b"c")], [("a", b"b"), ("c", b"")], []]
    assert len({images.digest(v) for v in variants}) == len(variants)


@pytest.fixture
def copy(tmp_path: Path) -> images.Recipe:
    return images.RECIPES["postgres"].copied_to(tmp_path / "copy")


def test_a_copy_is_the_same_image_as_the_tree(copy: images.Recipe) -> None:
    again = copy.copied_to(copy.root.with_name("again"))
    assert images.image_tag(copy, "base") == images.image_tag(again, "base")


def test_every_input_changes_the_tag(copy: images.Recipe) -> None:
    def tags() -> tuple[str, str]:
        return images.runtime_tag(copy, "base"), images.image_tag(copy, "base")

    runtime, image = tags()
    assert images.image_tag(copy, "other base") != image
    (copy.package / "more.py").write_text("x = 1\n")
    assert tags()[0] == runtime
    changed = tags()[1]
    assert changed != image
    (copy.package / "more.py").rename(copy.package / "renamed.py")
    assert tags()[1] not in {image, changed}
    (copy.package / "renamed.py").unlink()
    assert tags() == (runtime, image)
    library = copy.folder / "matriarch_syncwait.c"
    source = library.read_bytes()
    library.write_bytes(source + b"/* changed */")
    assert tags()[0] != runtime
    library.write_bytes(source)
    copy.requirements.write_text("x==1\n")
    assert tags()[0] != runtime
    assert tags()[1] != image


def test_what_is_compiled_does_not_change_the_tag(copy: images.Recipe) -> None:
    before = images.image_tag(copy, "base")
    (copy.package / "__pycache__").mkdir()
    (copy.package / "__pycache__" / "x.pyc").write_bytes(b"x")
    assert images.image_tag(copy, "base") == before


def test_a_copy_holds_nothing_but_what_the_image_may_have(copy: images.Recipe) -> None:
    (copy.root / "copy-of").mkdir()
    shutil.rmtree(copy.root / "copy-of")
    assert {p.name for p in copy.root.iterdir()} == {"images", "requirements", "operator"}


MAIN, SECURITY = "http://archive.example.org/debian", "http://archive.example.org/debian-security"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"deb {MAIN} trixie main\n", Archives(MAIN)),
        (f"deb [signed-by=/x] {MAIN}/ trixie main", Archives(MAIN)),
        (f"Types: deb\nURIs: {MAIN}\nSuites: trixie\n\nTypes: deb\nURIs: {SECURITY}/\n", Archives(MAIN, SECURITY)),
        (f"deb {SECURITY} trixie-security main\n", Archives(None, SECURITY)),
        (f"# deb {MAIN} trixie main\n", Archives()),
        ("deb https://example.com/apt stable main\n", Archives()),
        ("", Archives()),
    ],
)
def test_debians_archives_are_found_in_apts_sources(text: str, expected: Archives, tmp_path: Path) -> None:
    assert archives_in(text) == expected
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources").write_text(text)
    assert debian_archives(tmp_path) == expected


def test_images_get_security_updates() -> None:
    assert Archives(MAIN, SECURITY).sources("trixie").splitlines() == [
        f"deb {MAIN} trixie main",
        f"deb {MAIN} trixie-updates main",
        f"deb {SECURITY} trixie-security main",
    ]
    assert Archives().sources("trixie") == ""
