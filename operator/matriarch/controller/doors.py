"""Whether a cluster's instances let clients in: not while a Restore in place wants them out.

The agents read it from their configuration. It follows from the Restores as they are now and nothing is remembered, so
a Restore that fails or is deleted opens the door, whatever else is wrong with the cluster.
"""

from __future__ import annotations

import json

from matriarch.controller import application
from matriarch.controller.backup_around import over
from matriarch.controller.env import Env
from matriarch.controller.view import View
from matriarch.controller.wanted import published
from matriarch.decide.actions import Apply, Plan
from matriarch.decide.facts import Ref
from matriarch.decide.restore_application import keeps_out
from matriarch.decide.restore_facts import Step, StepState
from matriarch.resources import names
from matriarch.resources.config import KEY


async def closed_by(namespace: str, cluster: str, env: Env) -> tuple[str, str]:
    """uid and name of the Restore in place for which this cluster refuses clients; empty for none."""
    for found in await env.kube.list("Restore", namespace):
        spec, metadata = found.get("spec") or {}, found["metadata"]
        here = (spec.get("target") or {}).get("cluster") == cluster and spec.get("inPlace")
        if not here or over(found) or metadata.get("deletionTimestamp"):
            continue
        steps = {s.get("name"): s.get("state") for s in (found.get("status") or {}).get("steps") or ()}
        known = {Step(n): StepState(s) for n, s in steps.items() if n in set(Step) and s in set(StepState)}
        if keeps_out(known):
            return str(metadata["uid"]), str(metadata["name"])
    return "", ""


async def tell(view: View, plan: Plan, env: Env) -> None:
    """Of a plan that writes no configuration, such as under a spec that is refused: that much is told all the same."""
    document = published(view)
    before = (document or {}).get("closed_by") or ""
    if document is None or before == view.closed_by:
        return
    if before:
        await application.start_again(env, view.blueprint.namespace)
    ref = Ref("ConfigMap", names.config(view.blueprint.name))
    if Apply(ref) in plan.actions:
        return
    document = {**document, "generation": int(document.get("generation") or 0) + 1, "closed_by": view.closed_by}
    change = {
        "metadata": {"resourceVersion": view.existing[ref]["metadata"]["resourceVersion"]},
        "data": {KEY: json.dumps(document, sort_keys=True, indent=1)},
    }
    await env.kube.patch("ConfigMap", view.blueprint.namespace, ref.name, change)
