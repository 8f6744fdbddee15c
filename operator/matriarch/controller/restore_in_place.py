"""What a Restore in place looks at besides its Jobs: the cluster's Lease, its doors, and the application."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from matriarch.api.restore import Restore
from matriarch.controller import application, restore_recovery
from matriarch.controller.backup_around import Around
from matriarch.controller.env import Env
from matriarch.decide.restore_facts import STEPS, HoldFacts, Mode, Step, StepState, Workload
from matriarch.kube.errors import Forbidden


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Fields of RestoreFacts of the same names; what a step does not need is not looked at."""

    hold: HoldFacts | None = None
    pods: restore_recovery.Pods = field(default_factory=restore_recovery.Pods)
    unaware: tuple[str, ...] = ()
    selects: str | None = None
    workloads: tuple[Workload, ...] = ()
    refused: str | None = None


async def look(env: Env, restore: Restore, around: Around, mode: Mode, step: Step | None) -> Seen:
    """Of a Restore into a new cluster only the Lease."""
    namespace, in_place = around.namespace, restore.spec.in_place
    if mode is Mode.RECOVER:
        return Seen(hold=await restore_recovery.look_hold(env, namespace, around.name))
    if in_place is None:
        return Seen()
    hold = await restore_recovery.look_hold(env, namespace, around.name)
    pods = restore_recovery.Pods()
    unaware: tuple[str, ...] = ()
    if hold is not None and step in (Step.CHECK, Step.CLOSE, Step.OPEN, Step.STOP):
        ask = step is not Step.STOP or hold.restore != restore.metadata.uid
        pods = await restore_recovery.look_pods(env, around, hold.instance, ask=ask)
        # Who does not answer is waited for before instances are stopped, and not where he may be ill.
        unaware = (*pods.old, *pods.silent) if step is Step.STOP and not in_place.skip_safety_backup else pods.old
    chosen = application.selector(restore)
    if chosen is None or step not in (Step.CHECK, Step.STOP_APPLICATION, Step.START_APPLICATION):
        return Seen(hold=hold, pods=pods, unaware=unaware)
    selects = ",".join(f"{k}={v}" for k, v in sorted(chosen.items()))
    try:
        workloads = await application.look(env, namespace, chosen, ends=step is Step.STOP_APPLICATION)
    except Forbidden as e:  # rights of an older version of the operator
        return Seen(hold=hold, pods=pods, unaware=unaware, refused=str(e))
    return Seen(hold=hold, pods=pods, unaware=unaware, selects=selects, workloads=workloads)


def steps_of(restore: Restore, mode: Mode) -> Mapping[Step, StepState]:
    """As the status has them. One that began under an earlier version lists the steps of that version, and goes on by
    those: what was added since counts as done."""
    known = {Step(s.name): StepState(s.state) for s in restore.status.steps}
    if known.get(Step.CHECK) is StepState.DONE:
        return {**{s: StepState.DONE for s in STEPS[mode] if s not in known}, **known}
    return known
