"""The fuzzer's corpus, replayed: what once reached new code, or broke a property, still keeps all of them."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.edits import edited
from tests.fuzz.run import CORPUS
from tests.fuzz.targets import TARGETS, made

REPLAYED = 60  # of a target, drawn anew in every run; what was found once is always among them


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_every_input_keeps_the_property(name: str) -> None:
    target = TARGETS[name]
    made()  # what this process held before counts from here
    folder = CORPUS / name
    kept = sorted(folder.iterdir()) if folder.exists() else []
    found = [p for p in kept if p.name.startswith("found-")]
    others = [p for p in kept if p not in found]
    for path in (*found, *random.sample(others, min(REPLAYED, len(others)))):
        target.run(path.read_bytes())
    seeds = list(target.seeds())
    for seed in random.sample(seeds, min(10, len(seeds))):
        target.run(seed)


def test_the_seeds_are_the_data_itself() -> None:
    """A property that everything keeps because nothing is ever read would prove nothing."""
    TARGETS["restore"].run(b"\0")  # no edit: restores, and compares
    assert edited(made().sealed, b"") == made().sealed
    changed = edited(made().sealed, b"\0\0\0\0\0\0\1")
    assert sum(changed[k] != made().sealed[k] for k in changed) == 1


def test_the_corpus_is_there() -> None:
    assert {p.name for p in CORPUS.iterdir()} >= set(TARGETS)
