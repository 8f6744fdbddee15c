"""The Go programs that the development environment runs, built once from Go modules and kept in the cache.

    python -m dev.programs [NAME...]     build what is missing (all that a cluster and the product need; --tests: all)

| program | what | pinned by |
|---|---|---|
| kubebox | etcd, kube-apiserver, controller-manager, scheduler, kubelet, kube-proxy, kubectl | dev/go/kubebox/go.sum |
| pause | the process that holds a pod's namespaces | its source |
| coredns | the cluster's DNS server | its version |
| versitygw | a real S3 server on a folder | its version |
| fake-gcs-server | an emulator of Google Cloud Storage on a folder | its version |
| helm | the chart's tool | its version |
| kstatus | how Flux and Helm judge a resource, for tests | dev/go/kstatus/go.sum |
| promtool | Prometheus's rule engine, for tests of the alerts | its version |

A program's file name in the cache holds a hash of what it is made of: a change builds a new file beside the old one,
and a file under its final name is always whole. `bin/NAME` is a link to the newest.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dev.host import CACHE, PROJECT, DevError, lock, run, say

BIN = CACHE / "bin"
KUBERNETES = "1.34.4"
_STAMPS = " ".join(
    f"-X {package}.gitVersion=v{KUBERNETES} -X {package}.gitMajor=1 -X {package}.gitMinor={KUBERNETES.split('.')[1]}"
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
)


@dataclass(frozen=True, slots=True)
class Program:
    """Built either from a folder of this project or from a module at a version; `takes` is for the one who waits."""

    name: str
    takes: str
    folder: Path | None = None
    module: str = ""
    version: str = ""
    ldflags: str = "-s -w"
    tags: str = ""
    tests: bool = False  # for nothing but tests

    def key(self) -> str:
        """12 hex digits over everything that decides what is built."""
        sources = [f"{p.name}\0{p.read_text()}" for p in sorted(self.folder.iterdir())] if self.folder else []
        tags = [self.tags] if self.tags else []  # so that those without are what they were before there were any
        return digest(repr((self.name, self.module, self.version, self.ldflags)), *tags, *sources)

    @property
    def path(self) -> Path:
        """Where the built program is or will be."""
        return BIN / f"{self.name}-{self.key()}"


def digest(*parts: str) -> str:
    """12 hex digits over texts in their order."""
    h = hashlib.sha256()
    for part in parts:
        raw = part.encode()
        h.update(f"{len(raw)}:".encode() + raw)
    return h.hexdigest()[:12]


GO = PROJECT / "dev" / "go"
_PROMETHEUS = "github.com/prometheus/prometheus"
PROGRAMS = {
    p.name: p
    for p in (
        Program("kubebox", "6-10 min", folder=GO / "kubebox", ldflags=f"-s -w {_STAMPS}"),
        Program("pause", "seconds", folder=GO / "pause"),
        Program("coredns", "2 min", module="github.com/coredns/coredns", version="v1.12.4"),
        Program("versitygw", "2 min", module="github.com/versity/versitygw/cmd/versitygw", version="v1.8.0"),
        Program("fake-gcs-server", "2 min", module="github.com/fsouza/fake-gcs-server", version="v1.56.1", tests=True),
        Program("kstatus", "1 min", folder=GO / "kstatus"),
        Program("helm", "3 min", module="helm.sh/helm/v3/cmd/helm", version="v3.22.0"),
        # The tag leaves out the clients of all the clouds in which Prometheus can look for targets.
        Program(
            "promtool",
            "4-6 min",
            module=f"{_PROMETHEUS}/cmd/promtool",
            version="v0.316.0",
            tags="remove_all_sd",
            tests=True,
        ),
    )
}


def ensure(name: str) -> Path:
    """The path of a program; built when it is not there."""
    program = PROGRAMS[name]
    if not program.path.exists():
        with lock(CACHE / "programs.lock"):
            if not program.path.exists():
                _build(program)
    return program.path


def _need_go() -> None:
    if shutil.which("go") is None:
        raise DevError("Go is not installed; run `make setup`, or install Go 1.21 or newer (Debian: golang-go)")
    match = re.search(r"go1\.(\d+)", run("go", "version"))
    if match and int(match.group(1)) < 21:
        raise DevError(
            f"{match.group(0)} is too old to fetch the Go version that Kubernetes wants; install Go 1.21 or newer"
        )


def _build(program: Program) -> None:
    _need_go()
    say(f"building {program.name} ({program.takes}, once)")
    BIN.mkdir(parents=True, exist_ok=True)
    half = BIN / f".{program.name}.{os.getpid()}"
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir()
    # The result must not depend on the caller's Go settings, and runs in containers that have no C library.
    env = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOBIN": str(half),
        "GOFLAGS": "-buildvcs=false -mod=mod",
        "GOTOOLCHAIN": "auto",
    }
    log = CACHE / "logs" / f"program-{program.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    if program.folder:
        env["GOFLAGS"] = "-buildvcs=false -mod=readonly"
        words, cwd = ["go", "build", "-o", str(half / program.name), "-ldflags", program.ldflags, "."], program.folder
    else:
        words, cwd = ["go", "install", "-ldflags", program.ldflags, "-tags", program.tags], half
        words.append(f"{program.module}@{program.version}")
    try:
        with log.open("w") as f:
            done = subprocess.run(
                words, cwd=cwd, env=env, stdout=f, stderr=f, stdin=subprocess.DEVNULL, timeout=3600, check=False
            )
        if done.returncode:
            last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise DevError(f"building {program.name} failed (all of it in {log}); it ended so:\n{last}")
        (half / program.name).rename(program.path)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    link = BIN / f".{program.name}.link"
    link.unlink(missing_ok=True)
    link.symlink_to(program.path.name)
    link.rename(BIN / program.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", help=f"of: {', '.join(PROGRAMS)}")
    parser.add_argument("--tests", action="store_true", help="also those that only tests use")
    args = parser.parse_args()
    unknown = [n for n in args.name if n not in PROGRAMS]
    if unknown:
        parser.error(f"unknown program {', '.join(unknown)}; there are {', '.join(PROGRAMS)}")
    try:
        for name in args.name or [p.name for p in PROGRAMS.values() if args.tests or not p.tests]:
            print(ensure(name))
    except DevError as e:
        sys.exit(f"programs: {e}")


if __name__ == "__main__":
    main()
