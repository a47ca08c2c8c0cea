"""Turns what a user's data loader yields into checked batches that a model can read."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotune.adapter import Array, Feeds, TensorSpec
from autotune.adapter.example import looks_labelled
from autotune.arguments import shown
from autotune.batch import BatchAxes, leading_axes
from autotune.errors import DataError
from autotune.notes import counted
from autotune.suggestion import nearest

_LABELS = ("labels", "label", "targets", "target", "y")
"""Names under which data sets of other libraries carry labels beside inputs."""

MOST_BATCHES = 10_000_000
"""Batches after which a loader counts as one that never ends."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch as a model reads it.

    Attributes:
        feeds: An array for every input of the model.
        labels: Whatever came with it; None where nothing did.
        size: Samples in it; 1 where no axis counts them.
    """

    feeds: Feeds
    labels: Any
    size: int


def iterate(
    loader: Iterable[object],
    inputs: Sequence[TensorSpec],
    *,
    axes: BatchAxes | None = None,
    labelled: bool | None = None,
) -> Iterator[Batch]:
    """The batches of a loader, each checked against the model's inputs.

    Args:
        loader: Yields ``inputs`` or ``(inputs, labels)``; ``inputs`` is an array, a tuple or list in graph order, or a
            dict by input name.
        inputs: The model's inputs.
        axes: Which axes count samples; None: the first one of each input where it is free.
        labelled: Whether labels come along; None: told from the first item's form.

    Raises:
        DataError: It yields nothing, or something that the model cannot read.
    """
    count = 0
    axes = leading_axes(inputs) if axes is None else axes
    for index, item in enumerate(_open(loader)):
        if index >= MOST_BATCHES:
            raise DataError(
                f"A data loader must end, but this one has yielded {MOST_BATCHES:,} batches. Does its `__iter__` "
                "repeat for ever? Limit it, with itertools.islice for example"
            )
        if labelled is None:
            labelled = looks_labelled(item, len(inputs))
        if labelled:
            if not isinstance(item, (tuple, list)) or len(item) != 2:
                raise DataError(
                    f"Batch {index} of the data loader must be `(inputs, labels)`, but it is {_describe(item)}"
                )
            raw, labels = item
        else:
            raw, labels = item, None
        feeds = as_feeds(raw, inputs, where=f"batch {index} of the data loader")
        size = axes.size(feeds)
        if size == 0:
            raise DataError(f"Batch {index} of the data loader must have at least one sample, but has none")
        yield Batch(feeds=feeds, labels=labels, size=size)
        count += 1
    if count == 0:
        raise DataError("The data loader must yield at least one batch, but it is empty")


def as_feeds(raw: object, inputs: Sequence[TensorSpec], *, where: str) -> Feeds:
    """One batch of inputs as a dict by input name, each array of the dtype and shape that the model declares.

    Python lists and torch tensors are taken as arrays. float64 is narrowed to float32 and integers are widened where
    no value changes; everything else of another dtype is an error, uint8 pictures for a float32 input included.

    Raises:
        DataError: An input is missing or unknown, or has another dtype or shape than the model declares.
    """
    if isinstance(raw, Mapping):
        expected = [spec.name for spec in inputs]
        if set(raw) != set(expected):
            raise DataError(_misnamed(raw, expected, where))
        values = [raw[name] for name in expected]
    elif isinstance(raw, (tuple, list)) and not (len(inputs) == 1 and len(raw) != 1):
        values = list(raw)
    else:
        values = [raw]
    if len(values) != len(inputs):
        raise DataError(
            f"{where} must have an array for each of the model's {counted(len(inputs), 'input')} "
            f"({', '.join(spec.name for spec in inputs)}), but has {len(values)}"
        )
    feeds = {spec.name: _as_array(value, spec, where) for value, spec in zip(values, inputs, strict=True)}
    if feeds and all(array.size == 0 for array in feeds.values()):
        # One of several may be empty: a cache before the first token.
        shapes = ", ".join(f"{name} {array.shape}" for name, array in feeds.items())
        raise DataError(f"{where} must have at least one element, but has {shapes}")
    return feeds


def fingerprint(batches: Iterable[Batch]) -> str:
    """A hash of all inputs in their order; labels do not count."""
    digest = hashlib.sha256()
    for batch in batches:
        for name, array in batch.feeds.items():
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes() if array.dtype != object else repr(array).encode())
    return digest.hexdigest()[:16]


def limit(batches: Iterable[Batch], samples: int | None) -> Iterator[Batch]:
    """The first batches that together have at least ``samples`` samples; all of them where it is None."""
    seen = 0
    for batch in batches:
        yield batch
        seen += batch.size
        if samples is not None and seen >= samples:
            return


def require_repeatable(loader: Iterable[object], name: str) -> None:
    """See that a loader can be iterated again, without consuming it.

    Raises:
        DataError: It is an iterator, and so can be read only once, or no iterable at all.
    """
    iterator = _open(loader)
    if iterator is loader:
        raise DataError(
            f"The {name} must be iterable again and again, but a {type(loader).__name__} can be read only once. "
            "Pass a list of batches, a torch DataLoader, or an object whose __iter__ starts anew"
        )


def _misnamed(raw: Mapping[Any, object], expected: Sequence[str], where: str) -> str:
    """The message for a dict whose keys are not the names of the inputs."""
    surplus = sorted(str(name) for name in raw if name not in expected)
    missing = [name for name in expected if name not in raw]
    ways = []
    if labels := [name for name in surplus if name in _LABELS]:
        ways.append(f"yield `(inputs, labels)`, with {labels[0]!r} taken out of the dict")
    if others := [name for name in surplus if name not in labels]:
        near = [f"{name!r} (did you mean {found!r}?)" for name in others if (found := nearest(name, missing))]
        ways.append(f"rename {', '.join(near)}" if near else f"leave out {', '.join(map(repr, others))}")
    if missing and not any("rename" in way for way in ways):
        ways.append(f"add {', '.join(map(repr, missing))}")
    way = " and ".join(ways)
    return (
        f"{where} must name the model's inputs {list(expected)}, but names {sorted(map(str, raw))}. "
        f"In the loader, {way}"
    )


def _open(loader: Iterable[object]) -> Iterator[object]:
    way = None
    if isinstance(loader, (str, bytes, os.PathLike)):
        way = "Read the file first, and give a list of its batches"
    elif isinstance(loader, Mapping):
        way = "Where it is one batch, put it into a list"
    elif callable(loader) and not hasattr(type(loader), "__iter__"):
        way = "Call it and give a list of what it yields, or give an object whose `__iter__` starts anew"
    if way is not None:
        raise DataError(f"A data loader must be an iterable of batches, but got {shown(loader)}. {way}")
    try:
        return iter(loader)
    except TypeError:
        raise DataError(f"A data loader must be an iterable of batches, but got {shown(loader)}") from None


def _fits(spec: TensorSpec, shape: tuple[int, ...]) -> bool:
    return len(shape) == len(spec.shape) and all(
        not isinstance(want, int) or have == want for have, want in zip(shape, spec.shape, strict=True)
    )


def _way_to(spec: TensorSpec, shape: tuple[int, ...]) -> str:
    """The change that gives an array the shape of an input, as a sentence; empty where none of the usual ones does."""
    if len(spec.shape) == len(shape) + 1 and _fits(spec, (1, *shape)):
        return ". It is one sample: yield batches, as `array[None]` or a list of arrays such as `[array]`"
    for order, name in (((0, 3, 1, 2), "channels first"), ((0, 2, 3, 1), "channels last")):
        if len(shape) == 4 and _fits(spec, tuple(shape[axis] for axis in order)):
            return f". The model reads {name}: yield `array.transpose{order}`"
    return ""


def _as_array(value: object, spec: TensorSpec, where: str) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"Input {spec.name!r} must be one array, but {where} has rows that differ: {error}") from None
    if array.dtype == object and array.ndim == 0 and spec.dtype.kind != "O":
        raise DataError(
            f"Input {spec.name!r} must be an array of {spec.dtype}, but {where} has {shown(value)}. "
            "Yield arrays, or dicts of them by input name"
        )
    if array.dtype != spec.dtype:
        array = _as_dtype(array, spec, where)
    if not _fits(spec, array.shape):
        wanted = ", ".join("?" if dim is None else str(dim) for dim in spec.shape)
        raise DataError(
            f"Input {spec.name!r} needs shape ({wanted}), but {where} has {array.shape}{_way_to(spec, array.shape)}"
        )
    return np.asarray(array, order="C")  # ascontiguousarray would give a scalar an axis


def _as_dtype(array: Array, spec: TensorSpec, where: str) -> Array:
    if spec.dtype.kind == "O" and array.dtype.kind in "US":  # strings, which ONNX Runtime reads as objects
        return array.astype(object)
    if array.ndim == 0 and spec.dtype.kind == "f" and array.dtype.kind in "iu":  # a number as people write it
        return array.astype(spec.dtype)
    both_float = array.dtype.kind == "f" and spec.dtype.kind == "f"
    both_int = array.dtype.kind in "iu" and spec.dtype.kind in "iu"
    if both_float:
        return array.astype(spec.dtype)
    if both_int:
        cast = array.astype(spec.dtype)
        if bool(np.all(cast == array)):
            return cast
    raise DataError(
        f"Input {spec.name!r} needs dtype {spec.dtype}, but {where} has {array.dtype}. Convert it in the loader"
    )


def _describe(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def first_batch(loader: Iterable[object], inputs: Sequence[TensorSpec], axes: BatchAxes | None = None) -> Batch:
    """The first batch of a loader.

    Raises:
        DataError: There is none, or the model cannot read it.
    """
    return next(itertools.islice(iterate(loader, inputs, axes=axes), 1))
