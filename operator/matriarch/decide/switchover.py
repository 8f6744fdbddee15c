"""When the primary is changed on purpose, and what the status remembers of it.

`spec.primary` is carried out once per value: after a failover away from it nothing goes back by itself, or two healthy
instances would take turns. The annotation is one shot: it succeeds, or is refused with a reason; writing another value
(`orders-2@2`, any text after an `@`) asks again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from matriarch.decide.actions import Action, Announce, BeginSwitchover
from matriarch.decide.facts import Facts, Memory, Switchover
from matriarch.decide.verdict import Standing, Verdict

GIVE_UP = timedelta(seconds=60)
"""A switchover takes under a second; the holder aborts by itself. This is for a holder that died over it."""

RECLAIMED = timedelta(seconds=3)
"""A holder that handed over, and serves so long after the beginning, took the lead back from a silent heir."""

PAUSE = timedelta(seconds=30)
"""Between two attempts, so that a wish which fails every time does not keep clients out again and again."""


def remember(facts: Facts, now: datetime) -> Memory:
    """The memory brought up to date with what is seen now."""
    memory = facts.memory
    lease = facts.lease
    if lease is not None:
        memory = replace(memory, system_identifier=lease.system_identifier or memory.system_identifier)
    running = memory.switchover
    if running is not None and running.state == "running":
        memory = replace(memory, switchover=_progress(facts, running, now))
    if facts.holder is not None and facts.holder != memory.holder:
        wished = running is not None and running.state == "running" and running.to == facts.holder
        failed_over = now if memory.holder is not None and not wished else memory.failed_over
        memory = replace(memory, holder=facts.holder, failed_over=failed_over)
    wanted = facts.wish.primary
    if wanted != memory.primary_handled and (wanted is None or wanted == facts.holder):
        memory = replace(memory, primary_handled=wanted)
    if facts.wish.request is None and memory.request_handled is not None:
        memory = replace(memory, request_handled=None)
    return memory


def _progress(facts: Facts, running: Switchover, now: datetime) -> Switchover:
    if facts.holder == running.to:
        return replace(running, state="done", finished=now, message=f"{running.to} is primary.")
    holder = facts.get(facts.holder) if facts.holder else None
    told = holder.agent.switchover if holder is not None and holder.agent is not None else None
    ended = told is not None and told[0] == running.to and told[1] != "running" and facts.serving
    if told is not None and ended and (told[1] == "aborted" or now - running.started >= RECLAIMED):
        message = told[2] or f"{running.to} did not take over in time; {facts.holder} took the lead back."
        return replace(running, state="aborted", finished=now, message=message)
    if now - running.started >= GIVE_UP:
        message = f"No change of the primary within {GIVE_UP.seconds} s; {facts.holder} leads on."
        return replace(running, state="aborted", finished=now, message=message)
    return running


def news(before: Memory, after: Memory) -> list[Action]:
    """Events about what changed since the last look."""
    found: list[Action] = []
    if after.failed_over != before.failed_over:
        found.append(Announce("FailedOver", f"{after.holder} is primary now, after {before.holder}.", warning=True))
    was, now = before.switchover, after.switchover
    if was is not None and now is not None and was.state == "running" and now.state != "running":
        reason = "SwitchedOver" if now.state == "done" else "SwitchoverAborted"
        found.append(Announce(reason, now.message, warning=now.state != "done"))
    return found


def begun(memory: Memory, action: BeginSwitchover, now: datetime) -> Memory:
    """Written down as running; `execute` corrects it when the holder refuses."""
    return replace(memory, switchover=Switchover(action.to, "running", now, action.why))


def too_soon(memory: Memory, now: datetime) -> bool:
    """The last attempt failed a moment ago."""
    last = memory.switchover
    return last is not None and last.state == "aborted" and now - (last.finished or last.started) < PAUSE


def paused(memory: Memory, note: Verdict, now: datetime) -> Verdict:
    """`note`, and why nothing is done about it now."""
    last = memory.switchover
    if last is None or not too_soon(memory, now):
        return note
    failed = f"The last attempt failed ({last.message.rstrip('.')}); it is tried again after {PAUSE.seconds} s."
    return Verdict(note.standing, note.reason, f"{note.message} {failed}")


def best_target(facts: Facts, *, among: frozenset[str]) -> str | None:
    """The streaming voter that is wanted most: priority, then least lag, then lowest number."""
    holder = facts.get(facts.holder) if facts.holder else None
    lag = {s.instance: s.lag_bytes or 0 for s in (holder.agent.streams if holder and holder.agent else ())}
    candidates = [
        i for i in facts.streaming_voters & among if (found := facts.get(i)) and found.agent and found.agent.ready
    ]
    order = {name: n for n, name in enumerate(sorted(candidates))}
    return min(
        candidates,
        key=lambda i: (-facts.wish.priorities.get(i, 100), lag.get(i, 0), order[i]),
        default=None,
    )


def asked_for(facts: Facts, memory: Memory, now: datetime) -> tuple[list[Action], Memory, Verdict | None]:
    """What the user asked for: the annotation first, then spec.primary."""
    if facts.wish.request is not None and facts.wish.request != memory.request_handled:
        return _by_annotation(facts, memory, facts.wish.request, now)
    wanted = facts.wish.primary
    if wanted is None or wanted == memory.primary_handled or wanted == facts.holder:
        return [], memory, None
    problem = _obstacle(facts, wanted)
    if problem is not None:
        return [], memory, Verdict(Standing.WORKING, "SwitchoverPending", f"spec.primary is {wanted}: {problem}")
    note = Verdict(Standing.WORKING, "SwitchingOver", f"Switching over to {wanted}, which spec.primary names.")
    if too_soon(memory, now):
        return [], memory, paused(memory, note, now)
    assert facts.holder is not None
    action = BeginSwitchover(facts.holder, wanted, "spec.primary")
    return [action], begun(memory, action, now), note


def _by_annotation(
    facts: Facts, memory: Memory, request: str, now: datetime
) -> tuple[list[Action], Memory, Verdict | None]:
    target = request.partition("@")[0].strip()
    memory = replace(memory, request_handled=request)
    if target == facts.holder:
        done = Switchover(target, "done", now, "annotation", f"{target} is primary already.", now)
        return [], replace(memory, switchover=done), None
    problem = _obstacle(facts, target)
    if problem is not None:
        refused = Switchover(target, "aborted", now, "annotation", problem, now)
        event: Sequence[Action] = [Announce("SwitchoverRefused", f"Switchover to {target}: {problem}", warning=True)]
        return list(event), replace(memory, switchover=refused), None
    assert facts.holder is not None
    action = BeginSwitchover(facts.holder, target, "annotation")
    note = Verdict(Standing.WORKING, "SwitchingOver", f"Switching over to {target}, as the annotation asks.")
    return [action], begun(memory, action, now), note


def _obstacle(facts: Facts, target: str) -> str | None:
    """Why `target` cannot take over now, as half a sentence that says what to do."""
    if target not in facts.wish.instances:
        return f"{target} is not one of {', '.join(facts.wish.instances)}; name one of them."
    if not facts.serving:
        return "there is no primary that could hand over; wait until the cluster is available."
    if target not in facts.streaming_voters:
        return f"{target} does not stream as a voter now; wait until it is ready."
    return None
