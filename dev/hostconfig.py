"""How this machine reaches Debian's and Python's packages, handed to image builds as build secrets.

A company's mirror, proxy or certificate authority is part of the machine, never of the project or of an image. A secret
is mounted for one build step and leaves no trace in the layer. A machine with nothing special hands nothing over.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from dev.host import run, say

_AUTHORITIES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
_PIP = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")


@dataclass(frozen=True, slots=True)
class Archives:
    """Where this machine gets Debian itself, and its security updates; None where apt's sources name none."""

    main: str | None = None
    security: str | None = None

    def sources(self, suite: str) -> str:
        """A sources.list for `suite`. Without the security archive images would ship known holes, so it is never left
        out where there is one.
        """
        lines = [f"deb {self.main} {suite} main", f"deb {self.main} {suite}-updates main"] if self.main else []
        lines += [f"deb {self.security} {suite}-security main"] if self.security else []
        return "".join(f"{line}\n" for line in lines)


def debian_archives(sources: Path = Path("/etc/apt")) -> Archives:
    """The first archives of each kind that apt's sources name."""
    found = Archives()
    for path in [sources / "sources.list", *sorted(sources.glob("sources.list.d/*"))]:
        if path.is_file():
            more = archives_in(path.read_text())
            found = Archives(found.main or more.main, found.security or more.security)
    return found


def archives_in(text: str) -> Archives:
    """The first Debian archives that an apt sources file (one-line or deb822) names.

    Backports and third parties' archives don't count: they lack the base system.
    """
    main = security = None
    for line in text.splitlines():
        match = re.match(r"\s*(?:deb(?:\s+\[[^]]*\])?\s+|URIs:\s*)(https?://\S+?/debian(-security)?)/?(?:\s|$)", line)
        if match and match.group(2):
            security = security or match.group(1)
        elif match:
            main = main or match.group(1)
    return Archives(main, security)


def _authority() -> Path | None:
    named = [os.environ[name] for name in _AUTHORITIES if os.environ.get(name)]
    for name in [*named, "/etc/ssl/certs/ca-certificates.crt"]:
        path = Path(name)
        if path.is_file():
            return path
    return None


def _pip_settings() -> dict[str, str]:
    pip = shutil.which("pip") or shutil.which("pip3")
    text = run(pip, "config", "list") if pip else ""
    found = {}
    for line in text.splitlines():
        match = re.match(r"(?:global|install|user|site|:env:)\.([a-z-]+)='(.*)'$", line)
        if match and match.group(1) in _PIP:
            found[match.group(1).removeprefix("default-") if "timeout" in match.group(1) else match.group(1)] = (
                match.group(2)
            )
    return found


def _apt_settings() -> list[str]:
    """What this machine's apt was told about dates and proxies (mirrors lag behind); signatures are always checked."""
    dump = run("apt-config", "dump", "--format", '%f "%v";%n') if shutil.which("apt-config") else ""
    wanted = re.compile(r"Acquire::(Check-Valid-Until|Check-Date|https?::Proxy)\b")
    return [line for line in dump.splitlines() if wanted.match(line) and not line.endswith('"";')]


def write_secrets(folder: Path) -> dict[str, Path]:
    """Build secrets by id: `ca` (certificates), `pip` (pip.conf), `apt` (apt.conf), `sources` (sources.list).

    A build step reads them from /run/secrets/ID and must work without them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    secrets: dict[str, Path] = {}
    authority = _authority()
    if authority:
        secrets["ca"] = authority
    pip = _pip_settings()
    if authority:
        pip["cert"] = "/run/secrets/ca"
    secrets["pip"] = folder / "pip.conf"
    secrets["pip"].write_text("[global]\n" + "".join(f"{k} = {v}\n" for k, v in pip.items()))
    apt = ['Acquire::Retries "3";', *_apt_settings()]
    if authority:
        apt.append('Acquire::https::CAInfo "/run/secrets/ca";')
    for name in _PROXIES[:2]:
        value = os.environ.get(name) or os.environ.get(name.upper())
        if value:
            apt.append(f'Acquire::{name.removesuffix("_proxy")}::Proxy "{value}";')
    archives = debian_archives()
    if archives.main:
        secrets["sources"] = folder / "sources.list"
        secrets["sources"].write_text(archives.sources("trixie"))
        if not archives.security:
            say("apt's sources name no debian-security archive: the images are built without Debian's security updates")
        apt += ['Dir::Etc::SourceList "/run/secrets/sources";', 'Dir::Etc::SourceParts "/dev/null";']
    secrets["apt"] = folder / "apt.conf"
    secrets["apt"].write_text("\n".join(apt) + "\n")
    return secrets
