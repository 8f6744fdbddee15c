"""One big object on its way into Google Cloud Storage: a resumable upload, by the protocol's own words.

Parts go one after the other, each from an immutable buffer, one on its way while the next one fills. After any failure
the store is asked how much it has; nothing is assumed, and nothing is sent twice that it has. What is not finished is
never seen. The whole object's CRC-32C goes with its last part, and is compared with what the store computed.
"""

from __future__ import annotations

import secrets
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from matriarch.backup.gcserrors import unavailable
from matriarch.backup.gcswire import BINARY, Crc, Over, is_missing, is_taken, may_have_worked, raise_unless
from matriarch.backup.store import Exists

if TYPE_CHECKING:
    from matriarch.backup.gcs import Gcs

PART = 16 << 20  # bytes, a multiple of 256 KiB; two of them are held at once
_MARK = "upload"  # of the metadata of an object that was sent in parts: whose it is


class ResumableUpload:
    """See store.Upload. A small object goes as one conditional request."""

    def __init__(self, store: Gcs, key: str) -> None:
        self._store, self._key = store, key
        self._buffer = bytearray()
        self._session: str | None = None
        self._sent = 0  # bytes that went into parts
        self._taken = False  # known at the beginning already, and said at the end
        self._crc = Crc()
        self._token = secrets.token_hex(16)  # by which the object is known for this upload's
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="upload")
        self._flying: Future[None] | None = None

    def write(self, data: bytes) -> None:
        if self._taken:
            return
        self._buffer += data
        while len(self._buffer) > PART:  # the last part is never empty
            part = bytes(memoryview(self._buffer)[:PART])
            del self._buffer[:PART]
            try:
                if self._session is None:
                    self._session = self._begin()
                self._landed()
            except Exists:
                self._session, self._taken = None, True
                self._buffer.clear()
                return
            self._crc.update(part)
            self._flying = self._pool.submit(self._transmit, self._session, self._sent, part)
            self._sent += len(part)

    def _begin(self) -> str:
        """The address of a new session. A repeated request leaves one behind that nobody uses, and that is nothing."""

        def once() -> str:
            blob = self._store.blob(self._key)
            blob.metadata = {_MARK: self._token}
            try:
                found = blob.create_resumable_upload_session(
                    content_type=BINARY, checksum=None, if_generation_match=0, timeout=self._store.timeout, retry=None
                )
            except Exception as error:
                if is_taken(error):
                    raise Exists(self._key) from None
                raise
            return str(found)

        return self._store.call(once)

    def _landed(self) -> None:
        if self._flying is not None:
            flying, self._flying = self._flying, None
            flying.result()

    def finish(self) -> None:
        if self._taken:
            self._pool.shutdown()
            raise Exists(self._key)
        if self._session is None:
            self._pool.shutdown()
            self._store.put(self._key, bytes(self._buffer), if_absent=True)
            return
        last, self._buffer = bytes(self._buffer), bytearray()
        self._crc.update(last)
        try:
            self._landed()
            self._pool.shutdown()
            self._transmit(self._session, self._sent, last, total=self._sent + len(last))
        except Exists:
            self._session = None  # it ended with that
            raise
        self._session = None  # nothing is left to abort

    def _transmit(self, session: str, start: int, part: bytes, *, total: int | None = None) -> None:
        """Until the store has all of it. `total`: this part is the last one, and the object is to appear."""
        at, unsure, lost = start, False, False
        end = start + len(part)

        def once() -> None:
            nonlocal at, unsure, lost
            while True:
                asked, unsure = unsure, True
                try:
                    body = b"" if asked else part[at - start :]
                    done, at = self._send(session, None if asked else at, body, total)
                except (Exists, Over):
                    raise
                except Exception as error:
                    # The session is gone, or the name is taken: after a lost answer by this very upload, perhaps.
                    ended = is_missing(error) or is_taken(error)
                    if ended and lost and total is not None and self._is_there():
                        return
                    if is_taken(error):
                        raise Exists(self._key) from None
                    if ended:
                        raise Over("the store does not know the upload any more") from error
                    lost = lost or may_have_worked(error)
                    raise
                unsure = False
                if done or (total is None and at == end):
                    return
                if at < start:  # a 308 that lost its headers looks so too
                    unsure = True
                    raise ConnectionError(f"the store has {at} bytes of {start} that it had acknowledged")
                if at > end:
                    raise Over(f"the store has {at} bytes of an upload of {end}")

        try:
            self._store.call(once)
        except Over as error:
            raise unavailable(self._store.address, f"the upload of {self._key} can't go on: {error}") from error

    def _send(self, session: str, at: int | None, body: bytes, total: int | None) -> tuple[bool, int]:
        """One request; whether the object is complete with it, and how much the store has. `at` None: only ask."""
        headers = {"Content-Type": BINARY}
        if at is None:
            headers["Content-Range"] = "bytes */*"
        elif not body:  # it has all of it, and does not know that this is all
            headers["Content-Range"] = f"bytes */{total}"
        else:
            headers["Content-Range"] = f"bytes {at}-{at + len(body) - 1}/{'*' if total is None else total}"
        if total is not None and at is not None:
            headers["X-Goog-Hash"] = f"crc32c={self._crc.value()}"
        answer = self._store.session.put(
            session, data=body, headers=headers, timeout=self._store.timeout, allow_redirects=False
        )
        if answer.status_code == 308:
            known = str(answer.headers.get("Range") or "")  # none: it has nothing
            stands = int(known.rpartition("-")[2]) + 1 if known else 0
            if at is not None and stands <= at:
                raise ConnectionError(f"the store took nothing of what came after byte {at}")
            return False, stands
        raise_unless(answer, 200, 201)
        self._compare(answer.json(), total)
        return True, total or 0

    def _compare(self, made: Any, total: int | None) -> None:
        """What the store says that it has, with what was sent."""
        if "size" not in made or "crc32c" not in made:
            raise ConnectionError("the answer ended before size and checksum")
        if total is None:
            raise Over("the store takes a part for all of it")
        if int(made["size"]) != total or made["crc32c"] != self._crc.value():
            generation = int(made.get("generation") or 0)
            with suppress(Exception):  # no manifest names it: the sweeper takes what stays
                self._store.blob(self._key).delete(
                    if_generation_match=generation, timeout=self._store.timeout, retry=None
                )
            raise Over("what arrived was altered on its way")

    def _is_there(self) -> bool:
        """Not only one of this size: it may be another writer's."""
        found = self._store.described(self._key)
        return found is not None and (found.get("metadata") or {}).get(_MARK) == self._token

    def abort(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._flying is not None:
            with suppress(Exception):
                self._flying.result(timeout=30)
        if self._session is not None:
            session, self._session = self._session, None
            with suppress(Exception):  # the store may be what failed, and forgets the upload in a week by itself
                self._store.session.delete(session, timeout=self._store.timeout, allow_redirects=False)
