"""Which steps a Restore goes by, when it began under a version that had others."""

from __future__ import annotations

import pytest

from matriarch.api.restore import Restore
from matriarch.controller.restore_in_place import steps_of
from matriarch.decide.restore_facts import STEPS, Mode, Step, StepState

EARLIER = ("check", "verify", "safety-backup", "restore")


def restore(*steps: tuple[str, str]) -> Restore:
    return Restore.model_validate(
        {
            "metadata": {"name": "back", "namespace": "prod"},
            "spec": {
                "source": {"backup": {"name": "b"}},
                "target": {"cluster": "orders"},
                "inPlace": {"confirm": "orders"},
            },
            "status": {"steps": [{"name": name, "state": state} for name, state in steps]},
        }
    )


def test_what_was_added_since_counts_as_done_once_it_was_checked() -> None:
    begun = steps_of(
        restore(("check", "done"), ("verify", "running"), *((s, "pending") for s in EARLIER[2:])), Mode.IN_PLACE
    )
    left = [s for s in STEPS[Mode.IN_PLACE] if begun.get(s) is not StepState.DONE]
    assert left == [Step.VERIFY, Step.SAFETY, Step.RESTORE]


@pytest.mark.parametrize("steps", [(), (("check", "running"), ("verify", "pending"))])
def test_before_that_all_steps_are_gone_through(steps: tuple[tuple[str, str], ...]) -> None:
    """Which they are is known only then."""
    begun = steps_of(restore(*steps), Mode.IN_PLACE)
    assert [s for s in STEPS[Mode.IN_PLACE] if begun.get(s) is not StepState.DONE] == list(STEPS[Mode.IN_PLACE])


def test_of_this_version_nothing_is_skipped() -> None:
    names = [str(s) for s in STEPS[Mode.REPLACE]]
    begun = steps_of(restore((names[0], "done"), *((n, "pending") for n in names[1:])), Mode.REPLACE)
    assert [s for s in STEPS[Mode.REPLACE] if begun.get(s) is not StepState.DONE] == list(STEPS[Mode.REPLACE])[1:]
