"""Stores on the emulator of Google Cloud Storage, what Google does and it does not, and a service that gives tokens.

The emulator takes a question about an upload for its end, a repeated part for a new one, knows no end of an upload
before its last part, and checks no credentials. `Google` stands before it and puts the first three right, by the
documented protocol of resumable uploads; the fourth is what `Tokens` is for.
"""

from __future__ import annotations

import base64
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from dev.gcs import GcsServer
from dev.s3 import S3Server
from matriarch.backup.gcs import Gcs
from matriarch.backup.jobspec import GcsStore
from tests.postgres.backup.faultproxy import FaultProxy


def gcs_spec(server: GcsServer, bucket: str, prefix: str = "backups", credentials: str = "") -> GcsStore:
    return GcsStore(bucket=bucket, prefix=prefix, endpoint=server.endpoint, credentials=credentials)


def gcs(server: GcsServer, bucket: str, prefix: str = "backups") -> Gcs:
    return Gcs(gcs_spec(server, bucket, prefix))


@dataclass
class _Session:
    have: int = 0
    end: bytes | None = None  # the answer that it ended with


class Google(FaultProxy):
    """See faultproxy; and uploads end as Google ends them."""

    def __init__(self, real: S3Server | GcsServer, port: int) -> None:
        super().__init__(real, port)
        self._sessions: dict[str, _Session] = {}
        self._turn = threading.Lock()

    def _pass_on(self, request: bytes) -> bytes:
        head, _, body = request.partition(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        ids = parse_qs(urlsplit(target).query).get("upload_id")
        if ids is None:
            return super()._pass_on(request)
        with self._turn:
            session = self._sessions.setdefault(ids[0], _Session())
            if method == "DELETE" and session.end is None:
                session.end = _answer("404 Not Found")
                return _answer("499 Client Closed Request")
            if session.end is None:
                self._part(session, head, body)
            return session.end or _answer("308 Resume Incomplete", session.have)

    def _part(self, session: _Session, head: bytes, body: bytes) -> None:
        found = re.search(rb"(?im)^content-range: bytes (?:(\d+)-\d+|\*)/(\d+|\*)\r?$", head)
        assert found is not None
        first, total = found.groups()
        if first is not None:
            assert int(first) <= session.have  # a gap, which Google refuses
            body = body[session.have - int(first) :]
        if not body and (total == b"*" or int(total) != session.have):
            return
        end = session.have + len(body)
        said = f"bytes {session.have}-{end - 1}/" if body else "bytes */"
        head = re.sub(rb"(?im)^content-range: [^\r\n]*", f"Content-Range: {said}".encode() + total, head)
        head = re.sub(rb"(?im)^content-length: [^\r\n]*", f"Content-Length: {len(body)}".encode(), head)
        answer = super()._pass_on(head + b"\r\n\r\n" + body)
        if answer.split(b" ", 2)[1] == b"308":
            session.have = end
        else:
            session.end = answer


def _answer(status: str, have: int = 0) -> bytes:
    known = f"Range: bytes=0-{have - 1}\r\n" if have else ""
    return f"HTTP/1.1 {status}\r\n{known}Content-Length: 0\r\nConnection: close\r\n\r\n".encode()


class Tokens:
    """What a service account's key is good for: a signed statement is exchanged for a token."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.address = ""
        self.given: list[str] = []
        self.away = False

    def key_file(self, folder: Path, *, of_another: bool = False) -> Path:
        """As Google hands it out; `of_another`: of an account that this service does not know."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048) if of_another else self._key
        folder.mkdir(exist_ok=True)
        file = folder / "key.json"
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        account: dict[str, str] = {
            "type": "service_account",
            "project_id": "acme",
            "private_key_id": "1",
            "private_key": pem.decode(),
            "client_email": "backups@acme.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": self.address,
        }
        file.write_text(json.dumps(account))
        return file

    def exchange(self, form: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        if self.away:
            return 503, {"error": "temporarily_unavailable"}
        head, body, signature = form["assertion"][0].split(".")
        try:
            self._key.public_key().verify(
                _bytes(signature), f"{head}.{body}".encode(), padding.PKCS1v15(), hashes.SHA256()
            )
        except InvalidSignature:
            return 400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
        self.given.append(json.loads(_bytes(body))["scope"])
        return 200, {"access_token": f"token-{len(self.given)}", "expires_in": 3600, "token_type": "Bearer"}


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@contextmanager
def tokens() -> Iterator[Tokens]:
    service = Tokens()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            status, told = service.exchange(form)
            text = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        service.address = f"http://127.0.0.1:{listening.server_address[1]}/token"
        thread = threading.Thread(target=listening.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield service
        finally:
            listening.shutdown()
            thread.join()
