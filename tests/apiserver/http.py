"""Requests to the test's API server without a process for each: what kubectl sends, and what it is answered."""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matriarch.kube.kinds import KINDS

if TYPE_CHECKING:
    from dev.apiserver import ApiServer

Object = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """Status code and body; `causes` are (field, message) of a refusal."""

    code: int
    body: Object

    @property
    def causes(self) -> list[tuple[str, str]]:
        return [(c.get("field", ""), c["message"]) for c in (self.body.get("details") or {}).get("causes") or ()]


class Http:
    """One connection as an administrator."""

    def __init__(self, server: ApiServer) -> None:
        pki = server.folder / "pki"
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        self._connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=30)

    def close(self) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: Object | None = None, kind: str = "application/json") -> Answer:
        text = json.dumps(body) if body is not None else None
        self._connection.request(method, path, text, {"Content-Type": kind, "Accept": "application/json"})
        response = self._connection.getresponse()
        return Answer(response.status, json.loads(response.read()))

    def create(self, obj: Object, namespace: str, *, dry_run: bool = False) -> Answer:
        path = KINDS[obj["kind"]].path(namespace)
        return self.ask("POST", f"{path}?fieldValidation=Strict{'&dryRun=All' if dry_run else ''}", obj)

    def merge(self, obj: Object, namespace: str) -> Answer:
        """As `kubectl apply` of a changed manifest: the spec as a merge patch."""
        path = KINDS[obj["kind"]].path(namespace, obj["metadata"]["name"])
        change = {"spec": obj["spec"]}
        return self.ask("PATCH", f"{path}?fieldValidation=Strict&dryRun=All", change, "application/merge-patch+json")

    def apply(self, obj: Object, namespace: str, manager: str, *, status: bool = False) -> Answer:
        """Server-side apply with force."""
        path = KINDS[obj["kind"]].path(namespace, obj["metadata"]["name"], "status" if status else None)
        query = f"fieldManager={manager}&force=true&fieldValidation=Strict"
        return self.ask("PATCH", f"{path}?{query}", obj, "application/apply-patch+yaml")

    def get(self, kind: str, namespace: str, name: str) -> Object:
        return self.ask("GET", KINDS[kind].path(namespace, name)).body

    def delete(self, obj: Object, namespace: str) -> Answer:
        return self.ask("DELETE", KINDS[obj["kind"]].path(namespace, obj["metadata"]["name"]))
