"""Processes that end with the one that started them, also where that is killed and can end nothing itself."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time

import psutil

_PR_SET_PDEATHSIG = 1
"""Option of Linux's ``prctl``. The signal comes when the thread ends that started this process: for a pool the one
that submits, which waits for what it submitted."""
_LOOK_S = 1.0
"""Seconds between two looks at the main process, few enough to disturb no measurement."""


_NO_TRACKER = "ignore:resource_tracker:UserWarning"
NO_RECYCLING = {
    "LOKY_MAX_MEMORY_LEAK_SIZE": str(2**62),
    "PYTHONWARNINGS": ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), _NO_TRACKER))),
}
"""Environment of a pool's processes in which loky keeps those that hold more than 300 MB, as models and data do: it
would end them between two tasks and print a warning that tells of a memory leak. Where a process is killed, Python's
own tracker frees what a framework held there, as PyTorch's compiler does, and says nothing of it."""


def follow(main_pid: int) -> None:
    """End this process soon after its parent, the main process; called once in the child, as a pool's initializer.

    Nobody else would end it, and it holds models and data.

    Args:
        main_pid: The process id of the parent.
    """
    _die_with_parent()
    threading.Thread(target=_end_with, args=(main_pid,), daemon=True).start()


def _die_with_parent() -> None:
    """Let the kernel kill this process as soon as its parent ends, also where it is busy in native code; on Linux."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _end_with(main_pid: int) -> None:
    # A parent that is gone leaves its children to another process; on Windows they keep its id.
    while psutil.Process().ppid() == main_pid and psutil.pid_exists(main_pid):
        time.sleep(_LOOK_S)
    os._exit(1)
