"""Files that commands write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autotune.atomic import replacing
from autotune.errors import InputError
from autotune.regular_file import require_regular


def write_text(path: Path, text: str) -> None:
    """Write a text file, all of it or nothing; a device or a FIFO, such as ``/dev/stdout``, just takes the text.

    Raises:
        InputError: It cannot be written.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
            return
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except (OSError, UnicodeEncodeError) as error:  # the latter for a name that is no UTF-8
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be written: {why}. Choose another place (`-o`), or make room") from None


def require_place(output: Path, *, folder: bool = False) -> None:
    """See that a file may be put where the user wants it, before anything is done for it.

    Args:
        output: The value of `--output`.
        folder: Whether its folder has to be there already.

    Raises:
        InputError: It is no name of a file, or what has that name is none.
    """
    if output.name in ("", ".."):
        raise InputError(f"`--output` must name a file, but got {str(output)!r}, which is a folder")
    require_regular(output, "The file of `--output`", InputError)
    if folder and not output.parent.is_dir():
        raise InputError(f"`--output` must be in a folder that is there, but got {output}. Make {output.parent} first")


def require_workspace(given: str | None) -> None:
    """See that `--workspace` names a folder where it is given.

    Raises:
        InputError: It is empty.
    """
    if given == "":
        raise InputError('`--workspace` must name a folder, but got "". Leave it out for runs/ beside the experiment')


def listed(files: Sequence[Path]) -> str:
    """The path of a model, and what belongs to it."""
    first, *others = files
    return f"{first} (with {', '.join(file.name for file in others)})" if others else str(first)
