"""Stores what PostgreSQL has finished writing, ahead of its asking, and answers when it asks.

Nothing that matters is remembered: what `archive_status` says is to be done, and what the store has is done. After a
kill at any moment the next process looks at both and goes on; a file that was stored and not acknowledged is found
there with the same content.

A primary stores. A replica keeps its copy of every segment until the primary has stored it, and stores itself what is
missing once it leads (PostgreSQL runs with archive_mode = always): without that, the segments that an old primary had
finished and not stored would be missing from the archive after a failover, and nobody would know. What nobody stored
for STORES_ITSELF a replica stores too: its primary may be a younger copy without that file, or not reach the store.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from matriarch.archive import plan
from matriarch.archive.names import WalName, parse
from matriarch.archive.plan import Pause, Seen, next_files, wanted_histories
from matriarch.archive.report import Reason, Report
from matriarch.archive.vault import Vault
from matriarch.archive.walfolder import FileId, WalFolder
from matriarch.errors import Corrupt, MatriarchError, Refused, Unavailable
from matriarch.postgres.lsn import format_lsn
from matriarch.postgres.timeline import history_file

log = logging.getLogger(__name__)

T = TypeVar("T")

STORES_ITSELF = 120.0  # seconds
LOOK_EVERY = 2.0  # seconds; a push makes it look at once
RESCAN_AFTER = 0.5  # seconds that one listing may be used while a backlog is worked off

_FILE_FAULTS = frozenset(
    {
        Reason.BAD_SEGMENT,
        Reason.SPLIT_BRAIN,
        Reason.FILE_GONE,
        Reason.OTHER_SYSTEM,
        "ObjectCorrupt",
        "ManifestCorrupt",
    }
)

_CREDENTIALS = frozenset({"CredentialsRefused", "CredentialsMissing", "KeyMissing", "WrongKey", "BadKey"})


@dataclass(frozen=True, slots=True)
class Answer:
    """`ok`: it is stored. `no` comes with the reason as a sentence."""

    word: Literal["ok", "no"]
    why: str = ""


@dataclass(slots=True)
class _State:
    ready: dict[WalName, float] = field(default_factory=dict)
    looked_at: float = -1e9
    stored: dict[str, FileId] = field(default_factory=dict)
    histories: set[int] = field(default_factory=set)
    extra: dict[WalName, float] = field(default_factory=dict)  # histories that PostgreSQL does not ask for
    pauses: dict[str, Pause] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    store: Pause = field(default_factory=Pause)
    running: dict[str, asyncio.Task[None]] = field(default_factory=dict)


class Archiver:
    """`open_vault` is called once the system identifier is known, in a thread."""

    def __init__(
        self,
        folder: WalFolder,
        open_vault: Callable[[int], Vault],
        *,
        parallel: int = 4,
        leads: bool | None = None,
        patience: float = 45.0,
    ) -> None:
        self._folder, self._open_vault = folder, open_vault
        self._parallel, self._patience = parallel, patience
        self.leads = leads
        self._vault: Vault | None = None
        self._claimed = False
        self._state = _State()
        self._wake = asyncio.Event()
        self._changed = asyncio.Condition()
        self._threads = ThreadPoolExecutor(parallel + 1, thread_name_prefix="archive")
        self._system = 0
        self._told: dict[str, object] = {}
        self._count = self._bytes = 0
        self._last: WalName | None = None
        self._last_at: float | None = None
        self._error, self._reason = "", ""
        self._failing_since: float | None = None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self._turn()
            except MatriarchError as error:
                self._fail(error)
                self._state.store = self._state.store.longer(time.monotonic())
            except OSError as error:
                self._fail(Unavailable(f"pg_wal cannot be read: {error}"))
            try:
                async with asyncio.timeout(LOOK_EVERY):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def push(self, text: str, device: int, inode: int) -> Answer:
        """What PostgreSQL's archive_command is told. `device` and `inode` of the file that it means."""
        name = parse(text)
        if name is None:
            return Answer("no", f"{text} is no name of a file that is archived")
        state, until = self._state, time.monotonic() + self._patience
        known = await self._in_thread(lambda: self._folder.identify(name))
        if known is None or (known.device, known.inode) != (device, inode):
            return Answer("no", f"{text} is not in the pg_wal that this archiver works for")
        if name not in state.ready:
            state.looked_at = -1e9
        self._wake.set()
        while state.stored.get(text) != known:
            if time.monotonic() >= until or text in state.errors:
                return Answer("no", state.errors.get(text) or self._error or f"{text} is not stored yet; it goes on")
            try:
                async with asyncio.timeout(1.0):
                    async with self._changed:
                        await self._changed.wait()
            except TimeoutError:
                pass
        return Answer("ok")

    def report(self) -> Report:
        state = self._state
        open_files = {n: since for n, since in state.ready.items() if n.text not in state.stored}
        now = time.time()
        last = self._last
        return Report(
            leads=bool(self.leads),
            system=str(self._system) if self._system else "",
            store=self._vault.address if self._vault is not None else "",
            stored=self._count,
            stored_bytes=self._bytes,
            last_name=last.text if last is not None else "",
            last_lsn=format_lsn(last.end) if last is not None and last.holds_wal else "",
            last_at=self._last_at,
            pending=len(open_files),
            oldest_pending=max(0.0, now - min(open_files.values(), default=now)),
            error=self._error,
            reason=self._reason,
            failing_since=self._failing_since,
        )

    async def _turn(self) -> None:
        state = self._state
        if time.monotonic() < state.store.until:
            return
        if self._vault is None:
            self._system = await self._in_thread(self._folder.own_system)
            self._vault = await self._in_thread(lambda: self._open_vault(self._system))
        await self._look()
        if not state.ready:
            return
        await self._adopt_histories()
        for name in next_files(self._seen(), parallel=self._parallel, now=time.monotonic()):
            state.running[name.text] = asyncio.create_task(self._work(name))

    def _seen(self) -> Seen:
        state = self._state
        ready = (*state.ready, *(n for n in state.extra if n not in state.ready))
        return Seen(ready, state.stored, state.running, state.histories, state.pauses, state.store)

    async def _look(self) -> None:
        """A fresh listing, unless the last one is new and still has work."""
        state = self._state
        left = sum(n.text not in state.stored and n.text not in state.running for n in state.ready)
        if time.monotonic() - state.looked_at < RESCAN_AFTER and left >= self._parallel:
            return
        state.ready = await self._in_thread(self._folder.ready)
        state.looked_at = time.monotonic()
        names = {n.text for n in state.ready}
        for gone in state.stored.keys() - names:  # PostgreSQL has taken note
            del state.stored[gone]
        names |= {n.text for n in state.extra}
        state.pauses = {n: p for n, p in state.pauses.items() if n in names}
        state.errors = {n: e for n, e in state.errors.items() if n in names}

    async def _adopt_histories(self) -> None:
        vault, state = self._vault, self._state
        assert vault is not None
        for timeline in wanted_histories(self._seen()):
            name = parse(history_file(timeline))
            assert name is not None
            if await self._in_thread(lambda n=timeline: self._folder.has_history(n)):  # type: ignore[misc]  # bound
                state.extra.setdefault(name, time.time())
            elif await self._in_thread(lambda n=name: vault.has(n)):  # type: ignore[misc]  # bound
                state.histories.add(timeline)
            else:
                log.error("timeline %d has no history, neither here nor in the archive", timeline)
                state.histories.add(timeline)

    async def _work(self, name: WalName) -> None:
        """One file. Its outcome is in the state when this ends; nothing is raised."""
        state = self._state
        try:
            before = await self._in_thread(lambda: self._folder.identify(name))
            size = await self._in_thread(lambda: self._store(name))
            after = await self._in_thread(lambda: self._folder.identify(name))
            if before is None or before != after:
                raise Unavailable(f"{name} changed while it was read", reason=Reason.FILE_GONE)
        except MatriarchError as error:
            self._failed(name, error)
        except Exception as error:
            log.exception("%s", name)
            self._failed(name, Refused(f"{name}: {error!r}", reason="InternalError"))
        else:
            self._succeeded(name, after, size)
        finally:
            state.running.pop(name.text, None)
            self._wake.set()
            async with self._changed:
                self._changed.notify_all()

    def _store(self, name: WalName) -> int:
        vault = self._vault
        assert vault is not None
        data = self._folder.read(name)
        self._folder.own_system()  # after it was read, for it may come from data that was put in place meanwhile
        waited = time.time() - self._state.ready.get(name, time.time())
        if self.leads or waited > STORES_ITSELF:
            if not self._claimed:
                vault.claim()
                self._claimed = True
            return vault.put(name, data)
        if not vault.confirm(name, data):
            raise Unavailable(f"the primary has not stored {name} yet", reason=Reason.NOT_YET)
        return 0

    def _succeeded(self, name: WalName, identity: FileId, size: int) -> None:
        state = self._state
        state.stored[name.text] = identity
        state.pauses.pop(name.text, None)
        state.errors.pop(name.text, None)
        state.extra.pop(name, None)
        state.store = Pause()
        if name.kind == "history":
            state.histories.add(name.timeline)
        self._count += 1
        self._bytes += size
        self._last_at = time.time()
        if name.kind == "segment" and (self._last is None or name.text > self._last.text):
            self._last = name
        if not state.errors:
            self._error, self._reason, self._failing_since = "", "", None

    def _failed(self, name: WalName, error: MatriarchError) -> None:
        state, now = self._state, time.monotonic()
        reason = getattr(error, "reason", "")
        pause = state.pauses.get(name.text, Pause())
        if reason == Reason.NOT_YET:
            state.pauses[name.text] = pause.longer(
                now, first=plan.WAIT_FOR_PRIMARY, longest=plan.LONGEST_WAIT_FOR_PRIMARY
            )
            return
        self._fail(error)
        if reason in _FILE_FAULTS or reason == "InternalError" or isinstance(error, Corrupt):
            state.pauses[name.text] = pause.longer(now, first=5.0)
            state.errors[name.text] = str(error)
            return
        state.store = state.store.longer(now)
        if reason in _CREDENTIALS:
            self._vault = None  # they are files, which a rotation replaces: read them again

    def _fail(self, error: MatriarchError) -> None:
        text = str(error)
        if text != self._error:
            log.warning("%s", text)
        self._error, self._reason = text, str(getattr(error, "reason", ""))
        self._failing_since = self._failing_since or time.time()

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)
