"""Builds the images `localhost/matriarch/{postgres,operator}` and keeps them as archives that nodes can import.

    python -m dev.images build            build what is missing; prints names and archives as JSON
    python -m dev.images build --env      the same as lines for a shell
    python -m dev.images names            what the names would be, without building

Built by docker when an engine answers, otherwise by buildah. A tag is a hash over everything that goes in, so an image
whose tag exists is never built again, and a node that has a tag has exactly that content.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dev import base
from dev.host import CACHE, PROJECT, DevError, lock, run, say, succeeds
from dev.hostconfig import write_secrets

REGISTRY_BASE = "docker.io/library/debian:trixie-slim"
ARCHIVES = CACHE / "images"
KEPT = 4  # archives of each image that stay in the cache


@dataclass(frozen=True, slots=True)
class Recipe:
    """One image: the folder of its Containerfile, its lock, the package that is copied in last; all below `root`."""

    name: str
    root: Path

    @property
    def folder(self) -> Path:
        """The Containerfile and what else it builds from."""
        return self.root / "images" / self.name

    @property
    def containerfile(self) -> Path:
        return self.folder / "Containerfile"

    @property
    def requirements(self) -> Path:
        return self.root / "requirements" / f"{self.name}.txt"

    @property
    def package(self) -> Path:
        return self.root / "operator" / "matriarch"

    def copied_to(self, root: Path) -> Recipe:
        """The same with its files copied: what is hashed is then what is built, even while somebody edits the tree.

        The copy holds exactly what the Containerfile may copy, so that nothing else of the tree can reach an image.
        """
        copy = Recipe(self.name, root)
        copy.requirements.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(self.requirements, copy.requirements)
        shutil.copytree(self.folder, copy.folder)
        shutil.copytree(self.package, copy.package, ignore=shutil.ignore_patterns("__pycache__"))
        return copy


@dataclass(frozen=True, slots=True)
class Image:
    """A built image: the name that manifests use and the archive that nodes import."""

    name: str
    archive: Path


RECIPES = {name: Recipe(name, PROJECT) for name in ("postgres", "operator")}


def digest(parts: Iterable[tuple[str, bytes]]) -> str:
    """12 hex digits over named contents; neither order of arrival nor file times matter."""
    h = hashlib.sha256()
    for name, content in sorted(parts):
        h.update(f"{len(name)}:{name}:{len(content)}:".encode())
        h.update(content)
    return h.hexdigest()[:12]


def _runtime_parts(recipe: Recipe, base_id: str) -> list[tuple[str, bytes]]:
    files = {"requirements": recipe.requirements}
    files |= {path.name: path for path in recipe.folder.iterdir() if path.is_file()}
    return [("base", base_id.encode()), *((name, path.read_bytes()) for name, path in files.items())]


def runtime_tag(recipe: Recipe, base_id: str) -> str:
    """Changes with everything but the project's own code."""
    return digest(_runtime_parts(recipe, base_id))


def image_tag(recipe: Recipe, base_id: str) -> str:
    """Changes with everything that goes into the image."""
    code = (
        (str(path.relative_to(recipe.package)), path.read_bytes())
        for path in recipe.package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )
    return digest([*_runtime_parts(recipe, base_id), *code])


@functools.cache
def engine() -> str:
    """`docker` when its engine answers, otherwise `buildah`. MATRIARCH_ENGINE overrides."""
    chosen = os.environ.get("MATRIARCH_ENGINE")
    if chosen:
        if chosen not in {"docker", "buildah"}:
            raise DevError(f"MATRIARCH_ENGINE is `{chosen}`; it must be docker or buildah")
        return chosen
    if shutil.which("docker") and succeeds("timeout", "10", "docker", "version", "--format", "{{.Server.Version}}"):
        return "docker"
    return "buildah"


@functools.cache
def base_image() -> str:
    """The base that is used: MATRIARCH_BASE, the registry's when docker can pull it, otherwise our own."""
    if os.environ.get("MATRIARCH_BASE"):
        return os.environ["MATRIARCH_BASE"]
    if engine() == "docker" and (
        succeeds("docker", "image", "inspect", REGISTRY_BASE)
        or succeeds("timeout", "120", "docker", "pull", REGISTRY_BASE)
    ):
        return REGISTRY_BASE
    return f"{base.NAME}-{base.key()}"


def _make_base() -> str:
    name = base_image()
    if name.startswith(base.NAME):
        base.ensure()
        if engine() == "docker" and not succeeds("docker", "image", "inspect", name):
            with tempfile.TemporaryDirectory(dir=_folder(CACHE)) as folder:
                run("buildah", "push", name, f"docker-archive:{folder}/base.tar:{name}")
                run("docker", "load", "--input", f"{folder}/base.tar")
    return name


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _exists(name: str) -> bool:
    return (
        succeeds("docker", "image", "inspect", name)
        if engine() == "docker"
        else succeeds("buildah", "inspect", "--type", "image", name)
    )


def _build(containerfile: Path, context: Path, target: str, name: str, log_name: str) -> None:
    words = ["docker", "build"] if engine() == "docker" else ["buildah", "build", "--isolation", "chroot", "--layers"]
    words += ["--network", "host", "--target", target, "--build-arg", f"BASE={_make_base()}", "--tag", name]
    log = _folder(CACHE / "logs") / f"image-{log_name}-{target}.log"
    with tempfile.TemporaryDirectory(prefix="matriarch-secrets-") as folder, log.open("w") as f:
        for key, path in write_secrets(Path(folder)).items():
            words += ["--secret", f"id={key},src={path}"]
        done = subprocess.run(
            [*words, "--file", str(containerfile), str(context)],
            stdout=f,
            stderr=f,
            stdin=subprocess.DEVNULL,
            timeout=3600,
            check=False,
            env={**os.environ, "DOCKER_BUILDKIT": "1"},
        )
    if done.returncode:
        last = "\n".join(line[:300] for line in log.read_text(errors="replace").splitlines()[-25:])
        raise DevError(f"building {name} failed (all of it in {log}); it ended so:\n{last}")


def dependencies() -> str:
    """Changes with what all images are made of but the project's own code."""
    return digest((name, runtime_tag(recipe, base_image()).encode()) for name, recipe in RECIPES.items())


@contextlib.contextmanager
def _copied(recipe: Recipe) -> Iterator[Recipe]:
    with tempfile.TemporaryDirectory(prefix="matriarch-build-") as folder:
        yield recipe.copied_to(Path(folder))


def runtime(recipe: Recipe) -> str:
    """The name of the image without the project's code; built when it is not there."""
    with _copied(recipe) as copy:
        return _runtime(copy)


def _runtime(copy: Recipe) -> str:
    name = f"localhost/matriarch/{copy.name}-runtime:{runtime_tag(copy, base_image())}"
    with lock(CACHE / f"build-{copy.name}.lock"):
        if not _exists(name):
            say(f"building {name}")
            _build(copy.containerfile, copy.root, "runtime", name, copy.name)
    return name


def image_name(recipe: Recipe) -> str:
    """The name that the image of these sources has."""
    return f"localhost/matriarch/{recipe.name}:{image_tag(recipe, base_image())}"


def build(recipe: Recipe) -> Image:
    """The image of the present sources, built and exported when it is not there."""
    with _copied(recipe) as copy:
        image = archived(image_name(copy))
        with contextlib.suppress(FileNotFoundError):
            os.utime(image.archive)  # the newest are kept
            return image
        _runtime(copy)
        with lock(CACHE / f"build-{copy.name}.lock"):
            if not _exists(image.name):
                say(f"building {image.name}")
                _build(copy.containerfile, copy.root, "image", image.name, copy.name)
            export(image)
            _prune(copy, keep=image)
    return image


def build_file(name: str, containerfile: Path) -> Image:
    """An image that is no part of the product: all that is in it is in its Containerfile, which copies nothing."""
    tag = digest([("base", base_image().encode()), ("Containerfile", containerfile.read_bytes())])
    image = archived(f"localhost/matriarch/{name}:{tag}")
    with lock(CACHE / f"build-{name}.lock"):
        if not image.archive.exists():
            if not _exists(image.name):
                say(f"building {image.name}")
                with tempfile.TemporaryDirectory(prefix="matriarch-build-") as empty:
                    _build(containerfile, Path(empty), "image", image.name, name)
            export(image)
    return image


def archived(name: str) -> Image:
    """Where the archive of an image is kept."""
    return Image(name=name, archive=ARCHIVES / f"{name.rsplit('/', 1)[1].replace(':', '-')}.tar")


def export(image: Image) -> None:
    """Write an image's archive; a file under its final name is always whole."""
    if image.archive.exists():
        return
    half = _folder(image.archive.parent) / f"{image.archive.name}.{os.getpid()}.half"
    half.unlink(missing_ok=True)
    if engine() == "docker":
        run("docker", "save", "--output", half, image.name)
    else:
        run("buildah", "push", "--quiet", image.name, f"docker-archive:{half}:{image.name}")
    half.rename(image.archive)


def _prune(recipe: Recipe, keep: Image) -> None:
    archives = sorted(ARCHIVES.glob(f"{recipe.name}-????????????.tar"), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in archives[KEPT:]:
        if old != keep.archive:
            name = f"localhost/matriarch/{recipe.name}:{old.stem.rsplit('-', 1)[1]}"
            succeeds("docker" if engine() == "docker" else "buildah", "rmi", name)
            old.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("build", "names"):
        sub = verbs.add_parser(verb)
        sub.add_argument("image", nargs="*", choices=[*RECIPES, []], help="default: all")
        sub.add_argument("--env", action="store_true", help="lines for a shell instead of JSON")
    args = parser.parse_args()
    chosen = args.image or list(RECIPES)
    try:
        images = {n: build(RECIPES[n]) if args.verb == "build" else archived(image_name(RECIPES[n])) for n in chosen}
    except DevError as e:
        sys.exit(f"images: {e}")
    if args.env:
        for name, image in images.items():
            print(f"MATRIARCH_{name.upper()}_IMAGE={image.name}")
    else:
        print(json.dumps({n: {"name": i.name, "archive": str(i.archive)} for n, i in images.items()}, indent=2))


if __name__ == "__main__":
    main()
