"""Keys of a store: who opens what, and a new key for all of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from matriarch.archive import rotation
from matriarch.archive.rotation import Holder
from matriarch.backup.keys import Kek
from matriarch.backup.store import open_store
from matriarch.cli import terminal
from matriarch.cli.bare import parse_store, read_keys
from matriarch.cli.terminal import Exit, note, show, show_json


def show_keys(store: str, *, endpoint: str | None, as_json: bool) -> None:
    async def work() -> list[Holder]:
        where = open_store(parse_store(store, endpoint))
        await asyncio.to_thread(where.check)
        return await asyncio.to_thread(lambda: list(rotation.holders(where)))

    found = terminal.run(work(), line=lambda: "reading headers")
    if as_json:
        show_json(
            [{"what": h.what, "dataKey": h.dek_id, "keys": list(h.keys), "error": h.error or None} for h in found]
        )
    else:
        show(terminal.table(("WHAT", "DATA KEY", "KEYS"), [(h.what, h.dek_id, ", ".join(h.keys)) for h in found]))
    damaged = [h for h in found if h.error]
    for holder in damaged:
        note(f"damaged: {holder.what}: {holder.error}")
    if damaged:
        raise SystemExit(Exit.DEGRADED)


def rotate(
    store: str, new_key: Path, *, endpoint: str | None, key_files: list[Path], retire: bool, as_json: bool
) -> None:
    count = 0

    def progress() -> None:
        nonlocal count
        count += 1

    async def work() -> tuple[Kek, list[Holder]]:
        new = Kek.read(new_key)
        where = open_store(parse_store(store, endpoint))
        await asyncio.to_thread(where.check)
        old = () if retire else read_keys(key_files)
        return new, await asyncio.to_thread(rotation.rotate, where, old, new, progress, look=retire)

    new, found = terminal.run(work(), line=lambda: f"{count} data keys")
    left = [h for h in found if h.error]
    if as_json:
        show_json(
            {
                "newKey": new.id,
                "opened": [h.what for h in found if not h.error],
                "notOpened": [{"what": h.what, "keys": list(h.keys), "why": h.error} for h in left],
            }
        )
    else:
        show(f"Key {new.id} opens {len(found) - len(left)} of {len(found)} data keys, each tried.")
        for holder in left:
            note(f"not with the new key: {holder.what} (needs {' or '.join(holder.keys) or 'unknown'}): {holder.error}")
        if not left:
            note("The old key is needed by nothing here once nothing writes with it; it still opens what it opened.")
    if left:
        raise SystemExit(Exit.DEGRADED)
