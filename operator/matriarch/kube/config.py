"""Where the API server is and who we are: a service account in a pod, a kubeconfig elsewhere.

Understood of a kubeconfig: certificates and keys (inline or files), tokens (inline or file), exec plugins,
`insecure-skip-tls-verify`, `tls-server-name`, `proxy-url`. Environment proxies are not used: a database's agent must
reach its API server directly.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matriarch.errors import Refused, Unavailable

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TOKEN_AGE = 60.0  # seconds: the kubelet rotates the token long before it expires, any small number does
_PLUGIN_TIMEOUT = 30.0


@dataclass(slots=True)
class Credentials:
    """A bearer token from a file or a plugin, or none. Its value never appears in a repr."""

    token_file: Path | None = None
    command: tuple[str, ...] = ()
    command_env: Mapping[str, str] = field(default_factory=dict, repr=False)
    command_version: str = ""
    _token: str | None = field(default=None, repr=False)
    _read_at: float = float("-inf")

    async def header(self, *, fresh: bool = False) -> dict[str, str]:
        """The Authorization header; `fresh` after a 401 reads file or plugin again."""
        if self.token_file is not None:
            if fresh or time.monotonic() - self._read_at > _TOKEN_AGE:
                self._token = self.token_file.read_text().strip()
                self._read_at = time.monotonic()
        elif self.command and (fresh or self._token is None):
            self._token = await self._run()
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    async def _run(self) -> str:
        info = {"apiVersion": self.command_version, "kind": "ExecCredential", "spec": {"interactive": False}}
        env = {**os.environ, **self.command_env, "KUBERNETES_EXEC_INFO": json.dumps(info)}
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*self.command, env=env, stdout=pipe, stderr=pipe)
        try:
            out, err = await asyncio.wait_for(process.communicate(), _PLUGIN_TIMEOUT)
        except TimeoutError:
            process.kill()
            raise Unavailable(f"The login helper {self.command[0]} took more than {_PLUGIN_TIMEOUT:.0f} s.") from None
        if process.returncode != 0:
            raise Unavailable(f"The login helper {self.command[0]} failed: {err.decode(errors='replace').strip()}")
        token = json.loads(out).get("status", {}).get("token")
        if not token:
            raise Refused(f"The login helper {self.command[0]} returned no token; log in with a token or certificate.")
        return str(token)


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach one API server."""

    server: str
    tls: ssl.SSLContext | None
    credentials: Credentials
    namespace: str = "default"
    server_name: str | None = None
    proxy: str | None = None


def connection(kubeconfig: str | Path | None = None, context: str | None = None) -> Connection:
    """In a pod its service account; else the named kubeconfig, $KUBECONFIG or ~/.kube/config.

    Raises:
        Refused: there is none, or it lacks what is needed.
    """
    if kubeconfig is None and context is None and "KUBERNETES_SERVICE_HOST" in os.environ and _ACCOUNT.exists():
        return _in_cluster()
    path = Path(kubeconfig or os.environ.get("KUBECONFIG", "").split(os.pathsep)[0] or "~/.kube/config").expanduser()
    return _from_kubeconfig(path, context)


def _in_cluster() -> Connection:
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    host = f"[{host}]" if ":" in host else host
    return Connection(
        server=f"https://{host}:{port}",
        tls=ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt")),
        credentials=Credentials(token_file=_ACCOUNT / "token"),
        namespace=(_ACCOUNT / "namespace").read_text().strip(),
    )


def _from_kubeconfig(path: Path, context_name: str | None) -> Connection:
    import yaml  # only people and tests come here; pods start without it

    try:
        document: dict[str, Any] = yaml.safe_load(path.read_text()) or {}
    except FileNotFoundError:
        raise Refused(f"No Kubernetes to talk to: {path} does not exist; set KUBECONFIG.") from None

    def named(section: str, name: str) -> dict[str, Any]:
        for entry in document.get(section) or ():
            if entry.get("name") == name:
                found: dict[str, Any] = entry.get(section.rstrip("s")) or {}
                return found
        raise Refused(f"{path} has no entry {name!r} under {section}.")

    context_name = context_name or document.get("current-context") or ""
    context = named("contexts", context_name)
    cluster, user = named("clusters", context["cluster"]), named("users", context.get("user", ""))
    server = str(cluster["server"]).rstrip("/")
    tls = _tls(cluster, user, path.parent) if server.startswith("https") else None
    return Connection(
        server=server,
        tls=tls,
        credentials=_credentials(user, path.parent),
        namespace=context.get("namespace") or "default",
        server_name=cluster.get("tls-server-name"),
        proxy=cluster.get("proxy-url"),
    )


def _material(entry: Mapping[str, Any], key: str, folder: Path) -> bytes | None:
    if data := entry.get(f"{key}-data"):
        return base64.b64decode(str(data))
    if file := entry.get(key):
        return Path(folder, file).read_bytes()
    return None


def _tls(cluster: Mapping[str, Any], user: Mapping[str, Any], folder: Path) -> ssl.SSLContext:
    authority = _material(cluster, "certificate-authority", folder)
    tls = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    certificate, key = _material(user, "client-certificate", folder), _material(user, "client-key", folder)
    if certificate and key:
        with tempfile.NamedTemporaryFile() as pem:  # the ssl module loads keys from files only
            pem.write(certificate + b"\n" + key)
            pem.flush()
            tls.load_cert_chain(pem.name)
    return tls


def _credentials(user: Mapping[str, Any], folder: Path) -> Credentials:
    if token_file := user.get("tokenFile"):
        return Credentials(token_file=folder / token_file)
    if token := user.get("token"):
        return Credentials(_token=str(token))
    if plugin := user.get("exec"):
        env = {str(v["name"]): str(v["value"]) for v in plugin.get("env") or ()}
        command = (str(plugin["command"]), *map(str, plugin.get("args") or ()))
        return Credentials(command=command, command_env=env, command_version=str(plugin.get("apiVersion", "")))
    return Credentials()
