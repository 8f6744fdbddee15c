"""How a cluster's backups stand as a whole: `status.backup` and some conditions of the DatabaseCluster.

Written under a field manager of its own, so that it never meets what the cluster's reconciler writes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from matriarch.controller import backup_key, objectives, schedule_cron, store_tending
from matriarch.controller.backup_around import OF_CLUSTER, Around, cluster_place, created, prepare
from matriarch.controller.backup_figures import figures
from matriarch.controller.backup_status import is_suspect, parse_time, rfc3339
from matriarch.controller.env import Env
from matriarch.controller.metrics import METRICS
from matriarch.controller.queue import Key
from matriarch.decide import keys_needed
from matriarch.decide.backups import HealthFacts, Phase, backup_health
from matriarch.decide.conditions import Condition, conditions
from matriarch.errors import Refused
from matriarch.kube.client import Object
from matriarch.kube.errors import NotFound

MANAGER = "matriarch-backup"
LOOK_EVERY = 60.0
"""Seconds: what is overdue is not told by any event."""
TYPES = (
    "BackupHealthy",
    "BackupsEncrypted",
    "BackupKeySaved",
    keys_needed.TYPE,
    "Restoring",
    "ObjectivesMet",
    "StoreIntact",
    "WalExpiry",
)


def wake(env: Env, cluster: Object) -> None:
    """Have a cluster's backups looked at: now if its conditions are of another spec, else within a minute."""
    metadata = cluster["metadata"]
    key = Key(OF_CLUSTER, metadata["namespace"], metadata["name"])
    conditions = (cluster.get("status") or {}).get("conditions") or ()
    ours = next((c for c in conditions if c.get("type") == TYPES[0]), None)
    if ours is None or ours.get("observedGeneration") != metadata.get("generation"):
        env.queue.add(key)
    else:
        env.queue.add_after(key, LOOK_EVERY)


async def report(env: Env, around: Around) -> None:
    """Write it if it is not what the cluster says already. Makes the encryption key, too, when the spec needs one."""
    cluster = around.cluster_object
    if cluster is None or around.cluster is None or cluster["metadata"].get("deletionTimestamp"):
        METRICS.clusters.pop((around.namespace, around.name), None)
        return
    place = cluster_place(around, None)
    secret: Object | None = None
    if place is not None:
        await prepare(env, around, place)
        if place.key is not None:
            secret = await env.kube.get("Secret", around.namespace, place.key.name)
    healthy = _healthy(around)
    aims = objectives.look(around)
    tended = await store_tending.tend(env, around)
    needed = backup_key.needs(around.backups)
    gone = keys_needed.keys_present(needed, await backup_key.present(env.kube, around.namespace, needed))
    wanted = [
        healthy,
        *_protection(around, secret),
        *([gone] if gone else []),
        *_restoring(around),
        *aims.conditions,
        *tended.conditions,
    ]
    status: dict[str, Any] = {"backup": _summary(around, secret)}
    if aims.status is not None:
        status["objectives"] = aims.status
    if tended.stores:
        status["backup"]["stores"] = list(tended.stores)
    there = cluster.get("status") or {}
    METRICS.clusters[around.namespace, around.name] = {
        **figures(
            there,
            status["backup"],
            around.backups,
            (healthy.status, healthy.reason),
            around.now,
            key_gone=gone is not None if needed else None,
        ),
        **aims.figures,
    }
    ours = [c for c in there.get("conditions") or () if c.get("type") in TYPES]
    generation = cluster["metadata"].get("generation", 0)
    status["conditions"] = conditions(ours, wanted, generation, rfc3339(around.now))
    same = status["backup"] == (there.get("backup") or {}) and aims.status == there.get("objectives")
    if same and status["conditions"] == ours:
        return
    metadata = {"name": around.name, "namespace": around.namespace}
    try:
        await env.kube.apply_status(
            {"kind": "DatabaseCluster", "metadata": metadata, "status": status}, manager=MANAGER
        )
    except NotFound:
        return  # deleted meanwhile: nothing is left to be healthy


def _healthy(around: Around) -> Condition:
    failed = _newest(around, Phase.FAILED)
    complete = _newest(around, Phase.COMPLETE)
    suspect = _newest(around, Phase.COMPLETE, suspect=True)
    failure = (failed or {}).get("status") or {}
    status, reason, message = backup_health(
        HealthFacts(
            configured=cluster_place(around, None) is not None,
            now=around.now,
            last_success=_finished(complete),
            last_failure=_finished(failed),
            last_failure_name=failed["metadata"]["name"] if failed else "",
            last_failure_message=(failure.get("error") or {}).get("message") or "see its conditions.",
            last_suspect=_finished(suspect),
            last_suspect_name=suspect["metadata"]["name"] if suspect else "",
            due=_due(around),
        )
    )
    return Condition("BackupHealthy", status, reason, message)


def _protection(around: Around, secret: Object | None) -> list[Condition]:
    place = cluster_place(around, None)
    if place is None:
        return []
    if place.key is None:
        message = "Backups are stored readable for everybody who can read the store, as spec.backup.encryption asks."
        return [Condition("BackupsEncrypted", "False", "Plaintext", message)]
    found = [Condition("BackupsEncrypted", "True", "Encrypted", f"Backups are encrypted with Secret {place.key.name}.")]
    if place.key.name != backup_key.made_for(around.name):
        return found  # a key that the user brought is the user's to keep
    if backup_key.saved(secret):
        message = "A person said that a copy of the encryption key is kept outside this Kubernetes cluster."
        found.append(Condition("BackupKeySaved", "True", "Saved", message))
    else:
        message = (
            f"Backups can be read with the key in Secret {place.key.name} alone, which would be lost with this "
            "Kubernetes cluster. Keep a copy of it elsewhere, then say so: "
            f"kubectl annotate secret {place.key.name} {backup_key.SAVED}=true"
        )
        found.append(Condition("BackupKeySaved", "False", "NotSaved", message))
    return found


def _restoring(around: Around) -> list[Condition]:
    """The doors of a new cluster open before its data is there: whoever waits for it waits for this to go."""
    if around.restoring is None:
        return []
    name = around.restoring["metadata"]["name"]
    message = f"Restore {name} is at work on this cluster's data: do not use it before that is complete."
    return [Condition("Restoring", "True", "RestoreInProgress", message)]


def _summary(around: Around, secret: Object | None) -> dict[str, Any]:
    complete, failed = _newest(around, Phase.COMPLETE), _newest(around, Phase.FAILED)
    status = (complete or {}).get("status") or {}
    place = cluster_place(around, None)
    success, failure = _finished(complete), _finished(failed)
    found = {
        "lastBackup": complete["metadata"]["name"] if complete else None,
        "lastBackupName": status.get("backupName"),
        "lastSuccessAt": rfc3339(success) if success else None,
        "lastFailureAt": rfc3339(failure) if failure else None,
        "store": (status.get("store") or {}).get("name"),
        "keyId": backup_key.fingerprint(secret, place.key.key if place and place.key else None),
    }
    return {key: value for key, value in found.items() if value is not None}


def _newest(around: Around, phase: Phase, *, suspect: bool = False) -> Object | None:
    ended = [
        b
        for b in around.backups
        if (b.get("status") or {}).get("phase") == phase and _finished(b) and is_suspect(b) == suspect
    ]
    return max(ended, key=lambda b: (str(_finished(b)), b["metadata"]["name"]), default=None)


def _finished(backup: Object | None) -> datetime | None:
    return parse_time(((backup or {}).get("status") or {}).get("finishedAt"))


def _due(around: Around) -> dict[str, datetime | None]:
    """The newest time at which each schedule should have made a backup."""
    found: dict[str, datetime | None] = {}
    for schedule in around.schedules:
        spec = schedule["spec"]
        if spec.get("suspend"):
            continue
        try:
            last = schedule_cron.fires(spec["cron"], spec.get("timeZone") or "UTC", around.now).last
        except Refused:
            continue  # its own conditions say so
        found[schedule["metadata"]["name"]] = last if last is not None and last > created(schedule) else None
    return found
