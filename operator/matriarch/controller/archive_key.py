"""The key of a cluster that archives before it has made its first backup: made now, by the rules of backups' keys."""

from __future__ import annotations

from matriarch.controller import backup_key, backup_store
from matriarch.controller.env import Env
from matriarch.controller.view import View


async def ensure(view: View, env: Env) -> None:
    """Nothing for a cluster that does not archive, or whose key is the user's to make."""
    b = view.blueprint
    wanted, key = b.defaults.wal_archive, backup_store.key_of(b.defaults)
    if wanted is None or key is None or key.name != backup_key.made_for(b.name):
        return
    if await env.kube.get("Secret", b.namespace, key.name) is not None:
        return
    store = next(s for s in (b.cluster.spec.backup.stores if b.cluster.spec.backup else ()) if s.name == wanted.name)
    place = backup_store.Place(store=store, folder="", key=key, cluster=b.name)
    backups = [o for o in await env.kube.list("Backup", b.namespace) if o["spec"]["cluster"] == b.name]
    await backup_key.ensure(env.kube, b.namespace, b.name, place, backups)
