"""NumPy archives read row by row.

``numpy.load`` reads a whole array of an archive at once, and anew with every access. Here rows are decompressed as they
are asked for, so that a pass over a large data set holds no more than a row.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from autotune.errors import DataError
from autotune.regular_file import require_regular
from autotune.suggestion import suggestion

_CHUNK_BYTES = 1 << 20

_UNREADABLE = (OSError, EOFError, ValueError, TypeError, MemoryError, RuntimeError, zlib.error, zipfile.BadZipFile)
"""Errors of a damaged archive: zipfile has RuntimeError for what is encrypted or packed in an unknown way."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One array of an archive.

    Attributes:
        path: The archive.
        name: The array's name.
        shape: The first axis counts the rows.
        dtype: Element type.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def rows(self) -> Iterator[npt.NDArray[Any]]:
        """The rows in their order.

        Raises:
            DataError: The archive is damaged.
        """
        row_shape = self.shape[1:]
        row_bytes = math.prod(row_shape) * self.dtype.itemsize
        per_read = max(1, _CHUNK_BYTES // max(1, row_bytes))
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.name}.npy") as stream:
                _read_header(stream)
                for first in range(0, self.shape[0], per_read):
                    count = min(per_read, self.shape[0] - first)
                    data = stream.read(count * row_bytes)
                    yield from np.frombuffer(data, dtype=self.dtype).reshape(count, *row_shape)
        except _UNREADABLE as error:
            raise DataError(f"Array {self.name!r} of {self.path} cannot be read to its end: {error}") from None


def member_names(path: Path) -> tuple[str, ...]:
    """The arrays of an archive.

    Raises:
        DataError: There is no such archive.
    """
    require_regular(path, "A data file", DataError)
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(entry.removesuffix(".npy") for entry in archive.namelist() if entry.endswith(".npy"))
    except FileNotFoundError:
        raise DataError(f"There is no data file {path}") from None
    except _UNREADABLE as error:
        raise DataError(f"{path} must be a NumPy archive, but it cannot be read: {error}") from None


def open_member(path: Path, name: str) -> Member:
    """Look up an array of an archive; reads no more than its header.

    Raises:
        DataError: There is no such archive or array, or the array cannot be read row by row.
    """
    require_regular(path, "A data file", DataError)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [entry.removesuffix(".npy") for entry in archive.namelist() if entry.endswith(".npy")]
            if name not in names:
                raise DataError(
                    f"{path} has no array {name!r}{suggestion(name, names)}. It has: {', '.join(names) or 'none'}"
                )
            with archive.open(f"{name}.npy") as stream:
                shape, fortran_order, dtype = _read_header(stream)
    except FileNotFoundError:
        raise DataError(f"There is no data file {path}") from None
    except _UNREADABLE as error:
        raise DataError(
            f"{path} must be a NumPy archive as `numpy.savez` writes it, but cannot be read: {error}"
        ) from None
    if dtype.hasobject:
        raise DataError(f"Array {name!r} of {path} must hold numbers, but holds Python objects. Save it with a dtype")
    if not shape:
        raise DataError(f"Array {name!r} of {path} must have an axis that counts the samples, but is a single value")
    if fortran_order and len(shape) > 1:
        raise DataError(
            f"Array {name!r} of {path} must be stored row by row, but is in Fortran order. "
            "Save it again after `numpy.ascontiguousarray`"
        )
    return Member(path=path, name=name, shape=shape, dtype=dtype)


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    # Version 3 differs from 2 in the encoding of field names alone, and is written for structured arrays only.
    return npy.read_array_header_1_0(stream) if version == (1, 0) else npy.read_array_header_2_0(stream)
