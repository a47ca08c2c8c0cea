"""Files that commands write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autotune.errors import InputError


def write_text(path: Path, text: str) -> None:
    """Write a text file.

    Raises:
        InputError: It cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from None


def listed(files: Sequence[Path]) -> str:
    """The path of a model, and what belongs to it."""
    first, *others = files
    return f"{first} (with {', '.join(file.name for file in others)})" if others else str(first)
