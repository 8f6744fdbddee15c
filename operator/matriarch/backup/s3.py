"""An S3 bucket as a store, for AWS and for everything that speaks its protocol.

Three rules that other tools paid for: a request is only repeated from an immutable buffer whose digest was fixed
before the first try (Content-MD5, which every implementation checks); a conditional request whose answer was lost is
settled by looking, never by trying harder; the outcome of CompleteMultipartUpload is what HEAD says.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from matriarch.backup.jobspec import Reason, S3Store
from matriarch.backup.patience import patiently
from matriarch.backup.s3errors import explain, explain_lock
from matriarch.backup.stop import Stop
from matriarch.backup.store import SMALL, Entry, Exists, Unfinished
from matriarch.errors import Corrupt, Unavailable

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

T = TypeVar("T")

PART = 16 << 20  # bytes; the memory ceiling rests on it, see docs/backup.md
MAX_PARTS = 10_000
LOCKED = frozenset(("owner.json", "logical", "physical", "manifests", "keys", "tombstones", "wal"))
"""Folders whose objects are written once and for good; markers are renewed and taken away."""
IN_FLIGHT = 2  # parts on their way while the next one fills
OUTAGE = 180.0  # seconds a store may be away in the middle of the work before it fails
READ_TIMEOUT = 60.0  # seconds without a byte of an answer until a request counts as lost
_PIECE = 1 << 20
_MARK = "upload"  # of the metadata of an object that was sent in parts: whose it is


class S3:
    """See store.Store."""

    def __init__(
        self, spec: S3Store, stop: Stop | None = None, *, outage: float | None = None, connections: int | None = None
    ) -> None:
        """`outage`: seconds that a call waits for a store that is away; `connections`: calls at the same time."""
        self._spec, self._patience = spec, outage
        self._connections = connections or 4 * IN_FLIGHT + 2  # several objects at once in a physical backup
        self._stop = stop or Stop()
        self._bucket = spec.bucket
        self._prefix = spec.prefix.strip("/") + "/" if spec.prefix.strip("/") else ""
        self._made: S3Client | None = None

    @property
    def address(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    @property
    def _outage(self) -> float:
        return OUTAGE if self._patience is None else self._patience

    @property
    def client(self) -> S3Client:
        if self._made is None:
            self._made = _client(self._spec, self._connections)
        return self._made

    def check(self) -> None:
        # A list, not HeadBucket: HEAD has no body, so a refusal could not say why.
        self._call(
            lambda: self.client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1), outage=15.0
        )
        if self._spec.lock is not None:
            self._call(self._require_lock, outage=15.0)

    def _require_lock(self) -> None:
        """Before anything is written that was to be safe and is not."""
        try:
            found = self.client.get_object_lock_configuration(Bucket=self._bucket)["ObjectLockConfiguration"]
        except Exception as error:
            raise explain_lock(error, self.address) from error
        if found.get("ObjectLockEnabled") != "Enabled":
            raise explain_lock(None, self.address)

    def _retention(self, key: str) -> dict[str, Any]:
        lock = self._spec.lock
        if lock is None or key.partition("/")[0] not in LOCKED:
            return {}
        until = datetime.now(UTC) + timedelta(days=lock.days)
        return {"ObjectLockMode": lock.mode, "ObjectLockRetainUntilDate": until}

    def get(self, key: str) -> bytes | None:
        def once() -> bytes:
            answer = self.client.get_object(Bucket=self._bucket, Key=self._prefix + key)
            with answer["Body"] as body:
                data = body.read(SMALL + 1)
            if len(data) > SMALL:
                raise Corrupt(f"{self.address}/{key} is too big for what it is.", reason=Reason.OBJECT_CORRUPT)
            # A read of at most so many bytes does not say that the connection ended before the last of them.
            if len(data) < (size := _part_of(answer, "ContentLength")):
                raise ConnectionError(f"the answer ended at byte {len(data)} of {size}")
            return data

        return self._unless_missing(once)

    @contextmanager
    def read(self, key: str) -> Iterator[Iterator[bytes]]:
        """Goes on where a broken connection ended, by range, and only on the very same object (its ETag)."""
        yield self.pieces(key)

    def pieces(self, key: str, **of: Any) -> Iterator[bytes]:
        """`of`: which version, in the words of GetObject."""
        done, etag, total = 0, "", -1
        failures_since = 0.0
        while total < 0 or done < total:
            try:
                more: dict[str, Any] = {"Range": f"bytes={done}-", "IfMatch": etag} if done else {}
                answer = self.client.get_object(Bucket=self._bucket, Key=self._prefix + key, **of, **more)
                etag = _part_of(answer, "ETag")
                total = done + _part_of(answer, "ContentLength")
                with answer["Body"] as body:
                    while piece := body.read(_PIECE):
                        done += len(piece)
                        failures_since = 0.0
                        yield piece
                if done < total:
                    raise ConnectionError(f"the answer ended at byte {done} of {total}")
                return
            except Exception as error:
                if _is_missing(error):
                    raise Corrupt(f"The object {self.address}/{key} is gone.", reason=Reason.OBJECT_MISSING) from None
                if _is_taken(error):
                    raise Corrupt(
                        f"The object {self.address}/{key} was replaced while it was read.", reason=Reason.OBJECT_CORRUPT
                    ) from None
                explained = explain(error, self.address)
                if not isinstance(explained, Unavailable):
                    raise explained from error
                failures_since = failures_since or time.monotonic()
                if time.monotonic() - failures_since > self._outage:
                    raise explained from error
                self._stop.sleep(1.0)

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if if_absent else {}
        condition |= self._retention(key)
        lost = False  # an earlier try may have worked, so what is there may be our own

        def once() -> None:
            nonlocal lost
            try:
                self.client.put_object(
                    Bucket=self._bucket, Key=self._prefix + key, Body=data, ContentMD5=_md5(data), **condition
                )
            except Exception as error:
                no_answer = getattr(error, "response", None) is None
                lost = lost or _may_have_worked(error)  # before the look, which may fail too
                # A server that refuses early may hang up before we read why: looking tells.
                taken = if_absent and (_is_taken(error) or (no_answer and self.size(key) is not None))
                if not taken:
                    raise
                if not (lost and self.get(key) == data):
                    raise Exists(key) from None

        self._call(once)

    def upload(self, key: str, *, estimate: int) -> _MultipartUpload:
        return _MultipartUpload(self, key, part=max(PART, -(-estimate // 9000)))

    def size(self, key: str) -> int | None:
        return self._unless_missing(
            lambda: _part_of(self.client.head_object(Bucket=self._bucket, Key=self._prefix + key), "ContentLength")
        )

    def list(self, folder: str) -> Iterator[Entry]:
        token: dict[str, Any] = {}
        while True:
            page = self._call(
                lambda token=token: _whole_list(  # type: ignore[misc]  # a bound default
                    self.client.list_objects_v2(
                        Bucket=self._bucket, Prefix=f"{self._prefix}{folder}/" if folder else self._prefix, **token
                    )
                )
            )
            for found in page.get("Contents", ()):
                yield Entry(found["Key"].removeprefix(self._prefix), found["Size"], found["LastModified"])
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, key: str) -> None:
        self._call(lambda: self.client.delete_object(Bucket=self._bucket, Key=self._prefix + key))

    def unfinished(self) -> Iterator[Unfinished]:
        markers: dict[str, Any] = {}
        while True:
            page = self._call(
                lambda markers=markers: _whole_list(  # type: ignore[misc]  # as above
                    self.client.list_multipart_uploads(Bucket=self._bucket, Prefix=self._prefix, **markers)
                )
            )
            for found in page.get("Uploads", ()):
                yield Unfinished(found["Key"].removeprefix(self._prefix), found["UploadId"], found["Initiated"])
            if not page.get("IsTruncated"):
                return
            markers = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page.get("NextUploadIdMarker", "")}

    def discard(self, upload: Unfinished) -> None:
        def once() -> None:
            self.client.abort_multipart_upload(Bucket=self._bucket, Key=self._prefix + upload.key, UploadId=upload.id)

        self._unless_missing(once)

    def now(self) -> datetime:
        answer = self._call(lambda: self.client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1))
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        return parsedate_to_datetime(date).astimezone(UTC) if date else datetime.now(UTC)

    def versions(self, begin: str) -> Iterator[tuple[str, int | None, datetime, bool, str]]:
        """Every version of the keys that begin so: key, size (None: a deletion), when, whether it is the latest, id."""
        markers: dict[str, Any] = {}
        while True:
            page = self._call(
                lambda markers=markers: _whole_list(  # type: ignore[misc]  # as above
                    self.client.list_object_versions(Bucket=self._bucket, Prefix=self._prefix + begin, **markers)
                )
            )
            for v in page.get("Versions", ()):
                yield v["Key"].removeprefix(self._prefix), v["Size"], v["LastModified"], v["IsLatest"], v["VersionId"]
            for d in page.get("DeleteMarkers", ()):
                yield d["Key"].removeprefix(self._prefix), None, d["LastModified"], d["IsLatest"], d["VersionId"]
            if not page.get("IsTruncated"):
                return
            markers = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page.get("NextVersionIdMarker", "")}

    def is_versioned(self) -> bool:
        """Also one that is suspended keeps what it has."""
        return bool(self._call(lambda: self.client.get_bucket_versioning(Bucket=self._bucket)).get("Status"))

    def _unless_missing(self, once: Callable[[], T]) -> T | None:
        def quiet() -> T | None:
            try:
                return once()
            except Exception as error:
                if _is_missing(error):
                    return None
                raise

        return self._call(quiet)

    def _call(self, once: Callable[[], T], *, outage: float | None = None) -> T:
        """botocore tries a few times within seconds; this goes on while the store may come back."""
        limit = self._outage if outage is None else outage
        told = partial(explain, where=self.address)
        return patiently(once, told, settled=(Exists, Corrupt), limit=limit, stop=self._stop)


class _MultipartUpload:
    """Parts from immutable buffers, IN_FLIGHT at a time; a small object goes as one conditional PUT."""

    def __init__(self, store: S3, key: str, *, part: int) -> None:
        self._store, self._key, self._part = store, key, part
        self._buffer = bytearray()
        self._id: str | None = None
        self._sent: list[str] = []  # ETags in order
        self._flying: deque[Future[str]] = deque()
        self._begun = 0
        self._token = secrets.token_hex(16)  # by which the object is known for this upload's
        self._pool = ThreadPoolExecutor(max_workers=IN_FLIGHT, thread_name_prefix="upload")

    def _target(self) -> dict[str, Any]:
        return {"Bucket": self._store._bucket, "Key": self._store._prefix + self._key}  # noqa: SLF001 - its other half

    def write(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= (size := self._part_size()):
            part = bytes(memoryview(self._buffer)[:size])
            del self._buffer[:size]
            self._send(part)

    def _part_size(self) -> int:
        """Bytes of the next part: an estimate that was too small must not end at part 10,000."""
        return self._part * (1 if self._begun < 4000 else 2 if self._begun < 7000 else 8)

    def _send(self, part: bytes) -> None:
        call = self._store._call  # noqa: SLF001 - its other half
        client = self._store.client
        if self._id is None:
            # A repeated request may leave an upload without parts behind: the sweeper takes those.
            kept = self._store._retention(self._key)  # noqa: SLF001 - its other half
            mark = {_MARK: self._token}
            self._id = str(
                call(
                    lambda: _part_of(
                        client.create_multipart_upload(**self._target(), Metadata=mark, **kept), "UploadId"
                    )
                )
            )
        while len(self._flying) >= IN_FLIGHT:
            self._sent.append(self._flying.popleft().result())
        self._begun += 1
        number, upload = self._begun, self._id
        digest = _md5(part)

        def send() -> str:
            answer = call(
                lambda: _part_of(
                    client.upload_part(
                        **self._target(), PartNumber=number, UploadId=upload, Body=part, ContentMD5=digest
                    ),
                    "ETag",
                )
            )
            return str(answer)

        self._flying.append(self._pool.submit(send))

    def finish(self) -> None:
        if self._id is None:
            self._pool.shutdown()
            self._store.put(self._key, bytes(self._buffer), if_absent=True)
            return
        if self._buffer:
            part, self._buffer = bytes(self._buffer), bytearray()
            self._send(part)
        while self._flying:
            self._sent.append(self._flying.popleft().result())
        self._pool.shutdown()
        self._complete()

    def _complete(self) -> None:
        parts: Any = [{"ETag": tag, "PartNumber": number} for number, tag in enumerate(self._sent, 1)]
        lost = False  # as in `put`

        def once() -> None:
            nonlocal lost
            try:
                self._store.client.complete_multipart_upload(
                    **self._target(), UploadId=str(self._id), MultipartUpload={"Parts": parts}, IfNoneMatch="*"
                )
            except Exception as error:
                lost = lost or _may_have_worked(error)
                # After a lost answer: the upload is gone because it became the object.
                if lost and (_is_missing(error) or _is_taken(error)) and self._is_there():
                    return
                if _is_taken(error):
                    raise Exists(self._key) from None
                raise

        self._store._call(once)  # noqa: SLF001 - its other half
        self._id = None  # nothing is left to abort

    def _is_there(self) -> bool:
        """Not only one of this size: it may be another writer's."""
        client = self._store.client
        found = self._store._unless_missing(lambda: client.head_object(**self._target()))  # noqa: SLF001
        return found is not None and found.get("Metadata", {}).get(_MARK) == self._token

    def abort(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for flying in self._flying:
            with suppress(Exception):
                flying.result(timeout=30)
        if self._id is not None:
            with suppress(Exception):  # the store may be what failed: the sweeper takes what stays
                self._store.client.abort_multipart_upload(**self._target(), UploadId=self._id)


def _client(spec: S3Store, connections: int) -> S3Client:
    import boto3
    from botocore.config import Config

    def secret(name: str) -> str | None:
        path = Path(spec.credentials) / name
        with suppress(FileNotFoundError, NotADirectoryError):
            return path.read_text().strip()
        return None

    folder = bool(spec.credentials)
    ca = Path(spec.credentials) / "ca.crt"
    path_style = spec.path_style if spec.path_style is not None else spec.endpoint is not None
    config = Config(
        connect_timeout=5,
        read_timeout=READ_TIMEOUT,
        retries={"mode": "standard", "total_max_attempts": 3},
        # Newer checksum defaults are refused by many implementations; Content-MD5 is understood by all.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if path_style else "auto", "payload_signing_enabled": False},
        max_pool_connections=connections,
        tcp_keepalive=True,
    )
    try:
        return boto3.session.Session().client(
            "s3",
            region_name=spec.region or os.environ.get("AWS_REGION") or ("us-east-1" if spec.endpoint else None),
            endpoint_url=spec.endpoint,
            aws_access_key_id=secret("access-key") if folder else None,
            aws_secret_access_key=secret("secret-key") if folder else None,
            aws_session_token=secret("session-token") if folder else None,
            verify=str(ca) if folder and ca.exists() else None,
            config=config,
        )
    except Exception as error:
        raise explain(error, f"s3://{spec.bucket}") from error


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _code(error: BaseException) -> str:
    answer = getattr(error, "response", None) or {}
    return str(answer.get("Error", {}).get("Code", ""))


def _may_have_worked(error: BaseException) -> bool:
    """Whether a request that ended so, or a try of it by botocore before the last, may have had its effect."""
    answer = getattr(error, "response", None)
    if answer is None:
        return True
    about = answer.get("ResponseMetadata", {})
    return int(about.get("HTTPStatusCode", 500)) >= 500 or int(about.get("RetryAttempts", 0)) > 0


def _part_of(answer: Any, name: str) -> Any:
    """What each such answer has. A connection that ends among an answer's headers looks like one with fewer of them."""
    if name not in answer:
        raise ConnectionError(f"the answer ended before its {name}")
    return answer[name]


def _whole_list(page: T) -> T:
    """A list without its end is none: what it would not name would be taken for gone."""
    _part_of(page, "IsTruncated")
    return page


def _is_missing(error: BaseException) -> bool:
    return _code(error) in ("NoSuchKey", "404", "NotFound", "NoSuchUpload")


def _is_taken(error: BaseException) -> bool:
    return _code(error) in ("PreconditionFailed", "412")
