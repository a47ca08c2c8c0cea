"""The hold of one run on its workspace: a second one would mix its models with those of the first."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

from autotune.atomic import replacing
from autotune.errors import WorkspaceError
from autotune.owner import Owner
from autotune.parsing import parse_json
from autotune.tuning.claims import BEAT_S, GRACE_S

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

OWNER_FILE = "owner.json"
"""Name of the file in a workspace that says which run holds it."""


class Hold:
    """Holds a workspace until :meth:`release` is called or the process ends.

    A holder on this machine that is gone is recognised by its process. On another machine that shares the folder, it is
    recognised by its file, which a living holder touches every :data:`BEAT_S`.

    Args:
        workspace: A folder that can be written.

    Raises:
        WorkspaceError: Another run that lives holds it.
    """

    def __init__(self, workspace: Path) -> None:
        self._path = workspace / OWNER_FILE
        self._owner = Owner.new()
        self._released = threading.Event()
        try:
            with _alone(workspace):
                self._take(workspace)
        except BaseException:
            self._owner.end()
            raise
        threading.Thread(target=self._touch, daemon=True).start()

    def release(self) -> None:
        """Give the workspace back; nothing where another run has taken it over since."""
        if self._released.is_set():
            return
        self._released.set()
        self._owner.end()
        if _holder(self._path) == self._owner:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _take(self, workspace: Path) -> None:
        holder = _holder(self._path)
        if holder is not None and _holds(holder, self._path):
            raise WorkspaceError(
                f"The workspace {workspace} is held by another run: {holder}. Wait until that has ended, take part in "
                "it with `autotune worker EXPERIMENT.yaml`, or choose another workspace (`--workspace`)"
            )
        try:
            with replacing(self._path) as temporary:
                temporary.write_text(json.dumps(self._owner.to_json()), encoding="utf-8")
        except OSError as error:
            raise WorkspaceError(
                f"The workspace {workspace} must be a folder that can be written, but {error.strerror or error}"
            ) from error

    def _touch(self) -> None:
        while not self._released.wait(BEAT_S):
            with contextlib.suppress(OSError):
                self._path.touch()


@contextlib.contextmanager
def _alone(workspace: Path) -> Iterator[None]:
    """Lock out other processes for the moment in which a holder is read and replaced, where the system can."""
    with (workspace / f".{OWNER_FILE}.lock").open("w") as lock:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a network's file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _holder(path: Path) -> Owner | None:
    """The owner that a file names; None where there is no such file, or none that says it."""
    try:
        return Owner.from_json(parse_json(path.read_text(encoding="utf-8"))) if path.is_file() else None
    except (OSError, ValueError, TypeError):
        return None


def _holds(holder: Owner, path: Path) -> bool:
    alive = holder.alive
    if alive is not None:
        return alive
    # By the clock of whoever keeps the files, which is the same for both.
    probe = path.with_name(f".{OWNER_FILE}.probe")
    try:
        probe.touch()
        age_s = probe.stat().st_mtime - path.stat().st_mtime
        probe.unlink()
    except OSError:
        return False
    return age_s < GRACE_S
