"""How this machine reaches Debian's and Python's packages, handed to image builds as build secrets.

A company's mirror, proxy or certificate authority is part of the machine, never of the project or of an image. A secret
is mounted for one build step and leaves no trace in the layer. A machine with nothing special hands nothing over.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from dev.host import run

_AUTHORITIES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
_PIP = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")


def debian_mirror(sources: Path = Path("/etc/apt")) -> str | None:
    """The address from which this machine gets Debian itself; None where apt's sources name none."""
    for path in [sources / "sources.list", *sorted(sources.glob("sources.list.d/*"))]:
        if path.is_file():
            found = mirror_in(path.read_text())
            if found:
                return found
    return None


def mirror_in(text: str) -> str | None:
    """The first Debian main archive that an apt sources file (one-line or deb822) names.

    Security, backports and third parties' archives don't count: they lack the base system.
    """
    for line in text.splitlines():
        match = re.match(r"\s*(?:deb(?:\s+\[[^]]*\])?\s+|URIs:\s*)(https?://\S+?/debian)/?(?:\s|$)", line)
        if match:
            return match.group(1)
    return None


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
    mirror = debian_mirror()
    if mirror is not None:
        secrets["sources"] = folder / "sources.list"
        secrets["sources"].write_text(f"deb {mirror} trixie main\n")
        apt += ['Dir::Etc::SourceList "/run/secrets/sources";', 'Dir::Etc::SourceParts "/dev/null";']
    secrets["apt"] = folder / "apt.conf"
    secrets["apt"].write_text("\n".join(apt) + "\n")
    return secrets
