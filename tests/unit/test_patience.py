"""How long a call of a store is tried: by what its failures mean, until the limit, or until somebody says stop."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from matriarch.backup.jobspec import Reason
from matriarch.backup.patience import patiently
from matriarch.backup.stop import Stop
from matriarch.backup.store import Exists
from matriarch.errors import MatriarchError, Refused, Unavailable


class Quick(Stop):
    """Its pauses pass at once, and are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.check()
        self.pauses.append(seconds)


def explain(error: Exception) -> MatriarchError:
    if isinstance(error, PermissionError):
        return Refused("no", reason=Reason.CREDENTIALS_REFUSED)
    return Unavailable("away", reason=Reason.STORE_UNAVAILABLE)


def failing(*errors: Exception) -> Callable[[], str]:
    left = list(errors)

    def once() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return once


def test_it_waits_longer_each_time_and_never_long() -> None:
    stop = Quick()
    found = patiently(failing(*[OSError()] * 7), explain, settled=(Exists,), limit=99, stop=stop)
    assert (found, stop.pauses) == ("done", [0.5, 1, 2, 4, 8, 10, 10])


@pytest.mark.parametrize(("error", "limit", "wanted"), [
    (OSError(), 0, Unavailable), (PermissionError(), 99, Refused), (Exists("k"), 99, Exists),
])  # fmt: skip
def test_what_ends_it_at_once(error: Exception, limit: float, wanted: type[Exception]) -> None:
    stop = Quick()
    with pytest.raises(wanted):
        patiently(failing(error), explain, settled=(Exists,), limit=limit, stop=stop)
    assert stop.pauses == []


def test_a_stop_ends_the_waiting() -> None:
    stop = Quick()
    stop.set()
    with pytest.raises(Unavailable) as error:
        patiently(failing(OSError()), explain, settled=(), limit=99, stop=stop)
    assert error.value.reason == Reason.CANCELLED
