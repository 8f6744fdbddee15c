"""The process of a backup Job: `python -m matriarch.backup.job` with its task in MATRIARCH_JOB.

It reports to the status of its resource as well as it can, and leaves its result in the termination log and its exit
code. SIGTERM ends it cleanly: children killed, uploads aborted, nothing half done that could pass as done.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from matriarch.backup import backup, catalog, expire, jobresult, jobspec, names, restore
from matriarch.backup.jobresult import BackupResult, DatabaseResult, Going, PhysicalResult, Result
from matriarch.backup.jobspec import Exit, JobSpec, Reason
from matriarch.backup.keys import Kek
from matriarch.backup.manifest import Opened, Physical
from matriarch.backup.names import timestamp
from matriarch.backup.progress import Tracker, size
from matriarch.backup.server import Server
from matriarch.backup.stop import Stop
from matriarch.backup.store import Store, open_store
from matriarch.errors import Corrupt, MatriarchError, Refused

log = logging.getLogger(__name__)

EVERY = 2.0  # seconds between reports
LAST_WORD = 3.0  # seconds for the one at the end
GOING = 20  # backups that are named beforehand


@dataclass(slots=True)
class Job:
    """One run. `folder` is where keys are mounted; tests use another one."""

    spec: JobSpec
    folder: str = jobspec.KEY_FOLDER
    tracker: Tracker = field(default_factory=Tracker)
    stop: Stop = field(default_factory=Stop)

    async def run(self) -> Result:
        """Do the task; every outcome is a Result."""
        spec = self.spec
        work = asyncio.ensure_future(self._work())
        loop = asyncio.get_running_loop()

        def end() -> None:
            self.stop.set()
            work.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end)
        reporter = asyncio.ensure_future(self._report())
        try:
            result = await work
            if result.ok:
                self.tracker.step("Done")
            return result
        except asyncio.CancelledError:
            message = "The Job was told to stop; nothing of this attempt is left behind."
            return Result(ok=False, task=spec.task, reason=Reason.CANCELLED, message=message, retryable=True)
        except MatriarchError as error:
            return _failure(spec, error)
        except Exception as error:
            log.exception("unexpected")
            message = f"{type(error).__name__}: {error}"[:500]
            return Result(ok=False, task=spec.task, reason=Reason.INTERNAL, message=message, retryable=True)
        finally:
            reporter.cancel()
            await asyncio.gather(reporter, return_exceptions=True)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def _work(self) -> Result:
        spec = self.spec
        keys = await asyncio.to_thread(self._keys)
        store = open_store(spec.store, self.stop)
        match spec.task:
            case "backup":
                return await self._backup(store, keys)
            case "restore":
                return await self._restore(store, keys)
            case "verify":
                return await asyncio.to_thread(self._verify, store, keys)
            case "delete":
                return await asyncio.to_thread(self._delete, store, keys)
            case "retain":
                return await asyncio.to_thread(self._retain, store, keys)
            case "list":
                return await asyncio.to_thread(self._list, store)
            case "recover":
                raise Refused("Recoveries have a process of their own.", reason=Reason.BAD_SPEC)
            case "drill":
                raise Refused("Drills are made by matriarch.drill.job.", reason=Reason.BAD_SPEC)
            case "tend":
                return await asyncio.to_thread(self.tend, store, keys)

    def tend(self, store: Store, keys: tuple[Kek, ...]) -> Result:
        """The archive's part, which this layer does not know: see archive.tend."""
        raise Refused("A store is tended to by matriarch.archive.tend.", reason=Reason.BAD_SPEC)

    def _keys(self) -> tuple[Kek, ...]:
        return tuple(Kek.read(Path(self.folder) / name) for name in self.spec.keys)

    async def _backup(self, store: Store, keys: tuple[Kek, ...]) -> Result:
        spec, task = self.spec, self.spec.backup
        assert task is not None
        assert spec.server is not None
        if task.method == "physical":
            opened = await self._physical(store, keys)
            warnings, holds = opened.body.warnings, size(opened.body.size)
        else:
            request = backup.Request(
                store=store,
                servers=[Server.from_spec(spec.server, host) for host in spec.server.hosts],
                prefer=spec.server.prefer,
                key=keys[0] if keys else None,
                task=task,
                cluster=spec.cluster,
                tracker=self.tracker,
                stop=self.stop,
            )
            opened, warnings = await backup.backup(request)
            holds = f"{opened.body.tables} tables with {opened.body.rows} rows"
        result = Result(
            ok=True,
            task="backup",
            reason=Reason.COMPLETED,
            message=f"{opened.body.name} holds {holds}.",
            backup=describe(store, opened),
            warnings=warnings,
        )
        # From here on the backup counts, whatever happens to the housekeeping.
        try:
            self.tracker.step("Retaining")
            swept = await asyncio.to_thread(catalog.sweep, store) if task.sweep else []
            if swept:
                log.info("removed what dead backups left: %s", ", ".join(swept))
            if task.retention is not None:
                system = opened.body.origin.system_identifier
                done = await asyncio.to_thread(expire.retain, store, keys, task.retention, system)
                note = (done.frozen,) if done.frozen else ()
                result = replace(result, deleted=done.deleted, backups=done.kept, warnings=(*warnings, *note))
        except MatriarchError as error:
            result = replace(result, warnings=(*result.warnings, f"Old backups could not be removed: {error}"))
        return result

    async def _physical(self, store: Store, keys: tuple[Kek, ...]) -> Opened:
        """The engine's part for a member whose files are mounted here."""
        # numpy and zstandard: only those who read files pay for them
        from matriarch.backup.physical import backup as physical

        spec, task = self.spec, self.spec.backup
        assert task is not None
        assert task.pgdata is not None
        assert spec.server is not None
        chosen = names.parse(task.name) if task.name is not None else None
        if task.name is not None and chosen is None:
            raise Refused(f"{task.name!r} is no name of a backup.", reason=Reason.BAD_SPEC)
        return await physical.backup(
            physical.Request(
                store=store,
                server=Server.from_spec(spec.server, spec.server.hosts[0]),
                pgdata=Path(task.pgdata),
                key=keys[0] if keys else None,
                chosen=chosen,
                encryption=task.encryption,
                max_increments=task.max_increments,
                primary_only=spec.server.prefer == "primary-only",
                cluster=spec.cluster,
                resource=task.resource,
                schedule=task.schedule,
                scheduled_for=task.scheduled_for,
                tracker=self.tracker,
                stop=self.stop,
            )
        )

    async def _restore(self, store: Store, keys: tuple[Kek, ...]) -> Result:
        spec, task = self.spec, self.spec.restore
        assert task is not None
        assert spec.server is not None
        request = restore.Request(
            store=store,
            servers=[Server.from_spec(spec.server, host) for host in spec.server.hosts],
            keys=keys,
            task=task,
            tracker=self.tracker,
            stop=self.stop,
        )
        done = await restore.restore(request)
        message = (
            f"{done.backup_name} is restored: {done.tables} tables with {done.rows} rows are equal to the backup's."
        )
        return Result(ok=True, task="restore", reason=Reason.COMPLETED, message=message, restore=done)

    def _verify(self, store: Store, keys: tuple[Kek, ...]) -> Result:
        task = self.spec.verify
        assert task is not None
        opened = restore.find_trusted(store, task.backup, keys, task.allow_unencrypted, task.method)
        what = opened.body.name
        if opened.body.physical is None:
            restore.check_object(store, opened, self.tracker, self.stop)
        else:
            from matriarch.backup.physical import restore as physical

            below = physical.verify(store, opened, self.tracker, self.stop, keys=keys)
            what += f" and of the {len(below)} backups that it builds on" if below else ""
        message = f"Every byte of {what} is as it was written."
        return Result(ok=True, task="verify", reason=Reason.COMPLETED, message=message, backup=describe(store, opened))

    def _delete(self, store: Store, keys: tuple[Kek, ...]) -> Result:
        task = self.spec.delete
        assert task is not None
        store.check()
        gone = expire.delete(store, task.backups, keys, allow_last_good=task.allow_last_good)
        message = f"{len(gone)} backups are deleted."
        return Result(ok=True, task="delete", reason=Reason.COMPLETED, message=message, deleted=gone)

    def _retain(self, store: Store, keys: tuple[Kek, ...]) -> Result:
        rules = self.spec.retain
        assert rules is not None
        store.check()
        if store.get(catalog.OWNER) is None:
            return Result(
                ok=True, task="retain", reason=Reason.COMPLETED, message="The store holds no backup yet.", backups=0
            )
        catalog.sweep(store)
        done = expire.retain(store, keys, rules, self.spec.cluster.system_identifier)
        message = done.frozen or f"{len(done.deleted)} backups are deleted, {done.kept} stay."
        soonest = sorted(done.waiting.items(), key=lambda named: (named[1], named[0]))
        return Result(
            ok=True,
            task="retain",
            reason=Reason.COMPLETED,
            message=message,
            deleted=done.deleted,
            backups=done.kept,
            warnings=(done.frozen,) if done.frozen else (),
            going=tuple(Going(name=name, after=timestamp(after)) for name, after in soonest[:GOING]),
            going_count=len(done.waiting),
        )

    def _list(self, store: Store) -> Result:
        store.check()
        known = catalog.read_catalog(store)
        return Result(
            ok=True,
            task="list",
            reason=Reason.COMPLETED,
            message=f"The store holds {len(known.manifests)} backups.",
            backups=len(known.manifests),
            warnings=tuple(str(b.error) for b in known.broken),
        )

    async def _report(self) -> None:
        """status.progress of the resource, as well as it can be done; never a reason to fail."""
        target = self.spec.report
        if target is None:
            return
        from matriarch.kube.client import Kube

        last: Mapping[str, Any] = {}
        kube: Kube | None = None

        async def tell() -> None:
            nonlocal last, kube
            progress = self.tracker.read().to_status("")
            if progress == last:
                return
            last = progress
            try:
                kube = kube or Kube.connect(timeout=5.0)
                stamped = {**progress, "updatedAt": timestamp(datetime.now(UTC))}
                await kube.apply_status(
                    {
                        "apiVersion": "matriarch.dev/v1alpha1",
                        "kind": target.kind,
                        "metadata": {"namespace": target.namespace, "name": target.name, "uid": target.uid},
                        "status": {"progress": stamped},
                    },
                    manager="matriarch-job",
                )
            except (MatriarchError, OSError, ValueError) as error:
                log.warning("progress could not be reported: %s", error)

        try:
            while True:
                await asyncio.sleep(EVERY)
                await tell()
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORD):
                    if last:
                        await tell()  # or the middle of the work would stand there for good
            if kube is not None:
                with contextlib.suppress(MatriarchError, OSError):
                    await kube.close()


def describe(store: Store, opened: Opened) -> BackupResult:
    body, physical = opened.body, opened.body.physical
    return BackupResult(
        id=body.id,
        name=body.file,
        sequence=body.sequence,
        started=body.started,
        finished=body.finished,
        size=body.size,
        stored_size=body.stored_size,
        location=f"{store.address}/{body.object.path}",
        sha256=body.object.stored_sha256,
        manifest=opened.manifest.key,
        manifest_sha256=opened.manifest.sha256,
        encrypted=body.encryption is not None,
        key_id=body.encryption.slots[0]["kek"] if body.encryption else None,
        server_version=body.origin.server_version,
        system_identifier=body.origin.system_identifier,
        timeline=body.origin.timeline,
        snapshot_lsn=body.snapshot_lsn,
        source=body.origin.source,
        instance=body.origin.instance,
        databases=tuple(
            DatabaseResult(name=d.name, owner=d.properties.owner, size=d.size) for d in opened.details.databases[:10]
        ),
        tables=body.tables,
        rows=body.rows,
        physical=PhysicalResult(
            start_lsn=physical.start_lsn,
            files=physical.files,
            pages=physical.pages,
            pages_checked=physical.pages_checked,
            bad_pages=physical.bad_pages,
            **_lineage(physical),
        )
        if physical is not None
        else None,
    )


def _lineage(physical: Physical) -> dict[str, Any]:
    own = physical.lineage
    if own is None:
        return {}
    because = own.because if own.because is None or len(own.because) <= 300 else own.because[:299] + "…"
    return {
        "type": own.type,
        "parent": own.parent,
        "increments": own.increments,
        "full_because": because,
        "whole_size": own.whole_size,
    }


def reason_of(error: MatriarchError) -> Reason:
    try:
        return Reason(getattr(error, "reason", ""))
    except ValueError:
        return Reason.INTERNAL


def _failure(spec: JobSpec, error: MatriarchError) -> Result:
    retryable = not isinstance(error, Refused | Corrupt)
    return Result(ok=False, task=spec.task, reason=reason_of(error), message=str(error), retryable=retryable)


def exit_code(result: Result) -> Exit:
    """What the Job's podFailurePolicy goes by."""
    if result.ok:
        return Exit.OK
    if result.reason == Reason.CANCELLED:
        return Exit.CANCELLED
    if result.reason == Reason.INTERNAL:
        return Exit.UNEXPECTED
    if result.retryable:
        return Exit.RETRY
    return Exit.CORRUPT if result.reason in _CORRUPT else Exit.REFUSED


_CORRUPT = {
    Reason.OBJECT_CORRUPT,
    Reason.OBJECT_MISSING,
    Reason.MANIFEST_CORRUPT,
    Reason.RESTORE_FAILED,
    Reason.VERIFICATION_FAILED,
    Reason.EMPTY_BACKUP,
}


async def _run(spec: JobSpec, make: type[Job]) -> NoReturn:
    result = await make(spec, os.environ.get("MATRIARCH_KEY_FOLDER", jobspec.KEY_FOLDER)).run()
    _leave(result)


def _leave(result: Result) -> NoReturn:
    """Say the result and go at once: a thread may still wait for a store that hangs, and the grace period is short."""
    text = result.to_json()
    print(text, flush=True)
    path = Path(os.environ.get("MATRIARCH_TERMINATION_LOG", jobresult.TERMINATION_LOG))
    with contextlib.suppress(OSError):  # by hand there is none
        path.write_text(text)
    os._exit(exit_code(result))


def main(make: type[Job] = Job) -> NoReturn:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        spec = JobSpec.from_json(os.environ[jobspec.ENVIRONMENT])
    except (KeyError, ValueError) as error:
        message = f"The task in {jobspec.ENVIRONMENT} is not usable: {error}"
        _leave(Result(ok=False, task="list", reason=Reason.BAD_SPEC, message=message))
    asyncio.run(_run(spec, make))
    raise AssertionError("unreachable: _run ends the process")


if __name__ == "__main__":
    main()
