"""The encryption key that the operator makes for a cluster: once, and never again without being asked.

It is kept when the cluster is deleted. When it is gone although backups were made with it, no second one is made in its
place: backups that nobody can read any more are a loss that a person must see, not a detail to paper over.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterable
from dataclasses import replace

from matriarch.backup.keys import Kek
from matriarch.controller.backup_store import Place, key_id
from matriarch.decide.backups import Need, Phase
from matriarch.decide.keys_needed import Needs
from matriarch.kube.client import Kube, Object
from matriarch.kube.errors import Conflict
from matriarch.resources.job import labels
from matriarch.resources.storefiles import KEY

KEY_ID = "matriarch.dev/key-id"
SAVED = "matriarch.dev/saved"
"""Set to `true` by a person who keeps a copy of the key outside the Kubernetes cluster."""

log = logging.getLogger(__name__)


def made_for(cluster: str) -> str:
    """Name of the Secret that the operator makes."""
    return f"{cluster}-backup-key"


def depends(secret: str, backups: Iterable[Object]) -> str | None:
    """A Backup that was begun with the key of this Secret."""
    for backup in backups:
        status = backup.get("status") or {}
        if (status.get("keySecret") or {}).get("name") == secret and status.get("backupName"):
            return str(backup["metadata"]["name"])
    return None


def needs(backups: Iterable[Object]) -> list[Needs]:
    """Which Secret each complete, encrypted Backup needs."""
    found = []
    for backup in backups:
        status = backup.get("status") or {}
        secret = (status.get("keySecret") or {}).get("name")
        if secret and status.get("phase") == Phase.COMPLETE:
            found.append(Needs(backup["metadata"]["name"], secret))
    return found


async def present(kube: Kube, namespace: str, needed: Iterable[Needs]) -> frozenset[str]:
    """Those of the Secrets that are there and not on their way out, with something in them."""
    found = set()
    for name in {need.secret for need in needed}:
        secret = await kube.get("Secret", namespace, name)
        if secret is not None and secret.get("data") and not secret["metadata"].get("deletionTimestamp"):
            found.add(name)
    return frozenset(found)


async def ensure(kube: Kube, namespace: str, cluster: str, place: Place, backups: Iterable[Object]) -> None:
    """Make the key if it is ours to make and was never made. A name that the user chose is the user's to fill."""
    if place.key is None or place.key.name != made_for(cluster) or (place.key.key or KEY) != KEY:
        return
    if await kube.get("Secret", namespace, place.key.name) is not None or depends(place.key.name, backups):
        return
    key = Kek.generate()
    text = base64.b64encode(key.secret)
    try:
        await kube.create(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "Opaque",
                "metadata": {
                    "name": place.key.name,
                    "namespace": namespace,
                    "labels": labels(cluster, "key"),
                    "annotations": {KEY_ID: key.id},
                },
                "data": {KEY: base64.b64encode(text).decode()},
            }
        )
    except Conflict:
        return  # another replica of the operator was faster: its key is the key
    log.info("made encryption key %s for the backups of %s/%s", key.id, namespace, cluster)


def say_lost(needs: tuple[Need, ...], place: Place, cluster: str, backups: Iterable[Object]) -> tuple[Need, ...]:
    """A key that is gone although backups need it is more than a missing Secret: say what is at stake."""
    if place.key is None or place.key.name != made_for(cluster):
        return needs
    holder = depends(place.key.name, backups)
    if holder is None:
        return needs
    lost = (
        f"Secret {place.key.name} is gone, and backups such as Backup {holder} can be read with its key alone. Put "
        "your copy of it back. If there is none, those backups are lost: delete their Backup resources, and a new key "
        "is made."
    )
    return tuple(
        replace(need, found=frozenset(need.keys), problem=lost, reason="KeyLost")
        if need.name == place.key.name and need.found is None
        else need
        for need in needs
    )


def fingerprint(secret: Object | None, entry: str | None) -> str | None:
    """The key's public name, from the key itself."""
    return key_id(secret, entry or KEY)


def saved(secret: Object | None) -> bool:
    """A person says that a copy is kept elsewhere."""
    annotations = ((secret or {}).get("metadata") or {}).get("annotations") or {}
    return str(annotations.get(SAVED, "")).lower() in ("true", "yes")
