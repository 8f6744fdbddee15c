"""When a switchover begins a new WAL segment first: where it shortens the wait of clients, and holds up no stop."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from matriarch.agent.postgres.facts import WalSender
from matriarch.agent.stepdown import LITTLE, worth_a_segment
from matriarch.decide.lease import LeaseState
from matriarch.decide.member import Member
from matriarch.postgres.lsn import SEGMENT_SIZE

A, B, C = (Member(f"orders-{i}", f"{i}" * 12) for i in (1, 2, 3))
LEASE = LeaseState(epoch=5, holder=A, bootstrap="orders-1", mode="quorum", voters=(B, C), k=1, opened=True)
HERE = 7 * SEGMENT_SIZE + 9 * LITTLE


def sender(member: Member | str, **change: Any) -> WalSender:
    made = WalSender(
        pid=1, role="matriarch_stream", application_name=str(member), address="10.0.0.2", state="streaming",
        sent_lsn=HERE, flush_lsn=HERE, replay_lsn=HERE, slot=None, started=None,
    )  # fmt: skip
    return replace(made, **change)


BOTH = [sender(B), sender(C)]


def worth(lease: LeaseState = LEASE, at: int = HERE, senders: list[WalSender] = BOTH, **here: Any) -> bool:
    config = SimpleNamespace(archive=here.pop("archive", None))
    instance: Any = SimpleNamespace(server_role="primary", config=config, **here)
    return worth_a_segment(instance, lease, at, senders)


def test_with_voters_that_keep_up_it_is() -> None:
    assert worth()


@pytest.mark.parametrize("mode", ["alone", "async", "follow"])
def test_in_other_modes_it_is_not(mode: Any) -> None:
    assert not worth(replace(LEASE, mode=mode))


def test_of_a_segment_that_has_just_begun_little_is_copied() -> None:
    assert not worth(at=7 * SEGMENT_SIZE + LITTLE - 1)


def test_with_an_archive_postgresql_begins_one_itself() -> None:
    assert not worth(archive=object())


@pytest.mark.parametrize(
    "senders",
    [
        pytest.param([*BOTH, sender("site_b")], id="a replica cluster"),
        pytest.param([*BOTH, sender("pg_basebackup")], id="a copy"),
        pytest.param([sender(B)], id="a voter that is away"),
        pytest.param([sender(B), sender(C, state="catchup")], id="one that catches up"),
        pytest.param([sender(B), sender(C, flush_lsn=HERE - LITTLE)], id="one that is behind"),
        pytest.param([sender(B), sender(B)], id="the same one twice"),
    ],
)
def test_where_a_stop_would_wait_for_the_zeros_it_is_not(senders: list[WalSender]) -> None:
    assert not worth(senders=senders)
