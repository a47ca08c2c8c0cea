"""Signals that ask a run to end."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_ENDING = ("SIGTERM", "SIGHUP")
"""Names of the signals of a batch system and of a terminal that is closed; Windows has the first one alone."""


@contextlib.contextmanager
def ended_like_ctrl_c() -> Iterator[None]:
    """End what runs in the block as Ctrl-C does where the process is asked to end: with its best so far."""
    if threading.current_thread() is not threading.main_thread():
        yield  # nobody else may set handlers
        return
    before = {}
    for name in _ENDING:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP on purpose
            before[number] = signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
