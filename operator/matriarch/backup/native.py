"""native.c, where it was compiled: in the images, and where there was a compiler when the environment was made.

Callers do the same by numpy where it is None. Calls let go of the interpreter's lock.
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
from pathlib import Path

_SOURCE = Path(__file__).with_suffix(".c")


def load(prefix: Path = Path(sys.prefix)) -> ctypes.CDLL | None:
    """The library of these sources. What other sources made has another name."""
    try:
        made = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:12]
        library = ctypes.CDLL(str(prefix / "lib" / "matriarch" / f"native-{made}.so"))
    except OSError:
        return None
    size, numbers = ctypes.c_size_t, ctypes.POINTER(ctypes.c_uint64)
    library.matriarch_rowsum.argtypes = [ctypes.c_void_p, size, numbers, numbers, ctypes.POINTER(size)]
    library.matriarch_rowsum.restype = size
    library.matriarch_checksums.argtypes = [ctypes.c_void_p, size, ctypes.c_void_p, ctypes.c_void_p]
    library.matriarch_checksums.restype = None
    return library


NATIVE = load()
