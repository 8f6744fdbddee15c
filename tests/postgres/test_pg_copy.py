"""Data directories come about whole or not at all, whenever the agent is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from matriarch.agent.postgres import processes
from matriarch.agent.postgres.facts import CloneProgress
from matriarch.errors import Corrupt, Refused, Unavailable
from matriarch.postgres.conninfo import Upstream
from tests.postgres.pgbox import Box, Member, eventually, streaming

pytestmark = pytest.mark.timeout(300)

PROJECT = Path(__file__).parents[2]


async def test_a_database_is_never_initialised_twice(box: Box) -> None:
    one = box.member(1)
    await one.server.initdb()
    with pytest.raises(Refused, match="never initialised again"):
        await one.server.initdb()


async def test_initdb_killed_at_any_time_starts_over(box: Box) -> None:
    one = box.member(1)
    for delay in (0.3, 0.6, 1.0, 1.5):
        await _kill_after(one, delay, "initdb", None)
        left = sorted(p.name for p in one.paths.volume.iterdir())
        if "pgdata" in left:
            break  # it was faster
    await one.restart_agent()
    if await one.server.control_data() is None:
        await one.server.initdb()
    assert sorted(p.name for p in one.paths.volume.iterdir()) == ["pgdata"]
    await one.server.start_primary()
    assert await one.value("SELECT 1", database="postgres") == 1


async def test_a_clone_killed_at_any_time_starts_over(box: Box) -> None:
    one = await box.primary()
    await one.sql("CREATE TABLE t AS SELECT i, repeat('x', 500) FROM generate_series(1, 40000) AS i")
    two = box.member(2)
    await one.server.ensure_slots({two.slot: None})
    for delay in (0.4, 0.8, 1.2, 1.6, 2.4):
        await _kill_after(two, delay, "clone", two.upstream(one))
        await two.restart_agent()
        left = sorted(p.name for p in two.paths.volume.iterdir())
        assert left in ([], ["pgdata"])
        if left:
            break
    else:
        await two.server.clone(two.upstream(one))
    await two.server.start_standby(two.upstream(one))
    await streaming(one, two)
    assert await two.value("SELECT count(*) FROM t") == 40000


async def test_the_tools_of_a_dead_agent_are_ended(box: Box) -> None:
    """The supervisor restarts an agent alone; its pg_basebackup would go on beside the next one's."""
    one = await box.primary()
    two = box.member(2)
    await one.server.ensure_slots({two.slot: None})
    (checkpointer,) = one.children("checkpointer")
    os.kill(checkpointer, signal.SIGSTOP)  # so that the base backup waits for its checkpoint
    agent = await _agent(two, "clone", two.upstream(one))
    await eventually(lambda: processes.strays(two.paths.pgdata), "its base backup runs")
    agent.kill()
    await agent.wait()
    assert processes.strays(two.paths.pgdata)
    await two.restart_agent()
    assert processes.strays(two.paths.pgdata) == []
    os.kill(checkpointer, signal.SIGCONT)
    await two.server.clone(two.upstream(one))
    await two.server.start_standby(two.upstream(one))
    await streaming(one, two)


async def test_a_clone_tells_its_progress_and_ends_when_it_stalls(box: Box) -> None:
    one = await box.primary()
    two = box.member(2)
    await one.server.ensure_slots({two.slot: None})
    told: list[CloneProgress] = []
    await two.server.clone(two.upstream(one), progress=told.append)
    assert {p.step for p in told} == {"copy", "verify"}
    assert told[-1].done_bytes > 1 << 20
    (checkpointer,) = one.children("checkpointer")
    os.kill(checkpointer, signal.SIGSTOP)
    with pytest.raises(Unavailable, match="did not go on"):
        await two.server.clone(two.upstream(one), stall=1.5)
    os.kill(checkpointer, signal.SIGCONT)
    assert processes.strays(two.paths.pgdata) == []
    await two.server.start_standby(two.upstream(one))  # what was there before is there still
    await streaming(one, two)


async def test_a_damaged_clone_is_thrown_away(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await box.primary()
    two = box.member(2)
    await one.server.ensure_slots({two.slot: None})
    verify = box.bin / "pg_verifybackup"
    original = verify.read_text()
    # between copy and check one byte of the copy changes
    flip = f"import pathlib; p = pathlib.Path({str(two.paths.volume)!r}) / 'pgdata.new/base/1/PG_VERSION'\n"
    flip += "p.write_bytes(b'18\\n')\n"
    verify.write_text(original.replace("import ctypes", flip + "import ctypes", 1))
    with pytest.raises(Corrupt, match="damaged"):
        await two.server.clone(two.upstream(one))
    assert not two.paths.pgdata.exists()
    verify.write_text(original)
    await two.server.clone(two.upstream(one))
    assert two.paths.pgdata.exists()


async def test_a_clone_must_not_lead_before_it_is_consistent(box: Box) -> None:
    one = await box.primary()
    two = box.member(2)
    await one.server.ensure_slots({two.slot: None})
    await two.server.clone(two.upstream(one))
    with pytest.raises(Refused, match="must not lead"):
        await two.server.start_primary()


async def test_a_rewind_killed_half_way_is_never_started(box: Box) -> None:
    one, two = await _diverged(box)
    rewind = box.bin / "pg_rewind"
    original = rewind.read_text()
    # the second run, the one that changes files, is killed by nobody but the test
    rewind.write_text(original.replace("import ctypes", _STOP_WHEN_REAL + "import ctypes", 1))
    agent = await _agent(one, "rewind", one.upstream(two))
    marker = one.paths.volume / "pgdata.rewinding"
    while not marker.exists():
        assert agent.returncode is None
        await asyncio.sleep(0.02)
    agent.kill()
    await agent.wait()
    await one.restart_agent()
    assert processes.strays(one.paths.pgdata) == []
    for start in (one.server.start_primary(), one.server.start_standby(one.upstream(two))):
        with pytest.raises(Refused, match="clone it anew"):
            await start
    result = await one.server.rewind(one.upstream(two))
    assert (result.done, result.unusable) == (False, True)
    await one.server.clone(one.upstream(two))
    assert sorted(p.name for p in one.paths.volume.iterdir()) == ["pgdata"]
    await one.server.start_standby(one.upstream(two))
    await streaming(two, one)


async def test_a_rewind_that_cannot_work_changes_nothing(box: Box) -> None:
    one, two = await _diverged(box)
    await one.server.start_standby(None)
    position = await one.server.vote_position()
    assert await one.server.stop("fast")
    assert await two.server.stop("fast")
    before = _contents(one.paths.pgdata)
    result = await one.server.rewind(one.upstream(two))  # nobody is there to rewind from
    assert (result.done, result.unusable) == (False, False)
    assert "refused" in result.reason
    assert _contents(one.paths.pgdata) == before
    await two.server.start_primary()
    segments = sorted((one.paths.pgdata / "pg_wal").glob("00000001*"))
    kept = [(segment, segment.read_bytes()) for segment in segments]
    for segment in segments:  # the WAL back to the fork is gone
        segment.unlink()
    before = _contents(one.paths.pgdata)
    result = await one.server.rewind(one.upstream(two))
    assert (result.done, result.unusable) == (False, False)
    assert result.reason
    assert _contents(one.paths.pgdata) == before
    for segment, content in kept:
        segment.write_bytes(content)
    await one.server.start_standby(None)
    assert await one.server.vote_position() == position


async def test_a_finished_clone_takes_its_place_after_a_crash(box: Box) -> None:
    """Killed between any two of the renames that replace the old directory by the clone."""
    one = await box.primary()
    two = await box.standby(2, one)
    assert await two.server.stop("fast")
    volume = two.paths.volume
    for state in (("pgdata", "pgdata.ready"), ("pgdata.old", "pgdata.ready"), ("pgdata.old", "pgdata")):
        _lay_out(volume, state)
        (volume / "pgdata.rewinding").write_text("from before\n")
        await two.restart_agent()
        assert (volume / "pgdata" / "mark").read_text() == state[1]
        left = {p.name for p in volume.iterdir()} - {"pgdata.rewinding"}
        assert left == {"pgdata"}
    _lay_out(volume, ("pgdata.old", "pgdata.new"))  # only what is whole may be called pgdata
    await two.restart_agent()
    assert (volume / "pgdata" / "mark").read_text() == "pgdata.old"


_STOP_WHEN_REAL = """\
import sys, time
if "--dry-run" not in sys.argv:
    time.sleep(120)
"""


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _lay_out(volume: Path, names: tuple[str, str]) -> None:
    """Two directories of `names`, each with a mark that says which it was."""
    for path in volume.iterdir():
        path.rename(path.with_name(f"gone-{os.urandom(4).hex()}")) if path.is_dir() else path.unlink()
    gone = next(volume.glob("gone-*"))
    for other in volume.glob("gone-*"):
        if other != gone:
            other.rename(volume.parent / other.name)
    gone.rename(volume.parent / gone.name)
    for name in names:
        (volume / name).mkdir()
        (volume / name / "mark").write_text(name)


async def _diverged(box: Box) -> tuple[Member, Member]:
    """An old primary that was stopped with WAL of its own, and the one that replaced it."""
    one = await box.primary()
    two = await box.standby(2, one)
    await one.server.confirm_flushed(await one.server.write_record(), [two.name], 1)
    await two.server.cut_stream()
    await one.sql("CREATE TABLE lost AS SELECT generate_series(1, 1000) AS i")
    assert await one.server.stop("fast")
    await two.server.set_standby_names("")
    await two.server.promote(2)
    await two.server.ensure_slots({one.slot: None})
    return one, two


async def _agent(member: Member, call: str, upstream: Upstream | None) -> asyncio.subprocess.Process:
    task = {
        "paths": [str(getattr(member.paths, name)) for name in ("volume", "run", "secret", "bin")],
        "identity": list(asdict(member.identity).values()),
        "settings": asdict(member.settings),
        "log": str(member.log),
        "call": call,
        "upstream": asdict(upstream) if upstream else None,
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.postgres.pgagent", json.dumps(task),
        cwd=PROJECT, env={**os.environ, "PYTHONPATH": "operator:."},
    )  # fmt: skip


async def _kill_after(member: Member, delay: float, call: str, upstream: Upstream | None) -> None:
    """SIGKILL of the agent and all its tools, as when the pod dies, `delay` seconds after its start."""
    agent = await _agent(member, call, upstream)
    await asyncio.sleep(delay)
    if agent.returncode is None:
        agent.kill()
    for pid in processes.strays(member.paths.pgdata):
        os.kill(pid, signal.SIGKILL)
    await agent.wait()
