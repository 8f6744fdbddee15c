"""A process is gone when all of it is: what its other threads still hold, a new one can't have."""

from __future__ import annotations

import signal
import subprocess
import sys

from dev.kubebox import processes

# The first thread ends by itself, as that of a killed process may before the others; SYS_exit is of this thread alone.
FIRST_THREAD_ENDS = """
import ctypes, platform, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
print("ready", flush=True)
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)
"""


def test_a_process_whose_first_thread_has_ended_still_runs() -> None:
    with subprocess.Popen([sys.executable, "-c", FIRST_THREAD_ENDS], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        try:
            assert not processes.gone([child.pid], 1.0)
            assert processes.started_at(child.pid) is not None
        finally:
            processes.kill([child.pid], signal.SIGKILL)
        assert processes.gone([child.pid], 10.0)
        assert processes.started_at(child.pid) is None
