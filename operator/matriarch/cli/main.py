"""`matriarch` and `kubectl matriarch`: one grammar, with Kubernetes or without.

Each command imports what it needs when it runs, so that `--help` and shell completion answer at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matriarch.cli.keys import keys_app
from matriarch.cli.options import (
    BackupId,
    Databases,
    Endpoint,
    Jobs,
    Json,
    KeyFile,
    Name,
    Namespace,
    Store,
    Timeout,
    Unencrypted,
    Wait,
    wants_json,
)
from matriarch.cli.terminal import usage
from matriarch.decide.chain import MAX_INCREMENTS

if TYPE_CHECKING:
    from matriarch.decide.pitr import Target

app = typer.Typer(
    name="matriarch",
    help="PostgreSQL clusters on Kubernetes: status, backup, restore, switchover. "
    "With --store and --url it works without Kubernetes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(keys_app, name="keys")


@app.command()
def backup(
    name: Name = None,
    url: Annotated[str | None, typer.Option("--url", help="postgresql://user@host/database")] = None,
    store: Store = None,
    endpoint: Endpoint = None,
    key_file: KeyFile = None,
    unencrypted: Annotated[bool, typer.Option("--unencrypted", help="write everybody's data in the clear")] = False,
    compress: Annotated[bool, typer.Option("--compress/--no-compress")] = True,
    database: Databases = None,
    method: Annotated[str, typer.Option("--method", help="logical, or physical: the server's files")] = "logical",
    pgdata: Annotated[Path | None, typer.Option("--pgdata", help="physical: the server's data directory")] = None,
    jobs: Jobs = 2,
    level: Annotated[int, typer.Option("--level", min=-7, max=19, help="physical: zstd's level")] = 1,
    incremental: Annotated[
        bool, typer.Option("--incremental", help="physical: only what changed since the newest one that fits")
    ] = False,
    max_increments: Annotated[
        int, typer.Option("--max-increments", min=1, max=100, help="after so many a full one again")
    ] = MAX_INCREMENTS,
    namespace: Namespace = None,
    wait: Wait = True,
    timeout: Timeout = 86400.0,
    output: Json = "text",
) -> None:
    """Back up a cluster (NAME), or any server (--url) into a store (--store)."""
    as_json = wants_json(output)
    if method not in ("logical", "physical"):
        usage(f"--method is logical or physical, not {method}.")
    by_hand = method == "physical" and name is None
    if by_hand != (pgdata is not None) or (by_hand and url is None) or (method == "physical" and database):
        usage("A physical backup is of all of a server, where its files are: --method physical --url U --pgdata DIR.")
    if incremental and method != "physical":
        usage("Only physical backups are incremental: --method physical --incremental.")
    increments = max_increments if incremental else None
    if url is not None:
        if name is not None or store is None:
            usage("Say either NAME, for a cluster in Kubernetes, or --url and --store.")
        if pgdata is not None:
            from matriarch.cli import physical

            physical.backup(
                url,
                store,
                pgdata,
                endpoint=endpoint,
                key_files=key_file or [],
                unencrypted=unencrypted,
                jobs=jobs,
                level=level,
                max_increments=increments,
                as_json=as_json,
            )
            return
        from matriarch.cli import bare

        bare.backup(
            url,
            store,
            endpoint=endpoint,
            key_files=key_file or [],
            unencrypted=unencrypted,
            compress=compress,
            databases=database or [],
            as_json=as_json,
        )
        return
    if name is None:
        usage("Say what to back up: NAME of a cluster, or --url and --store.")
    from matriarch.cli import cluster

    cluster.make_backup(
        name, namespace, store=store, method=method, max_increments=increments, wait=wait, timeout=timeout
    )


@app.command()
def backups(
    name: Name = None,
    store: Store = None,
    endpoint: Endpoint = None,
    key_file: KeyFile = None,
    namespace: Namespace = None,
    output: Json = "text",
) -> None:
    """List the backups of a cluster (NAME), or those in a store (--store)."""
    as_json = wants_json(output)
    if (name is None) == (store is None):
        usage("Say either NAME, for a cluster in Kubernetes, or --store.")
    if store is not None:
        from matriarch.cli import bare

        bare.backups(store, endpoint=endpoint, key_files=key_file or [], as_json=as_json)
        return
    from matriarch.cli import cluster

    assert name is not None
    cluster.list_backups(name, namespace, as_json=as_json)


@app.command()
def verify(
    store: Annotated[str, typer.Option("--store", help="s3://bucket/prefix, gs://bucket/prefix or a folder")],
    backup_id: BackupId = "latest",
    endpoint: Endpoint = None,
    key_file: KeyFile = None,
    against: Annotated[str | None, typer.Option("--against", help="compare this server's content instead")] = None,
    recovery: Annotated[
        bool, typer.Option("--recovery", help="read no backup: only say from when to when can be restored")
    ] = False,
    allow_unencrypted: Unencrypted = False,
    output: Json = "text",
) -> None:
    """Read a backup to its last byte and check everything; or compare a live database with it (--against URL).

    Also says how far each physical backup and the WAL archive reach, and what is missing in between.
    """
    if recovery:
        if against is not None or backup_id != "latest":
            usage("--recovery looks at all backups of the store: leave --backup and --against out.")
        from matriarch.cli import archive

        archive.show_recovery(store, endpoint=endpoint, key_files=key_file or [], as_json=wants_json(output))
        return
    from matriarch.cli import bare

    bare.verify(
        store,
        backup_id,
        endpoint=endpoint,
        key_files=key_file or [],
        against=against,
        allow_unencrypted=allow_unencrypted,
        as_json=wants_json(output),
    )


@app.command()
def expire(
    store: Annotated[str, typer.Option("--store", help="s3://bucket/prefix, gs://bucket/prefix or a folder")],
    endpoint: Endpoint = None,
    key_file: KeyFile = None,
    window: Annotated[
        int | None, typer.Option("--window-days", min=0, help="also keep what was stored within so many days")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False,
    output: Json = "text",
) -> None:
    """Delete archived WAL that lies before every physical backup: the first run marks, one an hour later deletes."""
    from matriarch.cli import archive

    archive.expire(
        store,
        endpoint=endpoint,
        key_files=key_file or [],
        window_days=window,
        dry_run=dry_run,
        as_json=wants_json(output),
    )


@app.command()
def restore(
    name: Annotated[str | None, typer.Argument(help="a DatabaseCluster; needs --from", show_default=False)] = None,
    source: Annotated[str | None, typer.Option("--from", help="a Backup in Kubernetes")] = None,
    new: Annotated[str | None, typer.Option("--as", help="name of the new cluster")] = None,
    store: Store = None,
    backup_id: BackupId = "latest",
    to: Annotated[str | None, typer.Option("--to", help="postgresql://… of a superuser of the target")] = None,
    endpoint: Endpoint = None,
    key_file: KeyFile = None,
    database: Databases = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="replace the data that is there")] = False,
    skip_safety_backup: Annotated[
        bool, typer.Option("--skip-safety-backup", help="physical, in place: of what cannot be backed up any more")
    ] = False,
    application: Annotated[
        str | None, typer.Option("--application", help="in place: stop what has these labels meanwhile, app=shop")
    ] = None,
    drop_old: Annotated[bool, typer.Option("--drop-old", help="do not keep what was replaced")] = False,
    amcheck: Annotated[
        bool, typer.Option("--amcheck/--no-amcheck", help="pg_amcheck before it takes its place")
    ] = True,
    allow_unencrypted: Unencrypted = False,
    trust_source: Annotated[bool, typer.Option("--trust-source", help="accept dumps of an old pg_dump")] = False,
    to_directory: Annotated[
        Path | None, typer.Option("--to-directory", help="an empty directory for a physical backup")
    ] = None,
    reuse: Annotated[
        Path | None, typer.Option("--reuse", help="physical: take what is the same from this data directory, only read")
    ] = None,
    target: Annotated[str, typer.Option("--target", help="physical: latest, or immediate")] = "latest",
    target_time: Annotated[str | None, typer.Option("--target-time", help="archive: 2026-03-01T02:00:00Z")] = None,
    target_lsn: Annotated[str | None, typer.Option("--target-lsn", help="archive: 0/3000148")] = None,
    target_xid: Annotated[str | None, typer.Option("--target-xid", help="archive: a transaction")] = None,
    target_name: Annotated[str | None, typer.Option("--target-name", help="archive: a restore point")] = None,
    wal_archive: Annotated[
        bool, typer.Option("--wal-archive", help="physical: also the WAL archive beside the backups")
    ] = False,
    restore_command: Annotated[
        str | None, typer.Option("--restore-command", help="archive: in place of asking `matriarch wal`")
    ] = None,
    accept_suspect: Annotated[
        bool, typer.Option("--accept-suspect", help="physical: also one whose pages were bad")
    ] = False,
    jobs: Jobs = 2,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    namespace: Namespace = None,
    wait: Wait = True,
    timeout: Timeout = 86400.0,
    output: Json = "text",
) -> None:
    """Restore a Backup into a new cluster or in place; or from a store (--store) into any server (--to)."""
    as_json = wants_json(output)
    points = {"time": target_time, "lsn": target_lsn, "xid": target_xid, "name": target_name}
    if reuse is not None and to_directory is None:
        usage("Files are taken from a data directory for another one: --reuse goes with --to-directory DIR.")
    if in_place and not yes and sys.stdin.isatty():
        typer.confirm(f"Replace the data of {to or name}?", abort=True)
    if store is not None:
        if (to is None) == (to_directory is None) or name is not None or source is not None:
            usage("From a store, say where to: --store S and --to URL, or --to-directory DIR for a physical backup.")
        if to_directory is not None:
            from matriarch.cli import physical

            physical.restore(
                store,
                backup_id,
                to_directory,
                endpoint=endpoint,
                key_files=key_file or [],
                target=_target(target, points, wal_archive=wal_archive),
                restore_command=(
                    restore_command or f"matriarch-wal --socket {physical.wal_socket(to_directory)} fetch %f %p"
                )
                if wal_archive
                else None,
                allow_unencrypted=allow_unencrypted,
                accept_suspect=accept_suspect,
                reuse=reuse,
                jobs=jobs,
                as_json=as_json,
            )
            return
        assert to is not None
        from matriarch.cli import bare

        bare.restore_to(
            store,
            backup_id,
            to,
            endpoint=endpoint,
            key_files=key_file or [],
            in_place=in_place,
            drop_old=drop_old,
            databases=database or [],
            allow_unencrypted=allow_unencrypted,
            trust_source=trust_source,
            amcheck=amcheck,
            as_json=as_json,
        )
        return
    if name is None or source is None:
        usage("Say NAME and --from BACKUP for Kubernetes, or --store S and --to URL.")
    if in_place == (new is not None):
        usage("Say either --as NEW, for a new cluster, or --in-place.")
    moment = _target(target, points, wal_archive=wal_archive)
    if skip_safety_backup and not in_place:
        usage("--skip-safety-backup goes with --in-place: a new cluster replaces nothing.")
    if application is not None and not in_place:
        usage("--application goes with --in-place: a new cluster has no application yet.")
    labels = dict(part.partition("=")[::2] for part in (application or "").split(",") if part)
    if application is not None and (not labels or not all(labels) or any("=" not in p for p in application.split(","))):
        usage("--application is one or more labels, such as app=shop,tier=web.")
    from matriarch.cli import cluster

    cluster.make_restore(
        source,
        namespace,
        to=new or name,
        in_place=in_place,
        skip_safety=skip_safety_backup,
        application=labels,
        moment=moment if wal_archive or target != "latest" else None,
        wait=wait,
        timeout=timeout,
    )


@app.command()
def drill(
    schedule: Annotated[str | None, typer.Argument(help="a BackupSchedule", show_default=False)] = None,
    store: Store = None,
    backup_id: BackupId = "latest",
    endpoint: Endpoint = None,
    key_file: KeyFile = None,
    wal_archive: Annotated[
        bool, typer.Option("--wal-archive", help="physical: replay the WAL archive beside it to its end")
    ] = False,
    folder: Annotated[Path | None, typer.Option("--folder", help="where there is room for all of the data")] = None,
    query: Annotated[
        list[str] | None, typer.Option("--query", help="must not fail; booleans must be true; may be repeated")
    ] = None,
    database: Annotated[str, typer.Option("--database", "-d", help="of the queries")] = "app",
    heapallindexed: Annotated[bool, typer.Option("--heapallindexed", help="look up each row in each index")] = False,
    allow_unencrypted: Unencrypted = False,
    namespace: Namespace = None,
    wait: Wait = True,
    timeout: Timeout = 86400.0,
    output: Json = "text",
) -> None:
    """Restore a schedule's newest good backup, or one of a store, into a throwaway instance, check and time it.

    Exit code 1: it failed. With --store it runs here, where PostgreSQL's programs are, and not as root.
    """
    from matriarch.cli import drill as drills

    if (schedule is None) == (store is None):
        usage("Say either SCHEDULE, for a BackupSchedule in Kubernetes, or --store.")
    if store is not None:
        drills.by_hand(
            store,
            backup_id,
            endpoint=endpoint,
            key_files=key_file or [],
            folder=folder,
            archive=wal_archive,
            queries=query or [],
            database=database,
            heapallindexed=heapallindexed,
            allow_unencrypted=allow_unencrypted,
            timeout=timeout,
            as_json=wants_json(output),
        )
        return
    assert schedule is not None
    drills.drill(schedule, namespace, wait=wait, timeout=timeout, as_json=wants_json(output))


@app.command()
def wal(
    store: Annotated[str, typer.Option("--store", help="s3://bucket/prefix, gs://bucket/prefix or a folder")],
    directory: Annotated[Path, typer.Option("--directory", help="what `restore --wal-archive` filled")],
    endpoint: Endpoint = None,
    key_file: KeyFile = None,
    socket: Annotated[Path | None, typer.Option("--socket", help="<directory>.wal if absent")] = None,
) -> None:
    """Give PostgreSQL the archived WAL while it recovers a restored directory."""
    from matriarch.cli import physical

    physical.serve_wal(store, directory, endpoint=endpoint, key_files=key_file or [], socket=socket)


def _target(plain: str, points: dict[str, str | None], *, wal_archive: bool) -> Target:
    from matriarch.decide.pitr import Target

    given = {kind: value for kind, value in points.items() if value is not None}
    if plain not in ("latest", "immediate"):
        usage(f"--target is latest or immediate, not {plain}.")
    if len(given) > 1 or (given and plain != "latest"):
        usage("Say one target: --target, --target-time, --target-lsn, --target-xid or --target-name.")
    if given and not wal_archive:
        usage("The backup's own WAL ends with it; a point after it is in the archive: add --wal-archive.")
    try:
        return Target(*next(iter(given.items()), (plain,)))
    except ValueError as error:
        usage(f"{error}.")


@app.command()
def status(
    name: Annotated[str, typer.Argument(help="a DatabaseCluster")], namespace: Namespace = None, output: Json = "text"
) -> None:
    """Is it well, who leads, when was it backed up. Exit code 0 well, 1 not."""
    from matriarch.cli import cluster

    cluster.status(name, namespace, as_json=wants_json(output))


@app.command("list")
def list_(
    namespace: Namespace = None,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A")] = False,
    output: Json = "text",
) -> None:
    """All clusters of a namespace, or of all."""
    from matriarch.cli import cluster

    cluster.list_clusters(namespace, all_namespaces=all_namespaces, as_json=wants_json(output))


@app.command()
def promote(
    name: Annotated[str, typer.Argument(help="a DatabaseCluster")],
    instance: Annotated[str, typer.Argument(help="the instance that is to be the primary")],
    namespace: Namespace = None,
) -> None:
    """Make this instance the primary, by a switchover that loses nothing."""
    from matriarch.cli import cluster

    cluster.switchover(name, instance, namespace)


@app.command()
def switchover(name: Annotated[str, typer.Argument(help="a DatabaseCluster")], namespace: Namespace = None) -> None:
    """Make the best replica the primary."""
    from matriarch.cli import cluster

    cluster.switchover(name, None, namespace)


@app.command()
def version() -> None:
    """The version of this program."""
    from matriarch.backup.origin import program_version

    typer.echo(program_version())


def main() -> None:
    app()


if __name__ == "__main__":
    main()
