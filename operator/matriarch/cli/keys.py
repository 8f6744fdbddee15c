"""`matriarch keys`: who opens what, and a new key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from matriarch.cli.options import Endpoint, Json, KeyFile, wants_json

keys_app = typer.Typer(help="Which keys open the backups and the archive of a store.", no_args_is_help=True)


@keys_app.command("list")
def keys_list(
    store: Annotated[str, typer.Option("--store", help="s3://bucket/prefix or a folder")],
    endpoint: Endpoint = None,
    output: Json = "text",
) -> None:
    """For each backup and each data key of the archive: the ids of the keys that open it."""
    from matriarch.cli import rotating

    rotating.show_keys(store, endpoint=endpoint, as_json=wants_json(output))


@keys_app.command("rotate")
def keys_rotate(
    store: Annotated[str, typer.Option("--store", help="s3://bucket/prefix or a folder")],
    new_key: Annotated[Path, typer.Option("--new-key", help="file of the key that is to open everything")],
    endpoint: Endpoint = None,
    key_file: KeyFile = None,
    retire: Annotated[
        bool, typer.Option("--retire", help="change nothing: say what would still need another key")
    ] = False,
    output: Json = "text",
) -> None:
    """Let a new key open all that the old one (--key-file) opens. No backup is written again; may be repeated."""
    from matriarch.cli import rotating

    rotating.rotate(
        store,
        new_key,
        endpoint=endpoint,
        key_files=key_file or [],
        retire=retire,
        as_json=wants_json(output),
    )
