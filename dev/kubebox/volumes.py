"""Volumes of real size: each is an XFS file system in a sparse file, mounted through a loop device.

They can be full, can grow while they are in use, and a flush reaches the machine's disk. XFS and not ext4, because
growing ext4 in use needs a right (CAP_SYS_RESOURCE) that root lacks inside many virtual machines and containers.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from dev.host import DevError, run, succeeds

SMALLEST = 300 * 1024 * 1024  # what mkfs.xfs accepts
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_BLOCK = 4096


def bytes_of(quantity: str) -> int:
    """The bytes of a Kubernetes quantity such as 1Gi, rounded up."""
    match = re.fullmatch(r"(\d+)(?:\.(\d+))?([kMGT]i?|Ki)?", quantity)
    if not match or (match.group(3) or "") not in _UNITS:
        raise DevError(f"`{quantity}` is not a size such as 500Mi or 2Gi")
    whole, fraction, unit = match.group(1), match.group(2) or "", _UNITS[match.group(3) or ""]
    scale: int = 10 ** len(fraction)
    return -(-int(whole + fraction) * unit // scale)


def quantity(size: int) -> str:
    """Bytes as Kubernetes writes them: the largest binary unit that divides them."""
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        if size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return str(size)


def size_for(requested: int) -> int:
    """The size of the file system for a request, in bytes: whole blocks, and never too small to be made."""
    return max(SMALLEST, -(-requested // _BLOCK) * _BLOCK)


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume in its folder; every step can be repeated after a crash at any point."""

    folder: Path

    @property
    def image(self) -> Path:
        return self.folder / "image"

    @property
    def mount(self) -> Path:
        return self.folder / "mount"

    def _device(self) -> str | None:
        found = run("losetup", "--noheadings", "--output", "NAME", "--associated", self.image).split()
        return found[0] if found else None

    def make(self, size: int) -> None:
        """Create and mount the volume; its size in bytes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.image.exists():
            half = self.folder / "image.half"
            half.unlink(missing_ok=True)
            with half.open("wb") as f:
                f.truncate(size)
            run("mkfs.xfs", "-q", half)
            half.rename(self.image)
        self.attach()

    def attach(self) -> None:
        """Mount the volume, unless it is."""
        self.mount.mkdir(exist_ok=True)
        if self.mount.is_mount():
            return
        if self._device() is None:
            # Direct I/O, so that the machine's page cache does not hold everything twice.
            run("losetup", "--find", "--direct-io=on", self.image)
        run("mount", "-t", "xfs", "-o", "nodiratime,noatime", self._device(), self.mount)

    def grow(self, size: int) -> None:
        """Let the file system have at least `size` bytes; it stays in use meanwhile."""
        if self.image.stat().st_size < size:
            with self.image.open("r+b") as f:
                f.truncate(size)
        device = self._device()
        if device is None:
            raise DevError(f"{self.image} is not attached to a loop device")
        run("losetup", "--set-capacity", device)
        run("xfs_growfs", "-d", self.mount)

    def remove(self) -> None:
        """Unmount and delete; what is not there doesn't matter."""
        if self.mount.is_mount():
            run("umount", self.mount)
        if self.image.exists():
            for device in run("losetup", "--noheadings", "--output", "NAME", "--associated", self.image).split():
                succeeds("losetup", "--detach", device)
        for path in (self.image, self.folder / "image.half"):
            path.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self.mount.rmdir()
        with contextlib.suppress(FileNotFoundError):
            self.folder.rmdir()


def all_below(folder: Path) -> list[Volume]:
    """Every volume that was made below a folder."""
    return [Volume(p.parent) for p in sorted(folder.glob("*/*/image"))]
