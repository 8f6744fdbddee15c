"""A Restore that is to bring a cluster's data, into a new cluster or in place: whether it still may."""

from __future__ import annotations

from dataclasses import replace

from matriarch.controller.env import Env
from matriarch.controller.view import View


async def hold(view: View, env: Env) -> str:
    """While a Restore is to fill the first volume, what is made goes with the resource: it was never anybody's data.

    Why that Restore will not do it any more, as a sentence; empty while it may.
    """
    wish, lease = view.facts.wish, view.lease
    if lease is not None and lease.state.suspended:
        return await _suspension(view, env)
    if not (lease.state.held if lease is not None else bool(wish.restore) and not _began(view)):
        return ""
    b = view.blueprint
    view.blueprint = replace(b, defaults=replace(b.defaults, deletion_policy="Delete"))
    found = await env.kube.get("Restore", b.namespace, wish.restore_name) if wish.restore_name else None
    uid = lease.state.filling.restore if lease is not None and lease.state.filling is not None else wish.restore
    if found is None or found["metadata"]["uid"] != uid:
        return f"Restore {wish.restore_name or uid}, which was to bring the data, is gone."
    if (found.get("status") or {}).get("phase") == "Failed":
        return f"Restore {wish.restore_name}, which was to bring the data, failed."
    return ""


def _began(view: View) -> bool:
    """Whether anything shows that this is not a new cluster: a Lease, though it cannot be read, or a volume.

    Without the Lease nothing says whether a Restore has yet to fill that one, so it is kept as the spec wants.
    """
    claims = any(ref.kind == "PersistentVolumeClaim" for ref in view.existing)
    return view.lease_object is not None or claims or bool(view.facts.memory.system_identifier)


async def _suspension(view: View, env: Env) -> str:
    """Why the Restore in place that holds this cluster up will not go on, as a sentence; empty while it may."""
    assert view.lease is not None
    assert view.lease.state.filling is not None
    uid = view.lease.state.filling.restore
    restores = await env.kube.list("Restore", view.blueprint.namespace)
    found = next((r for r in restores if r["metadata"]["uid"] == uid), None)
    if found is None or found["metadata"].get("deletionTimestamp"):
        return f"The Restore of uid {uid} is gone."
    name = view.restore_name = str(found["metadata"]["name"])
    phase = (found.get("status") or {}).get("phase")
    return f"Restore {name} is over ({phase})." if phase in ("Failed", "Complete") else ""
