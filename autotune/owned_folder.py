"""Temporary folders: those that a killed process leaves are removed by the next one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from autotune.owner import Owner
from autotune.parsing import parse_json

_PREFIX = "autotune-"
_OWNER = "owner.json"


class OwnedFolder:
    """A temporary folder that names its owner, so that another run can tell whether it is still used.

    Attributes:
        name: Path of the folder.
    """

    def __init__(self) -> None:
        sweep()
        self._owner = Owner.new()
        self._folder = tempfile.TemporaryDirectory(prefix=_PREFIX)
        self.name = self._folder.name
        (Path(self.name) / _OWNER).write_text(json.dumps(self._owner.to_json()), encoding="utf-8")

    def __enter__(self) -> str:
        return self.name

    def __exit__(self, *_: object) -> None:
        self.cleanup()

    def cleanup(self) -> None:
        """Remove the folder."""
        self._owner.end()
        self._folder.cleanup()


def _user() -> int:
    """Id of the user as the system has it; 0 where it has none, as for files there."""
    return os.getuid() if hasattr(os, "getuid") else 0


def sweep() -> None:
    """Remove the folders whose owners were killed; models and data lie in them."""
    for place in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_OWNER}"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            # A folder of another machine or user stays. Files that others may write there are not even read.
            if place.parent.lstat().st_uid != _user() or not place.is_file():
                continue
            if Owner.from_json(parse_json(place.read_text(encoding="utf-8"))).alive is False:
                shutil.rmtree(place.parent)
