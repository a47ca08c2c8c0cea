"""Files that users name, before they are opened."""

from __future__ import annotations

from pathlib import Path

from autotune.errors import AutotuneError


def require_regular(path: Path, what: str, error: type[AutotuneError]) -> None:
    """See that what is to be read as a file ends, and is no FIFO or device; a missing one is its reader's to report.

    Args:
        path: The file.
        what: Its role, as the subject of a sentence.
        error: Type of the error to raise.

    Raises:
        AutotuneError: It is there and is neither a file nor a folder, or its name is none. ``error`` is raised.
    """
    try:
        strange = path.exists() and not (path.is_file() or path.is_dir())
    except (OSError, ValueError) as failure:  # a name that is too long, or has a NUL byte
        shown = str(path) if len(str(path)) <= 200 else f"{str(path)[:100]}... ({len(str(path))} characters)"
        raise error(f"{what} must have a name that this system takes, but {shown!r} is none: {failure}") from None
    if strange:
        raise error(f"{what} must be a regular file, but {path} is a FIFO, a socket or a device. Copy it to a file")
