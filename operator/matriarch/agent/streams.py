"""The members that stream from here, as the decisions see them."""

from __future__ import annotations

from collections.abc import Iterable

from matriarch.agent.postgres.facts import WalSender
from matriarch.decide.member import Member
from matriarch.decide.voters import Stream
from matriarch.postgres.conninfo import STREAM_ROLE


def streams_of(senders: Iterable[WalSender], flushed: int) -> list[Stream]:
    """Those of `senders` that are members. `flushed`: LSN up to which this primary's WAL is on its disk."""
    return [
        Stream(member, s.state == "streaming", max(0, flushed - s.flush_lsn))
        for s in senders
        if s.role == STREAM_ROLE and (member := Member.parse(s.application_name)) is not None
    ]
