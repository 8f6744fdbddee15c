"""A data directory is made, started, configured and looked at."""

from __future__ import annotations

import pytest
from tests.postgres.pgbox import Box

from matriarch.postgres.standbynames import NOBODY

pytestmark = pytest.mark.timeout(240)


async def test_initdb_makes_a_database_and_bootstrap_can_be_repeated(box: Box) -> None:
    one = box.member(1)
    identifier = await one.server.initdb()
    await one.server.start_primary()
    for _ in range(2):
        await one.server.bootstrap_sql("app", "owner", "pä ss'w", "root")
    status = await one.server.status()
    assert status is not None
    assert (status.in_recovery, status.timeline, status.system_identifier) == (False, 1, identifier)
    assert status.standby_names == NOBODY
