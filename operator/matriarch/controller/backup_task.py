"""The Jobs that work beside a cluster: what all of them share, and the task of a backup."""

from __future__ import annotations

from matriarch.api.database_cluster import DatabaseCluster
from matriarch.backup import jobspec
from matriarch.controller import backup_store
from matriarch.controller.backup_around import Around
from matriarch.controller.backup_store import Place
from matriarch.controller.env import Env
from matriarch.decide.chain import MAX_INCREMENTS
from matriarch.errors import Refused
from matriarch.kube.client import Object
from matriarch.resources import names
from matriarch.resources.job import COMMAND, MEMORY, PGDATA, TENDING_MEMORY, JobWish

SCHEDULE_LABEL = "matriarch.dev/schedule"
SCHEDULED_FOR = "matriarch.dev/scheduled-for"
RESTORE = "matriarch.dev/restore"
"""Annotation on the safety Backup of a Restore: its name."""


def backup_job(env: Env, backup: Object, around: Around, place: Place, name: str, member: str | None = None) -> JobWish:
    """The Job that makes the backup whose name the status holds. `member`: a physical one, of this instance's files."""
    metadata, status = backup["metadata"], backup["status"]
    primary = backup["spec"].get("target") == "primary"
    # Before data is replaced: a standby may not have replayed all that was acknowledged.
    all_of_it = primary and RESTORE in (metadata.get("annotations") or {})
    write, read = f"{around.name}-rw", f"{around.name}-ro"
    prefer: jobspec.Prefer = "primary-only" if all_of_it else "primary" if primary else "standby"
    server = jobspec.ServerSpec(hosts=(write,) if primary else (read, write), prefer=prefer)
    if member is not None:
        host = names.member_host(around.name, around.namespace, member)
        server = jobspec.ServerSpec(hosts=(host,), prefer="primary-only" if all_of_it else "any")
    task = jobspec.JobSpec(
        task="backup",
        cluster=identity(around),
        store=backup_store.spec(place),
        keys=backup_store.key_names(place),
        server=server,
        report=jobspec.Report(kind="Backup", namespace=around.namespace, name=metadata["name"], uid=metadata["uid"]),
        backup=jobspec.BackupTask(
            name=status["backupName"],
            method=backup["spec"].get("method") or "logical",
            pgdata=None if member is None else PGDATA,
            max_increments=increments(backup["spec"]) if member is not None else None,
            compression=status.get("compression") != "none",
            encryption=place.key is not None,
            scheduled_for=(metadata.get("annotations") or {}).get(SCHEDULED_FOR),
            resource=metadata["name"],
            schedule=(metadata.get("labels") or {}).get(SCHEDULE_LABEL),
            sweep=not backup_store.deletes_apart(place),
        ),
    )
    tls = names.backup_tls(around.name)
    return job_wish(env, around, place, name=name, owner=backup, purpose="backup", task=task, tls=tls, member=member)


def increments(spec: Object) -> int | None:
    """The most that a chain may have; None where a full backup is asked for."""
    if (wanted := spec.get("incremental")) is None:
        return None
    return int(wanted.get("maxIncrements") or MAX_INCREMENTS)


def identity(around: Around) -> jobspec.ClusterIdentity:
    """Whose backups these are."""
    cluster = around.cluster
    return jobspec.ClusterIdentity(
        namespace=around.namespace,
        name=around.name,
        uid=cluster.metadata.uid if cluster else "",
        system_identifier=cluster.status.system_identifier if cluster else None,
    )


def job_wish(
    env: Env,
    around: Around,
    place: Place,
    *,
    name: str,
    owner: Object,
    purpose: str,
    task: jobspec.JobSpec,
    tls: str | None,
    version: str | None = None,
    account: str | None = None,
    password: str | None = None,
    suspended: bool = False,
    keep: bool = False,
    member: str | None = None,
    command: tuple[str, ...] = COMMAND,
    deleting: bool = False,
) -> JobWish:
    """What all Jobs beside a cluster share: its image, its nodes, its account.

    `version` is the major version of PostgreSQL, `account` the ServiceAccount where there is no cluster to ask.
    """
    cluster = around.cluster
    scheduling = cluster.spec.scheduling if cluster else None
    return JobWish(
        name=name,
        namespace=around.namespace,
        cluster=around.name,
        owner=owner,
        image=image(env, cluster, version),
        task=task.to_json(),
        purpose=purpose,
        account=names.backup_account(around.name) if cluster is not None else account,
        pull_secrets=tuple(s.name for s in (cluster.spec.image_pull_secrets if cluster else None) or ()),
        tls=tls,
        key=backup_store.key_files(place),
        store=backup_store.store_files(place, deleting=deleting),
        claim=backup_store.claim(place),
        node_selector=dict((scheduling.node_selector if scheduling else None) or {}),
        tolerations=tuple(
            t.model_dump(by_alias=True, exclude_none=True)
            for t in (scheduling.tolerations if scheduling else None) or ()
        ),
        password=password,
        suspended=suspended,
        keep=keep,
        member=member,
        command=command,
        memory=MEMORY if command == COMMAND else TENDING_MEMORY,
    )


def image(env: Env, cluster: DatabaseCluster | None, version: str | None = None) -> str:
    """The postgres image: the cluster's own choice, else the operator's for its major version.

    Raises Refused when this operator has none for it.
    """
    if cluster is not None and cluster.spec.image:
        return cluster.spec.image
    images = env.settings.postgres_images
    wanted = cluster.spec.version if cluster is not None else (version or max(images, key=int))
    if wanted not in images:
        known = ", ".join(sorted(images))
        raise Refused(f"This operator runs PostgreSQL {known}, not {wanted}.", reason="UnsupportedVersion")
    return images[wanted]
