"""`matriarch keys`: who opens what, a new key, and the bundle for the day when all else is gone."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from matriarch.cli.options import Endpoint, Json, KeyFile, wants_json
from matriarch.cli.terminal import usage

keys_app = typer.Typer(help="Which keys open the backups and the archive of a store.", no_args_is_help=True)


@keys_app.command("list")
def keys_list(
    store: Annotated[str, typer.Option("--store", help="s3://bucket/prefix, gs://bucket/prefix or a folder")],
    endpoint: Endpoint = None,
    output: Json = "text",
) -> None:
    """For each backup and each data key of the archive: the ids of the keys that open it."""
    from matriarch.cli import rotating

    rotating.show_keys(store, endpoint=endpoint, as_json=wants_json(output))


@keys_app.command("rotate")
def keys_rotate(
    store: Annotated[str, typer.Option("--store", help="s3://bucket/prefix, gs://bucket/prefix or a folder")],
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


@keys_app.command("make")
def keys_make(
    private: Annotated[Path, typer.Option("--private", help="new file for the half that reads")],
    public: Annotated[Path, typer.Option("--public", help="new file for the half that only writes")],
) -> None:
    """A pair of keys: backups are written with the public half, and read with the private one alone."""
    from matriarch.cli import bundling

    bundling.make_pair(private, public)


@keys_app.command("bundle")
def keys_bundle(
    out: Annotated[Path, typer.Argument(help="new file", show_default=False)],
    store: Annotated[
        str, typer.Option("--store", help="s3://bucket/prefix, gs://bucket/prefix or a folder: of one cluster")
    ],
    endpoint: Endpoint = None,
    key_file: KeyFile = None,
    recipient: Annotated[
        Path | None, typer.Option("--for", help="seal it for this public key, in place of a passphrase")
    ] = None,
) -> None:
    """One file with the key (sealed), the store's address, what is in it, and how to restore with nothing else.

    The passphrase is asked for, or taken from MATRIARCH_PASSPHRASE.
    """
    from matriarch.cli import bundling

    passphrase = None
    if recipient is None:
        passphrase = os.environ.get("MATRIARCH_PASSPHRASE")
        if passphrase is None:
            if not sys.stdin.isatty():
                usage("Give the passphrase in MATRIARCH_PASSPHRASE, or a public key with --for.")
            passphrase = typer.prompt("Passphrase (12 characters or more)", hide_input=True, confirmation_prompt=True)
    bundling.make_bundle(
        store, out, endpoint=endpoint, key_files=key_file or [], passphrase=passphrase, recipient=recipient
    )
