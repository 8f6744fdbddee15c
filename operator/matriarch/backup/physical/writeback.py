"""Has the kernel begin to write a file out while the next ones are still read from the store.

Otherwise all of a restore's bytes wait in memory for the sync at its end, and the disk stands still until then. This is
speed alone: whether all is on the disk is what fsync says, at the end. Without Linux's call it does nothing.
"""

from __future__ import annotations

import ctypes
from typing import Any

_WRITE = 2  # SYNC_FILE_RANGE_WRITE: starts, does not wait


def _find() -> Any:
    try:
        call = ctypes.CDLL(None).sync_file_range
    except (AttributeError, OSError):
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return call


_call = _find()


def begin(fd: int) -> None:
    """All of the file that is not on the disk yet. Never raises."""
    if _call is not None:
        _call(fd, 0, 0, _WRITE)
