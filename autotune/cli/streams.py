"""Standard streams: those that the caller has closed, as some schedulers do, and text that they cannot encode."""

from __future__ import annotations

import io
import os
import sys

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
"""Python's names of the first three descriptors."""


def open_closed_streams() -> None:
    """Let each standard stream that is closed read nothing, or write nowhere.

    Otherwise the next file that is opened gets its descriptor, such as the database of a run, and native code that
    prints writes into that file.
    """
    for descriptor, (name, mode) in enumerate(_STREAMS):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))


def write_any_text() -> None:
    """Let output write names of files that are no text of its encoding: escaped, where they would be an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
