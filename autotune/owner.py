"""The process that holds something: named so that another one can tell whether it still lives."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil

_SAME_START_S = 2.0
"""Seconds by which two readings of one process's start may differ."""

_open: set[str] = set()
"""Tokens of the owners of this process that have not ended."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A run in a process.

    Attributes:
        host: Name of the machine, for people.
        machine: Identity of the space in which ``pid`` has a meaning: host, boot and, in containers, process namespace.
        pid: Process id.
        started: Start of the process in seconds: since boot on Linux, whose clock nobody sets, else since the epoch.
        since: When the run took hold, as local time with its offset.
        token: Identity of the run, since one process may have several.
    """

    host: str
    machine: str
    pid: int
    started: float
    since: str
    token: str

    @classmethod
    def new(cls) -> Self:
        """An owner for a run that begins in this process; :meth:`end` ends it."""
        owner = cls(
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            started=_start_of(os.getpid()),
            since=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            token=uuid.uuid4().hex,
        )
        _open.add(owner.token)
        return owner

    def end(self) -> None:
        """Called when the run in this process has ended."""
        _open.discard(self.token)

    @property
    def alive(self) -> bool | None:
        """Whether the run still lives; None on another machine, where its process cannot be looked for."""
        if self.machine != _machine():
            return None
        if self.pid == os.getpid():
            return self.token in _open
        try:
            process = psutil.Process(self.pid)
            dead = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
            return not dead and abs(_start_of(self.pid) - self.started) < _SAME_START_S
        except (psutil.NoSuchProcess, ValueError, OverflowError):  # the latter two for what is no process id at all
            return False
        except psutil.AccessDenied:
            return True

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    def to_json(self) -> dict[str, Any]:
        """A JSON value that :meth:`from_json` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            TypeError: A key is unknown or missing, or its value is of another type: files and studies can be altered.
        """
        if not isinstance(data, Mapping):
            raise TypeError(f"an owner must be a mapping, but got a {type(data).__name__}")
        numbers = {"pid": (int,), "started": (int, float)}
        for key, value in data.items():
            if type(value) not in numbers.get(key, (str,)):
                raise TypeError(f"`{key}` of an owner cannot be a {type(value).__name__}")
        return cls(**data)


def _start_of(pid: int) -> float:
    """Start of a process, which does not move with the system's clock as psutil's does: a living one stays the same."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return int(stat.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return psutil.Process(pid).create_time()


@functools.cache
def _machine() -> str:
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115  no path, but "pid:[4026531836]"
    except OSError:
        parts.append(format(psutil.boot_time(), ".0f"))
    return " ".join(parts)
