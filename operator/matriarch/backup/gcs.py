"""A bucket of Google Cloud Storage as a store.

The client library does the requests, and tries each of them once: how long a store may be away, and that SIGTERM ends
the waiting, are decided here and not in its retries. Two rules as for S3: a conditional write whose answer was lost is
settled by looking, never by trying harder; a read goes on where it broke, on the very same generation of the object.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from matriarch.backup.gcserrors import explain, unavailable
from matriarch.backup.gcswire import (
    BINARY,
    Crc,
    Over,
    header,
    is_missing,
    is_taken,
    length,
    may_have_worked,
    raise_unless,
    status_of,
    stored_crc,
)
from matriarch.backup.jobspec import GcsStore, Reason
from matriarch.backup.patience import patiently
from matriarch.backup.stop import Stop
from matriarch.backup.store import SMALL, Entry, Exists, Unfinished
from matriarch.errors import Corrupt, MatriarchError, Refused, Unavailable

if TYPE_CHECKING:
    from matriarch.backup.gcsupload import ResumableUpload

T = TypeVar("T")

OUTAGE = 180.0  # seconds a store may be away in the middle of the work before it fails
CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 60.0  # seconds without a byte of an answer until a request counts as lost
GOOGLE = "https://storage.googleapis.com"
_PIECE = 1 << 20
_PAGE = 1000  # entries of a list in one answer


class Gcs:
    """See store.Store."""

    def __init__(
        self, spec: GcsStore, stop: Stop | None = None, *, outage: float | None = None, connections: int | None = None
    ) -> None:
        """`outage`: seconds that a call waits for a store that is away; `connections`: calls at the same time."""
        self._spec, self._patience = spec, outage
        self._connections = connections or 10  # several objects at once in a physical backup
        self._stop = stop or Stop()
        self._prefix = spec.prefix.strip("/") + "/" if spec.prefix.strip("/") else ""
        self._url = (spec.endpoint or GOOGLE).rstrip("/")
        self._made: Any = None
        self._making = threading.Lock()

    @property
    def address(self) -> str:
        return f"gs://{self._spec.bucket}/{self._prefix}".rstrip("/")

    @property
    def client(self) -> Any:
        """The library's, over `session`."""
        with self._making:
            if self._made is None:
                from matriarch.backup.gcsclient import make_client

                self._made = make_client(self._spec, self._url, self._connections, self.address)
            return self._made

    @property
    def session(self) -> Any:
        """For what the library does not offer as one request: reading on in the middle, and the parts of an upload."""
        return self.client._http  # noqa: SLF001 - the session that was given to it

    @property
    def timeout(self) -> tuple[float, float]:
        return CONNECT_TIMEOUT, READ_TIMEOUT

    def blob(self, key: str) -> Any:
        return self.client.bucket(self._spec.bucket).blob(self._prefix + key)

    def check(self) -> None:
        self.call(self._look, outage=15.0)

    def now(self) -> datetime:
        date = self.call(self._look)
        return parsedate_to_datetime(date).astimezone(UTC) if date else datetime.now(UTC)

    def _look(self) -> str | None:
        """The shortest list there is; the Date of its answer."""
        _, date = self._described(self._objects, prefix=self._prefix, maxResults="1", fields="kind")
        return date

    @property
    def _objects(self) -> str:
        return f"{self._url}/storage/v1/b/{quote(self._spec.bucket, safe='')}/o"

    def _object(self, key: str) -> str:
        return f"{self._objects}/{quote(self._prefix + key, safe='')}"

    def _described(self, url: str, **params: str) -> tuple[dict[str, Any], str | None]:
        """What a GET says, and when by the store's clock. An answer that lost its body is an error here."""
        answer = self.session.get(url, params={**params, "prettyPrint": "false"}, timeout=self.timeout)
        raise_unless(answer, 200)
        found = answer.json()
        if not isinstance(found, dict) or "kind" not in found:
            raise ConnectionError("the answer is not whole")
        return found, answer.headers.get("Date")

    def get(self, key: str) -> bytes | None:
        def once() -> bytes:
            with self._opened(key, {}) as answer:
                size, data = length(answer), bytearray()
                for piece in answer.iter_content(_PIECE):
                    data += piece
                    if max(size, len(data)) > SMALL:
                        raise Corrupt(f"{self.address}/{key} is too big for what it is.", reason=Reason.OBJECT_CORRUPT)
                if len(data) != size:
                    raise ConnectionError(f"the answer ended at byte {len(data)} of {size}")
                if (told := stored_crc(answer)) is not None and told != Crc.of(bytes(data)):
                    raise ConnectionError("what arrived was altered on its way")
                return bytes(data)

        return self.unless_missing(once)

    @contextmanager
    def read(self, key: str) -> Iterator[Iterator[bytes]]:
        """Goes on where a broken connection ended, by range, and only on the very same object (its generation)."""
        yield self._pieces(key)

    def _pieces(self, key: str) -> Iterator[bytes]:
        done, total, generation = 0, -1, ""
        crc, told = Crc(), None
        failing_since = 0.0
        while total < 0 or done < total:
            try:
                more = {"generation": generation, "start": str(done)} if total >= 0 else {}
                with self._opened(key, more) as answer:
                    found = header(answer, "x-goog-generation")
                    if generation not in ("", found):
                        raise self._replaced(key)
                    generation, total = found, done + length(answer)
                    told = told or stored_crc(answer)
                    for piece in answer.iter_content(_PIECE):
                        done += len(piece)
                        crc.update(piece)
                        failing_since = 0.0
                        yield piece
                if done < total:
                    raise ConnectionError(f"the answer ended at byte {done} of {total}")
            except MatriarchError:
                raise
            except Exception as error:
                if is_missing(error):
                    raise Corrupt(f"The object {self.address}/{key} is gone.", reason=Reason.OBJECT_MISSING) from None
                if is_taken(error):
                    raise self._replaced(key) from None
                explained = explain(error, self.address)
                if not isinstance(explained, Unavailable):
                    raise explained from error
                failing_since = failing_since or time.monotonic()
                if time.monotonic() - failing_since > self._outage:
                    raise explained from error
                self._stop.sleep(1.0)
        if told is not None and told != crc.value():
            raise unavailable(self.address, f"{key} was altered on its way")

    def _replaced(self, key: str) -> Corrupt:
        return Corrupt(f"The object {self.address}/{key} was replaced while it was read.", reason=Reason.OBJECT_CORRUPT)

    @contextmanager
    def _opened(self, key: str, more: dict[str, str]) -> Iterator[Any]:
        """The answer that holds an object from byte `start` on; `generation`: of no other one."""
        headers = {"Accept-Encoding": "identity"}
        params = {"alt": "media"}
        if more:
            headers["Range"] = f"bytes={more['start']}-"
            params["ifGenerationMatch"] = more["generation"]
        with self.session.get(
            self._object(key), params=params, headers=headers, timeout=self.timeout, stream=True
        ) as answer:
            raise_unless(answer, *((206,) if more.get("start", "0") != "0" else (200, 206)))
            yield answer

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        lost = False  # an earlier try may have worked, so what is there may be our own

        def once() -> None:
            nonlocal lost
            try:
                self.blob(key).upload_from_string(
                    data,
                    content_type=BINARY,
                    if_generation_match=0 if if_absent else None,
                    checksum="crc32c",
                    timeout=self.timeout,
                    retry=None,
                )
            except Exception as error:
                # A server that refuses early may hang up before we read why: looking tells.
                no_answer = status_of(error) is None
                lost = lost or may_have_worked(error)  # before the look, which may fail too
                taken = if_absent and (is_taken(error) or (no_answer and self.size(key) is not None))
                if not taken:
                    raise
                if not (lost and self.get(key) == data):
                    raise Exists(key) from None

        self.call(once)

    def upload(self, key: str, *, estimate: int) -> ResumableUpload:
        """`estimate` does not matter: an object may have any number of parts."""
        from matriarch.backup.gcsupload import ResumableUpload

        return ResumableUpload(self, key)

    def size(self, key: str) -> int | None:
        found = self.described(key)
        return None if found is None else int(found["size"])

    def described(self, key: str) -> dict[str, Any] | None:
        """Size and metadata of an object, None when it is not there."""

        def once() -> dict[str, Any]:
            found, _ = self._described(self._object(key), fields="kind,size,metadata")
            if "size" not in found:
                raise ConnectionError("the answer has no size")
            return found

        return self.unless_missing(once)

    def list(self, folder: str) -> Iterator[Entry]:
        below = f"{self._prefix}{folder}/" if folder else self._prefix

        more: dict[str, str] = {}
        while True:
            page, _ = self.call(
                lambda more=more: self._described(  # type: ignore[misc]  # a bound default
                    self._objects,
                    prefix=below,
                    maxResults=str(_PAGE),
                    fields="kind,items(name,size,timeCreated),nextPageToken",
                    **more,
                )
            )
            for e in page.get("items", ()):
                # Written then: an object's content never changes, only another generation takes its place.
                written = datetime.fromisoformat(e["timeCreated"])
                yield Entry(e["name"].removeprefix(self._prefix), int(e["size"]), written)
            if not page.get("nextPageToken"):
                return
            more = {"pageToken": page["nextPageToken"]}

    def delete(self, key: str) -> None:
        self.unless_missing(lambda: self.blob(key).delete(timeout=self.timeout, retry=None))

    def unfinished(self) -> Iterator[Unfinished]:
        """None: an upload that is not finished can't be listed, shows nothing, costs nothing and ends in a week."""
        yield from ()

    def discard(self, upload: Unfinished) -> None:
        """There is none that could be named."""

    @property
    def _outage(self) -> float:
        return OUTAGE if self._patience is None else self._patience

    def unless_missing(self, once: Callable[[], T]) -> T | None:
        def quiet() -> T | None:
            try:
                return once()
            except Exception as error:
                if is_missing(error):
                    return None
                raise

        return self.call(quiet)

    def call(self, once: Callable[[], T], *, outage: float | None = None) -> T:
        """Again and again while the store may come back; what is refused or settled at once."""
        limit = self._outage if outage is None else outage
        told = partial(explain, where=self.address)
        return patiently(once, told, settled=(Exists, Corrupt, Over, Refused), limit=limit, stop=self._stop)
