"""Pictures in folders."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.errors import DataError
from autotune.experiment.preprocessing import pillow
from autotune.regular_file import require_regular

_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def is_flat(folder: Path) -> bool:
    """Whether a folder has pictures and no folder, so that they have no labels."""
    entries = list(folder.iterdir()) if folder.is_dir() else []
    return not any(each.is_dir() for each in entries) and any(each.suffix.lower() in _SUFFIXES for each in entries)


def list_pictures(folder: Path, labels: Path | None) -> Sequence[tuple[Path, int | None]]:
    """The pictures of a folder, each with its class: as the file of labels has them, else one of each class in turn.

    Those of a folder without folders have no class, and are read in the order of their names.

    Args:
        folder: Folder of pictures, with a folder per class or without labels, unless ``labels`` is given.
        labels: A text file with a line ``file name, blank, class number`` per picture.

    Raises:
        DataError: There is no such folder or file, no picture, or a line of ``labels`` that cannot be read.
        MissingDependencyError: Pillow is not installed.
    """
    pillow()
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}")
    pictures: Sequence[tuple[Path, int | None]]
    if labels is None and is_flat(folder):
        pictures = [(file, None) for file in sorted(folder.iterdir()) if file.suffix.lower() in _SUFFIXES]
    else:
        pictures = _by_class(folder) if labels is None else _by_list(folder, labels)
    if not pictures:
        raise DataError(f"A data set needs at least one sample, but {labels or folder} names none")
    return pictures


def _by_class(folder: Path) -> list[tuple[Path, int]]:
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    if not classes:
        raise DataError(
            f"{folder} must have pictures, or a folder per class, but has no folder at all and no picture. "
            "Or name a file with the class of each picture as `labels`"
        )
    columns = [
        [(file, label) for file in sorted(entry.rglob("*")) if file.suffix.lower() in _SUFFIXES]
        for label, entry in enumerate(classes)
    ]
    if not any(columns):
        raise DataError(f"No folder in {folder} has a picture ({', '.join(sorted(_SUFFIXES))})")
    # One of each class in turn: the first hundred of a thousand classes would otherwise all be of the first class.
    rows = itertools.zip_longest(*columns)
    return [picture for row in rows for picture in row if picture is not None]


def _by_list(folder: Path, labels: Path) -> list[tuple[Path, int]]:
    require_regular(labels, "The file of labels", DataError)
    try:
        lines = labels.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The file of labels cannot be read: {error}") from None
    pictures = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isdecimal():
            raise DataError(f"{labels}:{number} must read like 'picture.jpg 7', but is {line!r}")
        path = folder / name.strip()
        if not path.is_file():
            raise DataError(f"{labels}:{number} names a picture that is not there: {path}")
        pictures.append((path, int(label)))
    return pictures


def read_picture(path: Path) -> npt.NDArray[Any]:
    """Decode a picture to RGB, uint8 of shape (height, width, 3).

    Raises:
        DataError: It cannot be decoded.
    """
    image = pillow()
    require_regular(path, "A picture", DataError)
    try:
        with image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as a picture: {error}") from None
