"""Making keys, and the bundle that a disaster needs."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import UTC, datetime
from pathlib import Path

from matriarch.backup import bundle, catalog, sealedbox
from matriarch.backup.bundle import Known
from matriarch.backup.jobspec import Reason
from matriarch.backup.keys import Kek, PrivateKey, PublicKey
from matriarch.backup.names import timestamp
from matriarch.backup.store import Store, open_store
from matriarch.cli import terminal
from matriarch.cli.bare import parse_store, read_keys
from matriarch.cli.terminal import note, show, usage
from matriarch.errors import Corrupt, Refused

DECRYPTOR = Path(__file__).with_name("decryptor.txt")
"""A copy of docs/recovery/matriarch-decrypt.py, so that it is wherever the command is."""


def make_pair(private: Path, public: Path) -> None:
    """Both files new: a key is never written over."""
    key = PrivateKey(sealedbox.generate())
    for path in (private, public):
        if path.exists():
            raise Refused(f"{path} is there already; a key is never written over.", reason=Reason.BAD_KEY)
    _write(private, key.text + "\n")
    _write(public, key.public.text + "\n")
    show(key.id)
    note(f"{public} goes to the writer (the cluster's Secret); keep {private} where restores are made, and a copy.")


def make_bundle(
    store: str, out: Path, *, endpoint: str | None, key_files: list[Path], passphrase: str | None,
    recipient: Path | None,
) -> None:  # fmt: skip
    async def work() -> tuple[str, Kek, list[str]]:
        keys = read_keys(key_files)
        if len(keys) != 1:
            raise Refused("A bundle holds one key; give exactly one with --key-file.", reason=Reason.KEY_MISSING)
        where = open_store(parse_store(store, endpoint))
        await asyncio.to_thread(where.check)
        known = await asyncio.to_thread(_known, where, endpoint)
        (key,) = keys
        text = bundle.make(known, key, _sealed(key, passphrase, recipient))
        return text, key, bundle.check_opens(known.manifests, key)

    if out.exists():
        usage(f"{out} is there already; name a new file.")
    text, key, others = terminal.run(work(), line=lambda: "reading manifests")
    _write(out, text)
    show(f"{out}: key {key.id}")
    if not key.opens:
        note("Only a public key was given, so the bundle holds no key: keep the private one beside it.")
    for name in others:
        note(f"not with this key by its manifest: {name} (a later slot may open it: `matriarch keys list`)")
    note("Keep it outside this Kubernetes cluster and outside the store, and try it: docs/recovery/README.md.")


def _sealed(key: Kek, passphrase: str | None, recipient: Path | None) -> dict[str, object] | None:
    secret = bundle.secret_of(key)
    if secret is None:
        return None
    if recipient is not None:
        public = Kek.read(recipient)
        if isinstance(public, PrivateKey):
            public = public.public
        if not isinstance(public, PublicKey):
            raise Refused(f"{recipient} holds no public key.", reason=Reason.BAD_KEY)
        return bundle.for_public_key(key.id, secret, public)
    assert passphrase is not None
    return bundle.with_passphrase(key.id, secret, passphrase)


def _known(store: Store, endpoint: str | None) -> Known:
    catalog.require_cluster(store)
    try:
        owner = json.loads(store.get(catalog.OWNER) or b"")
    except ValueError:
        raise Corrupt(f"{store.address}/{catalog.OWNER} is damaged.", reason=Reason.MANIFEST_CORRUPT) from None
    found = catalog.read_catalog(store)
    return Known(
        created=timestamp(datetime.now(UTC)),
        address=store.address,
        endpoint=endpoint,
        owner=owner,
        manifests=found.manifests,
        decryptor=DECRYPTOR.read_text(encoding="utf-8"),
    )


def _write(path: Path, text: str) -> None:
    """For the owner alone, and on the disk before anybody is told so."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
