"""Writes models for the user, and says in one way why one cannot be written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from autotune.errors import WorkspaceError


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Write a model to ``path``, which may be no folder, in the block.

    Raises:
        WorkspaceError: It cannot be written; what failed in the block was an OSError.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
        yield
    except OSError as error:
        raise WorkspaceError(
            f"The model cannot be written to {path}: {error.strerror or error}. Choose another place, or make room"
        ) from error
