"""A few calls to a local cluster's API server, for building the cluster itself: no client library, no kubectl."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any

from dev.host import DevError
from dev.kubebox.names import Cluster

Object = dict[str, Any]


class ApiError(DevError):
    """The API server answered, and said no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """One kept-alive connection with a client certificate. Not for several threads."""

    def __init__(self, cluster: Cluster, stem: str = "admin", timeout: float = 10.0) -> None:
        self._context = ssl.create_default_context(cafile=str(cluster.pki / "ca.crt"))
        self._context.load_cert_chain(cluster.pki / f"{stem}.crt", cluster.pki / f"{stem}.key")
        self._host, self._timeout = cluster.machine, timeout
        self._connection: http.client.HTTPSConnection | None = None

    def call(self, method: str, path: str, body: object = None, kind: str = "application/json") -> Any:
        """The decoded answer. Raises ApiError for a refusal and OSError when nobody answers."""
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(
                self._host, 6443, timeout=self._timeout, context=self._context
            )
        payload = None if body is None else json.dumps(body)
        try:
            self._connection.request(method, path, payload, {"Content-Type": kind, "Accept": "application/json"})
            answer = self._connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as e:
            self.close()
            raise OSError(f"{method} {path}: {e}") from e
        if answer.status >= 400:
            try:
                message = json.loads(content)["message"]
            except (ValueError, KeyError, TypeError):
                message = content.decode(errors="replace")[:500]
            raise ApiError(answer.status, f"{method} {path}: {answer.status} {message}")
        try:
            return json.loads(content)
        except ValueError:
            return content.decode(errors="replace")

    def close(self) -> None:
        """Forget the connection; the next call makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def ready(self) -> bool:
        """Whether the API server answers and calls itself ready."""
        try:
            self.call("GET", "/readyz")
        except (OSError, DevError):
            return False
        return True

    def apply(self, path: str, body: Object) -> Any:
        """Server-side apply of one object under its own path."""
        return self.call("PATCH", f"{path}?fieldManager=kubebox&force=true", body, kind="application/apply-patch+yaml")

    def items(self, path: str) -> list[Object]:
        """The items of a list, as the API server has them in memory."""
        found: list[Object] = self.call("GET", f"{path}?resourceVersion=0")["items"]
        return found
