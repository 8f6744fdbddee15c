"""The images' base `localhost/debian:trixie-slim`, made by debootstrap where no registry can be reached.

It stands for `docker.io/library/debian:trixie-slim`: a minimal Debian without documentation, manual pages and
translations, and with the same rule for packages that are installed on top.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from dev.host import CACHE, DevError, lock, need_linux_root, need_tools, run, say, succeeds
from dev.hostconfig import debian_archives

NAME = "localhost/debian:trixie-slim"
SUITE = "trixie"

SLIM = """\
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/lintian/*
path-exclude=/usr/share/linda/*
path-exclude=/usr/share/groff/*
path-include=/usr/share/doc/*/copyright
"""

SOURCES = "# Where packages come from is told at build time (dev/hostconfig.py) and does not stay in the image.\n"

# Apt in a container must neither keep archives nor start services.
CONTAINER = {
    "etc/dpkg/dpkg.cfg.d/docker": SLIM,
    "etc/apt/sources.list": SOURCES,
    "etc/apt/apt.conf.d/docker-clean": 'APT::Keep-Downloaded-Packages "false";\nAcquire::Languages "none";\n',
    "usr/sbin/policy-rc.d": "#!/bin/sh\nexit 101\n",
}

REMOVED = (
    "usr/share/doc/*",
    "usr/share/man/*",
    "usr/share/info/*",
    "usr/share/locale/*",
    "usr/share/lintian/*",
    "var/cache/apt/*",
    "var/lib/apt/lists/*",
    "var/log/*",
    "usr/share/i18n/locales/*",
)


def key() -> str:
    """Changes whenever what the base is made of changes."""
    text = repr((SUITE, sorted(CONTAINER.items()), REMOVED))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def ensure() -> str:
    """The base image's name in buildah's store; makes it when it is not there (1-2 min once)."""
    need_linux_root("making the images' base")
    need_tools("buildah", "debootstrap")
    wanted = f"{NAME}-{key()}"
    with lock(CACHE / "base.lock"):
        if not succeeds("buildah", "inspect", "--type", "image", wanted):
            _commit(_bootstrap(), wanted)
    return wanted


def _bootstrap() -> Path:
    root = CACHE / "base" / key()
    if root.exists():
        return root
    say(f"base image: debootstrap of {SUITE}")
    half = root.with_name(f"{root.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    mirror = debian_archives().main
    if mirror is None:
        raise DevError("apt's sources name no Debian archive to make the images' base from; add one, or install docker")
    run("debootstrap", "--variant=minbase", SUITE, half, mirror, timeout=1800)
    for pattern in REMOVED:
        for path in half.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    for name, text in CONTAINER.items():
        path = half / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if name.endswith("policy-rc.d") else 0o644)
    half.rename(root)
    return root


def _commit(root: Path, name: str) -> None:
    container = run("buildah", "from", "scratch").strip()
    try:
        run("buildah", "add", container, root, "/")
        run(
            "buildah",
            "config",
            "--cmd",
            "bash",
            "--env",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            container,
        )
        run("buildah", "commit", container, name)
    finally:
        run("buildah", "rm", container)
    shutil.rmtree(root)


if __name__ == "__main__":
    print(ensure())
