"""The lock on the volume: two Pods on one node may mount it at once, and postmaster.pid is blind across Pods.

An open-file-description lock belongs to the descriptor, not the process, so closing another descriptor of the same
file does not drop it, and it ends with PID 1 whatever happens. The descriptor stays open between drop and take, so
that taking it again needs nothing from the disk.
"""

from __future__ import annotations

import fcntl
import os
import struct


class VolumeLock:
    """Opens `path`, making it when absent; OSError when the volume is not there. Not taken yet."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self) -> bool:
        """Whether it is ours now; never waits. Taking it twice is fine."""
        try:
            self._set(fcntl.F_WRLCK)
        except BlockingIOError:
            return False
        return True

    def drop(self) -> None:
        self._set(fcntl.F_UNLCK)

    def _set(self, kind: int) -> None:
        # struct flock {short type, whence; off_t start, len; pid_t pid}: the whole file, pid must be 0
        request = struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, request)
