"""The exchange of a data directory for what a Restore brought, cut off anywhere; and what is cleared away when."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from matriarch.agent.loop import Loop
from matriarch.agent.postgres import files
from matriarch.agent.postgres.facts import Identity, Paths
from matriarch.agent.postgres.replacing import Replacing
from matriarch.agent.replaced import ReplacedData
from matriarch.decide.lease import LeaseState, filled, initial, suspended
from matriarch.decide.member import Member
from matriarch.errors import Corrupt, Refused
from matriarch.postgres.restored import MARK

LED = LeaseState(epoch=3, holder=Member("orders-1", "a"), bootstrap="orders-1", system_identifier="7")


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    directory(tmp_path / "pgdata", "old")
    directory(tmp_path / "pgdata.restored-r1", "new", "r1")
    return tmp_path


def directory(path: Path, content: str, restore: str = "") -> None:
    path.mkdir()
    (path / "PG_VERSION").write_text(content)
    if restore:
        (path / MARK).write_text(json.dumps({"restore": restore, "result": {}}))


def server(volume: Path) -> Replacing:
    return Replacing(
        Paths(volume=volume, run=volume / "run"), Identity("orders", "p", "orders-1", "", ""), cast(Any, None)
    )


def contents(volume: Path) -> dict[str, str]:
    return {p.name: (p / "PG_VERSION").read_text() for p in sorted(volume.glob("pgdata*"))}


EXCHANGED = {"pgdata": "new", "pgdata.before-r1": "old"}


def test_what_was_restored_is_the_data_and_what_was_there_is_kept(volume: Path) -> None:
    (volume / "pgdata.rewinding").mkdir()
    (volume / "pgdata.rewinding").rmdir()
    one = server(volume)
    assert asyncio.run(one.beside()) == ("r1",)
    assert asyncio.run(one.filled_by()) == ""
    asyncio.run(one.exchange("r1"))
    assert contents(volume) == EXCHANGED
    assert asyncio.run(one.filled_by()) == "r1"
    assert asyncio.run(one.beside()) == ()
    assert asyncio.run(one.kept()) == ("r1",)


@pytest.mark.parametrize("step", range(1, 5))
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_anywhere_it_is_finished_by_the_next(
    volume: Path, monkeypatch: pytest.MonkeyPatch, step: int, when: str
) -> None:
    calls = 0
    with monkeypatch.context() as patch:
        for name in ("rename_durably", "remove_durably"):
            real = getattr(files, name)

            def dies(*args: Any, real: Any = real) -> Any:
                nonlocal calls
                calls += 1
                if calls == step and when == "before":
                    raise Killed
                done = real(*args)
                if calls == step:
                    raise Killed
                return done

            patch.setattr(files, name, dies)
        if step <= 3:
            with pytest.raises(Killed):
                server(volume)._exchange("r1")
        else:
            server(volume)._exchange("r1")
            assert calls == 3, "a step has come that is not tested"
    again = server(volume)
    asyncio.run(again.settle())  # as an agent begins: nothing of it is thrown away
    assert set(contents(volume).values()) == {"old", "new"}
    if asyncio.run(again.filled_by()) != "r1":  # what the role asks
        asyncio.run(again.exchange("r1"))
    assert contents(volume) == EXCHANGED


def test_only_what_is_whole_and_of_that_restore_takes_the_place(volume: Path) -> None:
    one = server(volume)
    with pytest.raises(Refused, match="not the whole"):
        asyncio.run(one.exchange("r2"))
    (volume / "pgdata.restored-r1" / MARK).unlink()
    assert asyncio.run(one.beside()) == ()
    with pytest.raises(Refused, match="not the whole"):
        asyncio.run(one.exchange("r1"))
    (volume / "pgdata.restored-r1" / MARK).write_text(json.dumps({"restore": "r3"}))
    with pytest.raises(Refused, match="not the whole"):
        asyncio.run(one.exchange("r1"))
    assert contents(volume) == {"pgdata": "old", "pgdata.restored-r1": "new"}


def test_data_that_is_kept_is_never_written_over(volume: Path) -> None:
    directory(volume / "pgdata.before-r1", "older")
    with pytest.raises(Refused, match="there already"):
        asyncio.run(server(volume).exchange("r1"))
    assert contents(volume)["pgdata"] == "old"


# --- what is cleared away --------------------------------------------------------------------------------------------


def instance(volume: Path, lease: LeaseState | None, *, fresh: bool = True, forget: tuple[str, ...] = ()) -> Any:
    return SimpleNamespace(
        server=server(volume),
        lease=lease,
        leases=SimpleNamespace(fresh=fresh),
        config=SimpleNamespace(forget=forget),
        config_fresh=fresh,
        kept_data=(),
    )


def test_replaced_data_goes_when_it_is_confirmed_and_not_before(volume: Path) -> None:
    directory(volume / "pgdata.before-r0", "older")
    (volume / "pgdata.restored-r1").rename(volume / "elsewhere")
    one = instance(volume, LED)
    asyncio.run(ReplacedData(one).look())
    assert one.kept_data == ("r0",)
    asyncio.run(ReplacedData(instance(volume, LED, forget=("r1", "r"))).look())
    asyncio.run(ReplacedData(instance(volume, LED, forget=("r0",), fresh=False)).look())
    assert "pgdata.before-r0" in contents(volume)
    one = instance(volume, LED, forget=("r0",))
    asyncio.run(ReplacedData(one).look())
    assert contents(volume) == {"pgdata": "old"}
    assert one.kept_data == ()


@pytest.mark.parametrize(
    "lease",
    [None, suspended(LED, "r1"), filled(suspended(LED, "r1"), "r1"), suspended(LED, "r2"), initial("orders-1", "r1")],
)
def test_a_copy_stays_while_the_lease_may_still_want_it(volume: Path, lease: LeaseState | None) -> None:
    asyncio.run(ReplacedData(instance(volume, lease)).look())
    assert "pgdata.restored-r1" in contents(volume)


def test_a_copy_that_nobody_waits_for_goes(volume: Path) -> None:
    asyncio.run(ReplacedData(instance(volume, LED, fresh=False)).look())
    assert "pgdata.restored-r1" in contents(volume), "a Lease of yesterday says nothing"
    (volume / "pgdata.restored-r2").mkdir()  # half removed by an agent that was killed over it
    (volume / "pgdata.restored-r2" / "PG_VERSION").write_text("half")
    asyncio.run(ReplacedData(instance(volume, LED)).look())
    assert contents(volume) == {"pgdata": "old"}


def test_data_that_cannot_be_read_does_not_stand_in_the_way_of_what_replaces_it(volume: Path) -> None:
    """The case of a restore without a safety backup: there is no control file, and the Lease names this very member."""

    async def damaged() -> None:
        raise Corrupt("no control file")

    def looking(lease: LeaseState) -> Loop:
        one = SimpleNamespace(server=SimpleNamespace(control_data=damaged), lease=lease, system_identifier="")
        loop = Loop.__new__(Loop)
        loop._instance, loop._timeline = cast(Any, one), 0
        loop._follower = cast(Any, SimpleNamespace(doctor=SimpleNamespace(unreadable=lambda _: False)))
        return loop

    assert asyncio.run(looking(filled(suspended(LED, "r1"), "r1"))._data()) == "broken"
    assert asyncio.run(looking(suspended(LED, "r1"))._data()) == "broken"
    with pytest.raises(Corrupt):
        asyncio.run(looking(LED)._data())
