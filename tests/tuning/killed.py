"""Processes that hold something until they are killed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import psutil


@contextlib.contextmanager
def held_by(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a script up to its first line of output, and kill it at the end of the block where it still lives."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            assert line, "the script ended before it held anything"
            yield process
        finally:
            process.kill()


def kill(process: subprocess.Popen[str]) -> None:
    """End a process at once, and do not collect it: a parent may not have come to that."""
    psutil.Process(process.pid).kill()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        pass
