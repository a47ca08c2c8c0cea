"""Imports PaddlePaddle, and keeps it quiet.

Paddle Inference turns programs of the old intermediate representation into integers, and no others: ``.pdmodel`` files.
Where the user has not imported Paddle yet, it is imported with that representation on; where they have, layers are
traced under Paddle's own switch.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autotune.errors import MissingDependencyError

_PIR = "FLAGS_enable_pir_api"
_OLDEST = 3


@contextlib.contextmanager
def _old_by_default() -> Iterator[None]:
    """Import Paddle with the old representation on, unless the user names one.

    The variable is taken back, since processes that are started later, such as a converter's, would inherit it.
    """
    named = _PIR in os.environ
    if not named and "paddle" not in sys.modules:
        os.environ[_PIR] = "0"
    try:
        yield
    finally:
        if not named:
            os.environ.pop(_PIR, None)


@contextlib.contextmanager
def _own_logging() -> Iterator[None]:
    """Take back what Paddle's import does to the root logger: with its handler, stderr repeats every event."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _keep_own_end() -> None:
    """Give SIGTERM back to the function that Python calls for it.

    Paddle's import puts a handler of its own before it, which prints a stack of C++ calls and ends the process there: a
    run that a batch system ends would not hand over its best so far.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


with warnings.catch_warnings(), _own_logging(), _old_by_default():
    warnings.simplefilter("ignore")  # Paddle warns of compilers that no inference needs
    import paddle

    if int(str(paddle.__version__).partition(".")[0]) < _OLDEST:
        raise MissingDependencyError(
            f"PaddlePaddle must be {_OLDEST}.0 or newer, but {paddle.__version__} is installed. Install one with "
            "`pip install 'autotune-quantization[paddle]'`"
        )
    from paddle import inference
    from paddle.base.proto import framework_pb2

_keep_own_end()

__all__ = ["framework_pb2", "inference", "old_representation", "onednn", "paddle", "quiet", "reason"]


@contextlib.contextmanager
def old_representation() -> Iterator[None]:
    """Trace and save programs in the old intermediate representation, whatever the process works with otherwise."""
    if not paddle.get_flags([_PIR])[_PIR]:
        yield
        return
    from paddle.pir_utils import DygraphOldIrGuard  # noqa: PLC0415  # with the representation off there is no need of it

    with DygraphOldIrGuard():
        yield


class Captured:
    """Lines that were printed while :func:`quiet` was in force, once it is over.

    Attributes:
        lines: The lines in order.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []


@contextlib.contextmanager
def quiet() -> Iterator[Captured]:
    """Without what Paddle's and oneDNN's C++ print; yields what keeps it instead.

    ``disable_glog_info`` does not reach the lines of the integer passes.
    """
    libc = ctypes.CDLL(None)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    libc.fflush(None)
    kept = os.dup(1), os.dup(2)
    captured = Captured()
    with tempfile.TemporaryFile() as file:
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield captured
        finally:
            libc.fflush(None)
            for number, original in zip((1, 2), kept, strict=True):
                os.dup2(original, number)
                os.close(original)
            file.seek(0)
            captured.lines = file.read().decode(errors="replace").splitlines()


def onednn() -> Any:
    """The oneDNN that Paddle computes with."""
    return ctypes.CDLL(str(Path(paddle.__file__).parent / "libs" / "libdnnl.so.3"))


def reason(error: BaseException) -> str:
    """The line of Paddle's message that says what is wrong, without its stack of C++ calls."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith("(") or "Error:" in line]
    said = (telling or [line for line in lines if not line.startswith(("-", "["))] or [type(error).__name__])[-1]
    return said.removeprefix("Error: ").rstrip(". ")[:300]
