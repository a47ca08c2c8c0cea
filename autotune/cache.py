"""Caches: the folder of what holds for all of a user's models, and the limit of what a workspace keeps."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from pathlib import Path

from autotune.errors import InputError

CACHE_VARIABLE = "AUTOTUNE_CACHE_DIR"
"""Environment variable that names another folder."""

LIMIT_VARIABLE = "AUTOTUNE_CACHE_LIMIT_MB"
"""Environment variable that sets another limit, in megabytes of 10^6 bytes, to what the cache of a workspace takes."""
DEFAULT_LIMIT_MB = 4000.0

_MADE_AGAIN = ("statistics-*.npz", "fp32-*.npz")
"""Files that a run makes again where they are missing. Trained weights are none of them."""


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


def limit_bytes() -> float:
    """Bytes that the cache of a workspace may take.

    Raises:
        InputError: The variable is no number of megabytes.
    """
    text = os.environ.get(LIMIT_VARIABLE) or str(DEFAULT_LIMIT_MB)
    try:
        limit_mb = float(text)
    except ValueError:
        limit_mb = math.nan
    if not limit_mb >= 0:
        raise InputError(f"{LIMIT_VARIABLE} must be a number of megabytes, 0 or more, but got {text!r}")
    return limit_mb * 1e6


def used(path: Path) -> None:
    """Called when a file of a cache is read: it goes after those that nobody has read since."""
    with contextlib.suppress(OSError):  # a folder that cannot be written loses nothing either
        os.utime(path)


def keep_within_limit(folder: Path, newest: Path) -> None:
    """Remove what was used longest ago from the cache of a workspace, until the rest is within :func:`limit_bytes`.

    Args:
        folder: Folder of the cache.
        newest: File that was written just now; it stays whatever its size, since the run needs it.

    Raises:
        InputError: The limit is no number of megabytes.
    """
    limit, found = limit_bytes(), []
    for path in (path for pattern in _MADE_AGAIN for path in folder.glob(pattern)):
        with contextlib.suppress(FileNotFoundError):  # another run was first
            status = path.stat()
            found.append((path != newest, status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, _, size, _ in found)
    for removable, _, size, path in sorted(found):
        if not removable or total <= limit:
            continue
        path.unlink(missing_ok=True)
        total -= size
