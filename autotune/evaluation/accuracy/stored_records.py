"""Records as plain arrays: what their file holds, and what nobody can hide code in.

A file is an uncompressed NumPy archive that is read without pickles. Records that vary in size, such as those of
detectors, are a tree of tuples, lists, dicts and arrays; the tree is kept as JSON, and the arrays of one element type
lie behind each other in one member. Every zip member has a checksum of its own.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.errors import AutotuneError
from autotune.parsing import parse_json

FORMAT_VERSION = 2

_TREE = "tree"
_VALUES = "values/"
_KINDS = frozenset("biufcUSmM")
"""Kinds of NumPy types whose bytes are values; all but objects."""


class UnstorableError(AutotuneError):
    """A record holds an object that is no plain data."""


def write_tree(path: Path, tree: object) -> None:
    """Write plain data to an archive.

    Args:
        path: The file.
        tree: Dicts, lists, tuples, arrays, NumPy scalars, numbers, text, booleans and None, in any order.

    Raises:
        UnstorableError: Something in it is of another type.
        OSError: The file cannot be written.
    """
    writer = _Writer()
    text = json.dumps({"format_version": FORMAT_VERSION, "tree": writer.coded(tree)})
    arrays = {f"{_VALUES}{dtype}": np.concatenate(parts) for dtype, parts in writer.parts.items()}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **{_TREE: np.frombuffer(text.encode(), np.uint8)}, **arrays)


def read_tree(path: Path) -> Any:
    """Read what :func:`write_tree` wrote.

    Raises:
        ValueError: It is of another format, or does not fit together.
        OSError: It cannot be read.
        zipfile.BadZipFile: It is no archive, or damaged.
    """
    with zipfile.ZipFile(path) as members:
        # A packed member could be a thousand times as large as its file.
        if any(member.compress_type != zipfile.ZIP_STORED for member in members.infolist()):
            raise ValueError("a member of it is compressed")
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        document = parse_json(archive[_TREE].tobytes())
        if document["format_version"] != FORMAT_VERSION:
            raise ValueError(f"it has format version {document['format_version']}")
        values = {name.removeprefix(_VALUES): archive[name] for name in archive.files if name.startswith(_VALUES)}
    return _decoded(document["tree"], values)


class _Writer:
    """Codes a tree, and collects the arrays in it by element type."""

    def __init__(self) -> None:
        self.parts: dict[str, list[npt.NDArray[Any]]] = {}
        self._sizes: dict[str, int] = {}

    def coded(self, value: object) -> object:
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, np.ndarray):
            return self._array(value)
        if isinstance(value, np.generic):
            return ["scalar", self._array(np.asarray(value))]
        if isinstance(value, Mapping):
            return ["dict", [[self.coded(key), self.coded(part)] for key, part in value.items()]]
        if isinstance(value, (list, tuple)):
            return ["list" if isinstance(value, list) else "tuple", [self.coded(part) for part in value]]
        raise UnstorableError(f"Records must be plain data to be kept, but one is a {type(value).__name__}")

    def _array(self, array: npt.NDArray[Any]) -> object:
        if array.dtype == object and array.ndim == 1:
            return ["objects", [self.coded(row) for row in array]]
        if array.dtype.kind not in _KINDS:
            raise UnstorableError(f"Records must be plain data to be kept, but one is an array of {array.dtype}")
        dtype = array.dtype.str
        start = self._sizes.get(dtype, 0)
        self.parts.setdefault(dtype, []).append(array.ravel())
        self._sizes[dtype] = start + array.size
        return ["array", dtype, start, list(array.shape)]


def _decoded(node: Any, values: Mapping[str, npt.NDArray[Any]]) -> Any:
    if not isinstance(node, list):
        return node
    kind, *rest = node
    if kind == "array":
        return _slice(values, *rest)
    (content,) = rest
    if kind == "scalar":
        return _decoded(content, values)[()]
    if kind == "dict":
        return {_decoded(key, values): _decoded(part, values) for key, part in content}
    parts = [_decoded(part, values) for part in content]
    if kind == "objects":
        rows = np.empty(len(parts), object)
        for index, part in enumerate(parts):
            rows[index] = part
        return rows
    if kind not in ("list", "tuple"):
        raise ValueError(f"it holds a {kind!r}")
    return parts if kind == "list" else tuple(parts)


def _slice(values: Mapping[str, npt.NDArray[Any]], dtype: str, start: int, shape: Sequence[int]) -> npt.NDArray[Any]:
    array, size = values[dtype], math.prod(shape)
    if start < 0 or any(length < 0 for length in shape) or start + size > array.size or array.dtype.str != dtype:
        raise ValueError(f"an array of shape {tuple(shape)} lies outside of its member")
    return array[start : start + size].reshape(shape).copy()
