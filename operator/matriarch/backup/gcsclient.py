"""Google's client library, made for one bucket: who we are, whom we trust, how many connections there may be.

Imported when such a store is opened, and not before: the library takes half of what an interpreter takes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import google.auth
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import MalformedError
from google.auth.transport.requests import AuthorizedSession
from google.cloud import storage
from google.oauth2 import service_account
from requests.adapters import HTTPAdapter

from matriarch.backup.gcserrors import explain
from matriarch.backup.jobspec import GcsStore, Reason
from matriarch.errors import MatriarchError, Refused

KEY_FILE = "key.json"
SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"


class _Session(AuthorizedSession):  # type: ignore[misc]  # the library has no types
    """`ca`: a file; a session's own setting would give way to REQUESTS_CA_BUNDLE, which a machine may have."""

    ca: str | None = None

    def merge_environment_settings(self, *args: Any, **kwargs: Any) -> Any:
        found = super().merge_environment_settings(*args, **kwargs)
        return {**found, "verify": self.ca} if self.ca else found


def make_client(spec: GcsStore, url: str, connections: int, where: str) -> Any:
    """Nothing is contacted yet. Raises MatriarchError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused(f"{url} is no address of a store; write https://host:port.", reason=Reason.STORE_REFUSED)
    # Or it asks for the bucket's own data in the background, for traces, which takes a right that no backup needs.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    try:
        credentials = _credentials(spec, url, where)
        session = _Session(credentials)
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(pool_connections=2, pool_maxsize=connections))
        ca = Path(spec.credentials) / "ca.crt"
        if spec.credentials and ca.exists():
            session.ca = str(ca)
        return storage.Client(
            project=spec.project, credentials=credentials, _http=session, client_options={"api_endpoint": url}
        )
    except MatriarchError:
        raise
    except Exception as error:
        raise explain(error, where) from error


def _credentials(spec: GcsStore, url: str, where: str) -> Any:
    """None are ever sent to a server without TLS, which can only be a test's."""
    if url.startswith("http://"):
        return AnonymousCredentials()
    file = Path(spec.credentials) / KEY_FILE
    if not spec.credentials or not file.exists():
        found, _ = google.auth.default(scopes=[SCOPE])
        return found
    try:
        return service_account.Credentials.from_service_account_info(json.loads(file.read_text()), scopes=[SCOPE])
    except (ValueError, KeyError, TypeError, AttributeError, MalformedError):
        # Without the cause: it may quote the file.
        raise Refused(
            f"The key file for {where} is not one of a service account; store the JSON that Google gave as {KEY_FILE}.",
            reason=Reason.CREDENTIALS_REFUSED,
        ) from None
