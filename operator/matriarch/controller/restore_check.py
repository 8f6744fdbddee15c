"""The Job that looks at a backup before a Restore changes anything."""

from __future__ import annotations

from matriarch.api.restore import Restore
from matriarch.backup import jobspec
from matriarch.controller import backup_store
from matriarch.controller.backup_around import Around
from matriarch.controller.backup_task import job_wish
from matriarch.controller.env import Env
from matriarch.controller.restore_source import Source
from matriarch.kube.client import Object
from matriarch.resources import names
from matriarch.resources.job import JobWish


def report_to(restore: Restore) -> jobspec.Report:
    """Where the Jobs of this Restore write their progress."""
    metadata = restore.metadata
    return jobspec.Report(kind="Restore", namespace=metadata.namespace, name=metadata.name, uid=metadata.uid)


def check_job(
    env: Env, found: Object, restore: Restore, around: Around, source: Source, name: str, verify: jobspec.VerifyTask
) -> JobWish:
    """Reads and changes nothing. A new cluster has no account yet: that of the backed-up one may write the progress."""
    assert source.place is not None
    assert source.identity is not None
    task = jobspec.JobSpec(
        task="verify",
        cluster=source.identity,
        store=backup_store.spec(source.place),
        keys=backup_store.key_names(source.place),
        report=report_to(restore),
        verify=verify,
    )
    return job_wish(
        env,
        around,
        source.place,
        name=name,
        owner=found,
        purpose="verify",
        task=task,
        tls=None,
        version=source.version,
        account=names.backup_account(source.cluster.metadata.name) if source.cluster is not None else None,
    )
