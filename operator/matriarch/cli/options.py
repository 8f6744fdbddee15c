"""Options that several commands share, with one wording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from matriarch.cli.terminal import usage

Name = Annotated[str | None, typer.Argument(help="a DatabaseCluster", show_default=False)]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="default: that of the kubeconfig's context")]
Store = Annotated[
    str | None,
    typer.Option(
        "--store", help="s3://bucket/prefix, gs://bucket/prefix or a folder; ?as-of=TIME: an earlier state (s3)"
    ),
]
Endpoint = Annotated[str | None, typer.Option("--endpoint", help="URL of a store that is neither at AWS nor at Google")]
KeyFile = Annotated[
    list[Path] | None, typer.Option("--key-file", help="encryption key; else the variable BACKUP_ENCRYPTION_KEY")
]
Json = Annotated[str, typer.Option("--output", "-o", help="text or json")]
BackupId = Annotated[str, typer.Option("--backup", help="name, id, or day and start of the id; or latest")]
Databases = Annotated[list[str] | None, typer.Option("--database", "-d", help="only this one; may be repeated")]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, max=16, help="physical: threads, about 50 MiB each")]
Unencrypted = Annotated[bool, typer.Option("--allow-unencrypted", help="accept a backup that nothing authenticates")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="until it is complete or has failed")]
Timeout = Annotated[float, typer.Option("--timeout", help="seconds to wait at most")]


def wants_json(output: str) -> bool:
    if output not in ("text", "json"):
        usage(f"--output is text or json, not {output}.")
    return output == "json"
