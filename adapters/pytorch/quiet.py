"""Keeps PyTorch's exporters quiet while they work, and shortens what they say when they fail."""

from __future__ import annotations

import contextlib
import io
import linecache
import logging
import re
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

_OWN_CODE = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
"""Folders whose lines of a traceback are not the user's."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the messages and warnings of PyTorch's exporters, which are about its own code, graphs among them."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def reason(error: BaseException) -> str:
    """The first line of torch's reason, and the user's line that it is about."""
    return f"{first_line(error)}{place(error)}"


def first_line(error: BaseException) -> str:
    """The line of a message of torch's that says what is wrong, without advice on its log settings."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # A violated constraint says in its first line that it is one, and in its second which and why.
    told = lines[1] if lines[0].startswith("Constraints violated") and len(lines) > 1 else lines[0]
    return told.split(". If you're")[0].split("  (Size-like")[0].split(" (unhinted")[0].rstrip(". ")


def place(error: BaseException) -> str:
    """The innermost line of the user's own code in a traceback, in brackets; empty where there is none."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        file = frame.f_code.co_filename
        if _is_users(file):
            return _line(file, line)
    return ""


def place_in(trace: str) -> str:
    """The innermost line of the user's own code in what a graph's node keeps of its traceback, in brackets."""
    for file, line in reversed(re.findall(r'File "(.+)", line (\d+)', trace)):
        if _is_users(file):
            return _line(file, int(line))
    return ""


def _is_users(file: str) -> bool:
    return not file.startswith(("<", *_OWN_CODE))


def _line(file: str, line: int) -> str:
    code = linecache.getline(file, line).strip()
    return f" ({Path(file).name}, line {line}: `{code}`)" if code else f" ({Path(file).name}, line {line})"
