"""A Secret that live backups need does not go in silence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matriarch.controller.backup_figures import figures
from matriarch.controller.backup_key import needs
from matriarch.decide.keys_needed import Needs, keys_present

names = st.sampled_from(["a", "b", "c"])


@given(st.lists(st.builds(Needs, names, names)), st.frozensets(names))
def test_it_speaks_exactly_when_one_is_missing(needed: list[Needs], present: frozenset[str]) -> None:
    found = keys_present(needed, present)
    missing = {n.secret for n in needed} - present
    assert (found is not None) == bool(missing)
    if found is not None:
        assert (found.type, found.status, found.reason) == ("BackupKeysPresent", "False", "KeyGone")
        assert all(f"Secret {name}," in found.message for name in missing)


def test_the_message_is_bounded() -> None:
    found = keys_present([Needs(f"nightly-{i}", "orders-backup-key") for i in range(400)], frozenset())
    assert found is not None
    assert "and 397 more" in found.message
    assert len(found.message) < 400


@pytest.mark.parametrize(
    ("status", "needed"),
    [
        ({"phase": "Complete", "keySecret": {"name": "k"}}, [Needs("b", "k")]),
        ({"phase": "Complete"}, []),  # in the clear
        ({"phase": "Failed", "keySecret": {"name": "k"}}, []),
        ({"phase": "Running", "keySecret": {"name": "k"}}, []),
        ({}, []),
    ],
)
def test_which_backups_need_a_key(status: dict[str, object], needed: list[Needs]) -> None:
    assert needs([{"metadata": {"name": "b"}, "status": status}]) == needed
    assert needs([{"metadata": {"name": "b"}}]) == []


def test_the_figure_behind_the_alert() -> None:
    assert figures({}, {}, [], key_gone=True)["matriarch_backup_key_gone"] == 1
    assert figures({}, {}, [], key_gone=False)["matriarch_backup_key_gone"] == 0
    assert "matriarch_backup_key_gone" not in figures({}, {}, [])
