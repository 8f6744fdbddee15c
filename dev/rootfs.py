"""The postgres image's root file system, so that tests without Kubernetes meet the PostgreSQL that ships.

    python -m dev.rootfs                      prints its folder, made when it is not there
    python -m dev.rootfs run [--data DIR] -- postgres --version

It holds PostgreSQL, its tools and the agent's Python dependencies; the project's package is mounted over it from the
working tree, so that a change of the code needs no build. See `dev/enter.py` for what a program inside sees.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dev import enter, images
from dev.host import CACHE, PROJECT, DevError, lock, need_linux_root, run, say, succeeds

UID = GID = 999
FOLDER = CACHE / "rootfs"
PACKAGE = "/opt/matriarch/lib/python3.13/site-packages/matriarch"
ENV = {
    "PATH": "/opt/matriarch/bin:/usr/lib/postgresql/17/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    "HOME": "/tmp",
}


@dataclass(frozen=True, slots=True)
class Rootfs:
    """A root file system in which programs run as uid 999, isolated as in a pod but for the network."""

    path: Path
    package: Path = field(default=PROJECT / "operator" / "matriarch")

    def command(
        self,
        argv: Sequence[str],
        *,
        data: Path | None = None,
        run_folder: Path | None = None,
        binds: Mapping[str, Path] | None = None,
        read_only: Mapping[str, Path] | None = None,
        env: Mapping[str, str] | None = None,
        hostname: str = "localhost",
        netns: str = "",
    ) -> list[str]:
        """The command line that runs `argv` inside as PID 1; give it to subprocess or asyncio.

        `data` becomes /var/lib/matriarch and `run_folder` /run/matriarch (with PostgreSQL's sockets); both are
        made and given to uid 999. Without them these are memory file systems that end with the program. `binds` and
        `read_only` mount more (inside -> outside); new mount points work below /run, /tmp and /etc/matriarch.
        `netns` is a path such as /run/netns/x; empty means the caller's network.
        SIGTERM and friends are handed on; SIGKILL of the returned command kills everything inside.
        """
        mounts = {inside: str(outside) for inside, outside in (binds or {}).items()}
        scratch = []
        for inside, outside in (("/var/lib/matriarch", data), ("/run/matriarch", run_folder)):
            if inside in mounts:
                continue
            if outside is None:
                scratch.append(inside)
            else:
                outside.mkdir(parents=True, exist_ok=True)
                os.chown(outside, UID, GID)
                mounts[inside] = str(outside)
        fixed = {"/etc/resolv.conf": "/etc/resolv.conf", "/etc/hosts": "/etc/hosts", PACKAGE: str(self.package)}
        spec = enter.Spec(
            root=str(self.path),
            uid=UID,
            gid=GID,
            hostname=hostname,
            netns=netns,
            binds=mounts,
            read_only={**fixed, **{inside: str(outside) for inside, outside in (read_only or {}).items()}},
            scratch=scratch,
            env={**ENV, **(env or {})},
        )
        return [sys.executable, "-I", enter.__file__, json.dumps(asdict(spec)), *argv]

    def run(self, argv: Sequence[str], *, stdin: str | None = None, timeout: float = 120, **how: object) -> str:
        """The output of a program inside that must succeed. `how` is what `command` takes."""
        return run(*self.command(argv, **how), stdin=stdin, timeout=timeout)  # type: ignore[arg-type]  # passed through

    def popen(
        self, argv: Sequence[str], *, stdout: object = None, stderr: object = None, **how: object
    ) -> subprocess.Popen[bytes]:
        """Start a program inside; its pid is the outer process's (see `command` for signals)."""
        words = self.command(argv, **how)  # type: ignore[arg-type]  # passed through
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)  # type: ignore[call-overload,no-any-return]  # as Popen takes them

    def exec_command(self, outer: int, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` beside the running program whose outer process has the pid `outer`."""
        inner = inner_pid(outer)
        words = [
            "nsenter",
            f"--target={inner}",
            "--mount",
            "--pid",
            "--ipc",
            "--uts",
            "--net",
            "--root",
            "env",
            "-i",
            "-C",
            "/",
        ]
        words += [f"{k}={v}" for k, v in ENV.items()]
        return [
            *words,
            "setpriv",
            f"--reuid={UID}",
            f"--regid={GID}",
            "--clear-groups",
            "--no-new-privs",
            "--bounding-set=-all",
            *argv,
        ]


def inner_pid(outer: int) -> int:
    """The pid, as this machine counts, of the program that `Rootfs.popen` started as `outer`."""
    children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
    if not children:
        raise DevError(f"process {outer} runs nothing inside (any more)")
    return int(children[0])


def ensure() -> Rootfs:
    """The root file system of the present Containerfile and lock; built and exported when it is not there."""
    need_linux_root("running the postgres image's root file system")
    recipe = images.RECIPES["postgres"]
    path = FOLDER / images.runtime_tag(recipe, images.base_image())
    if not path.exists():
        name = images.runtime(recipe)
        with lock(CACHE / "rootfs.lock"):
            if not path.exists():
                say(f"exporting {name} to {path}")
                _export(name, path)
    return Rootfs(path)


def _export(image: str, path: Path) -> None:
    half = path.with_name(f"{path.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    if images.engine() == "docker":
        container = run("docker", "create", image, "true").strip()
        try:
            run("sh", "-c", f"docker export {container} | tar -x -C '{half}'")
        finally:
            succeeds("docker", "rm", container)
    else:
        container = run("buildah", "from", image).strip()
        try:
            run("cp", "-a", f"{run('buildah', 'mount', container).strip()}/.", half)
        finally:
            succeeds("buildah", "rm", container)
    for folder in (PACKAGE, "/etc/matriarch"):
        (half / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
    for file in ("etc/resolv.conf", "etc/hosts"):
        (half / file).touch()
    os.utime(half)  # `cp -a` brought the image's time
    half.rename(path)
    for old in FOLDER.glob("*"):
        # Another clone may be running programs of its own Containerfile's file system: keep what was made lately.
        if old != path and old.stat().st_mtime < path.stat().st_mtime - 14 * 86400:
            shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb")
    runner = verbs.add_parser("run", help="run a program inside")
    runner.add_argument("--data", type=Path, help="folder that becomes /var/lib/matriarch")
    runner.add_argument("--run-folder", type=Path, help="folder that becomes /run/matriarch")
    runner.add_argument("program", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    try:
        rootfs = ensure()
    except DevError as e:
        sys.exit(f"rootfs: {e}")
    if args.verb != "run":
        print(rootfs.path)
        return
    program = args.program[1:] if args.program[:1] == ["--"] else args.program
    sys.exit(subprocess.call(rootfs.command(program or ["bash"], data=args.data, run_folder=args.run_folder)))


if __name__ == "__main__":
    main()
