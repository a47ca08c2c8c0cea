"""The folder in which this package keeps what outlives a run and holds for all of a user's models."""

from __future__ import annotations

import os
import sys
from pathlib import Path

CACHE_VARIABLE = "AUTOTUNE_CACHE_DIR"
"""Environment variable that names another folder."""


def cache_folder() -> Path | None:
    """The folder of this package in the user's cache; None where there is no home to look for it in.

    ``AUTOTUNE_CACHE_DIR`` comes first. Else it is ``autotune`` in ``XDG_CACHE_HOME`` or ``~/.cache`` (XDG Base
    Directory Specification, which ignores relative paths), in ``~/Library/Caches`` on macOS and ``%LOCALAPPDATA%`` on
    Windows.
    """
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own)
    base = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", "")
    if base and Path(base).is_absolute():
        return Path(base) / "autotune"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "autotune"
