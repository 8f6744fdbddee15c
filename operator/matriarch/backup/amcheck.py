"""pg_amcheck, as restores and drills run it: one child that can be stopped, and its first words when it finds fault."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from matriarch.backup.children import Child
from matriarch.backup.jobspec import Reason
from matriarch.backup.stop import Stop
from matriarch.errors import Corrupt

_SAID = 2000  # bytes of its output that are kept


async def amcheck(options: Sequence[str], environment: Mapping[str, str], what: str, stop: Stop) -> None:
    """Check with two jobs. Raises Corrupt (VerificationFailed), which names `what` was checked."""
    child = Child(["pg_amcheck", "--no-password", "--jobs=2", *options], environment, stdout=True)
    said = bytearray()

    def work() -> int:
        child.copy_out(lambda text: said.extend(text[: _SAID - len(said)]), stop)
        return child.wait(stop)

    try:
        code = await asyncio.to_thread(work)
    finally:
        await asyncio.to_thread(child.kill)
    if code != 0:
        text = " ".join(said.decode(errors="replace").split())[:400] or child.complaint
        raise Corrupt(f"pg_amcheck found fault with {what}: {text}", reason=Reason.VERIFICATION_FAILED)
