"""Finds the axis of a model's inputs and outputs that counts samples."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from autotune.adapter import Array, Feeds, Model, TensorSpec
from autotune.errors import InputError
from autotune.suggestion import suggestion

BatchAxis: TypeAlias = int | Mapping[str, int]
"""Batch axis as a user names it: one for all inputs and outputs, or one by the name of each that has one."""

_BATCH = re.compile(r"^(n|b|bs|bsz)$|batch", re.IGNORECASE)
"""Names under which exporters and people write the number of samples."""

_NO_BATCH = re.compile(r"^[tlshwe]$|seq|time|len|frame|step|token|word|char|node|edge|height|width|past", re.IGNORECASE)
"""Names of what one sample has several of: steps, words, nodes, pixels."""


class Origin(StrEnum):
    """Why an axis is taken to count samples."""

    NAMED = "named"
    """The user names the axis."""
    SYMBOL = "symbol"
    """Inputs and outputs share the axis by a name that means a batch."""
    SHARED = "shared"
    """Inputs and outputs share their first axis by some other name."""
    POSITION = "position"
    """The first axis is free in inputs and outputs, and nothing says that it is the same one."""
    FIXED = "fixed"
    """The first axis has one size in inputs and outputs."""
    NONE = "none"
    """No axis counts samples: a call is one sample."""

    @property
    def certain(self) -> bool:
        """Whether it needs no proof that samples along the axis do not depend on each other."""
        return self in (Origin.NAMED, Origin.SYMBOL)


@dataclass(frozen=True, kw_only=True)
class BatchAxes:
    """How samples lie in the arrays of a call.

    Attributes:
        inputs: The axis that counts samples, by the name of the input. An input that is not in it, such as a sampling
            rate, belongs to the call as a whole.
        outputs: The same by the place of the output; None for one that belongs to the call as a whole.
        resizable: Whether a call may have any number of samples.
        origin: Why these are the axes.
    """

    inputs: Mapping[str, int] = field(default_factory=dict)
    outputs: tuple[int | None, ...] = ()
    resizable: bool = False
    origin: Origin = Origin.NONE

    def size(self, feeds: Feeds) -> int:
        """How many samples a call has: 1 where no axis counts them."""
        return next((int(feeds[name].shape[axis]) for name, axis in self.inputs.items()), 1)

    def resized(self, feeds: Feeds, size: int) -> Feeds:
        """The same inputs with ``size`` samples, repeated or cut; as they are where that is not possible."""
        return self.taken(feeds, np.arange(size) % max(1, self.size(feeds))) if self.resizable else feeds

    def taken(self, feeds: Feeds, samples: Array) -> Feeds:
        """The same inputs with these samples of theirs."""
        return {
            name: np.ascontiguousarray(np.take(array, samples, axis=self.inputs[name]))
            if name in self.inputs
            else array
            for name, array in feeds.items()
        }

    def per_sample(self, outputs: tuple[Array, ...]) -> tuple[Array, ...]:
        """A call's outputs with samples along the first axis, as metrics read them."""
        if not self.outputs:
            return outputs
        placed = zip(outputs, self.outputs, strict=True)
        if self.origin is Origin.NONE:
            return tuple(output[np.newaxis] if axis is None else output for output, axis in placed)
        return tuple(np.moveaxis(output, axis, 0) if axis else output for output, axis in placed)

    def is_constant(self, name: str) -> bool:
        """Whether an input belongs to the call as a whole."""
        return name not in self.inputs


@runtime_checkable
class BatchChoice(Protocol):
    """Optional part of the contract, for adapters that read the batch axes of a model when they calibrate or apply."""

    def with_batch_axes(self, model: Any, axes: BatchAxes) -> Any:
        """The same model, for which :func:`axes_of` gives ``axes``; called once, after :meth:`Adapter.load`."""
        ...


def axes_of(model: Model) -> BatchAxes:
    """The axes that a model was given by :class:`BatchChoice`; else those that its inputs and outputs declare."""
    given = getattr(model, "batch_axes", None)
    return given if isinstance(given, BatchAxes) else declared_axes(model.inputs, model.outputs)


def leading_axes(inputs: Sequence[TensorSpec]) -> BatchAxes:
    """The axes that inputs alone suggest: the first axis of each where it is free, else that of the first input."""
    free = {spec.name: 0 for spec in inputs if spec.shape and not isinstance(spec.shape[0], int)}
    if free:
        return BatchAxes(inputs=free, resizable=True, origin=Origin.POSITION)
    return BatchAxes(inputs={spec.name: 0 for spec in inputs[:1] if spec.shape}, origin=Origin.FIXED)


def declared_axes(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], batch_axis: BatchAxis | None = None
) -> BatchAxes:
    """The axes that count samples, as far as shapes tell.

    An axis is the batch where inputs and outputs share it by a name that means one. Where they share their first axis
    by another name, or have a free first axis each, it may be the batch, and :func:`autotune.calls.settled_axes` finds
    out on data.

    Args:
        inputs: Inputs of the model.
        outputs: Outputs of the model.
        batch_axis: The user's own word.

    Raises:
        InputError: The user names an axis or an array that the model does not have.
    """
    if batch_axis is not None:
        return _named(inputs, outputs, batch_axis)
    symbol = _symbol(inputs, outputs)
    if symbol is not None:
        origin = Origin.SYMBOL if _BATCH.search(symbol) else Origin.SHARED
        return BatchAxes(
            inputs={spec.name: spec.shape.index(symbol) for spec in inputs if symbol in spec.shape},
            outputs=tuple(spec.shape.index(symbol) if symbol in spec.shape else None for spec in outputs),
            resizable=True,
            origin=origin,
        )
    return _by_position(inputs, outputs) or _fixed(inputs, outputs) or without_axes(outputs)


def without_axes(outputs: Sequence[TensorSpec]) -> BatchAxes:
    """A call is one sample; outputs with a first axis of size 1 have it there already."""
    return BatchAxes(outputs=tuple(0 if spec.shape and spec.shape[0] == 1 else None for spec in outputs))


def _symbol(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str | None:
    """The name of the batch; one that means it comes before any other of a first axis."""
    written = {dim for spec in outputs for dim in spec.shape if isinstance(dim, str)}
    shared = [dim for spec in inputs for dim in spec.shape if isinstance(dim, str) and dim in written]
    # A symbol on two axes of one array counts what is compared with itself: nodes of a graph, words of a sentence.
    once = [dim for dim in dict.fromkeys(shared) if all(spec.shape.count(dim) <= 1 for spec in (*inputs, *outputs))]
    unlike = [dim for dim in once if not _NO_BATCH.search(dim)]
    first = [dim for dim in unlike if all(spec.shape.index(dim) == 0 for spec in inputs if dim in spec.shape)]
    return next((dim for dim in unlike if _BATCH.search(dim)), next(iter(first), None))


def _by_position(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> BatchAxes | None:
    free = [spec for spec in inputs if spec.shape and _may_count(spec.shape[0])]
    written = tuple(0 if not spec.shape or _may_count(spec.shape[0]) else None for spec in outputs)
    if not free or all(axis is None for axis in written):
        return None
    return BatchAxes(inputs={spec.name: 0 for spec in free}, outputs=written, resizable=True, origin=Origin.POSITION)


def _may_count(dim: int | str | None) -> bool:
    return dim is None or (isinstance(dim, str) and not _NO_BATCH.search(dim))


def _fixed(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> BatchAxes | None:
    if any(spec.shape and not isinstance(spec.shape[0], int) for spec in inputs):
        return None  # a state may have a batch of one beside a sequence of any length, which is what a call is about
    sizes = [spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], int)]
    written = [spec.shape[0] if spec.shape else None for spec in outputs]
    size = next((size for size in sizes if size in written), None)
    if size is None and sizes and not any(isinstance(dim, int) for dim in written):
        size = sizes[0]
    if size is None:
        return None
    return BatchAxes(
        inputs={spec.name: 0 for spec in inputs if spec.shape and spec.shape[0] == size},
        outputs=tuple(0 if dim == size or not isinstance(dim, int) else None for dim in written),
        origin=Origin.FIXED,
    )


def _named(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], batch_axis: BatchAxis) -> BatchAxes:
    by_name = _axes_by_name(inputs, outputs, batch_axis)
    read = {spec.name: by_name[spec.name] for spec in inputs if spec.name in by_name}
    if not read:
        shapes = ", ".join(f"{spec.name} {_text(spec.shape)}" for spec in inputs)
        raise InputError(f"`batch_axis` must name an axis of an input, but {batch_axis!r} is none of {shapes}")
    symbols = {spec.shape[read[spec.name]] for spec in inputs if spec.name in read}
    written: list[int | None] = []
    for spec in outputs:
        shared = [axis for axis, dim in enumerate(spec.shape) if isinstance(dim, str) and dim in symbols]
        written.append(by_name.get(spec.name, shared[0] if shared else None))
    return BatchAxes(
        inputs=read,
        outputs=tuple(written),
        resizable=all(not isinstance(symbol, int) for symbol in symbols),
        origin=Origin.NAMED,
    )


def _axes_by_name(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], batch_axis: BatchAxis) -> dict[str, int]:
    """The axis of each array that has one, counted from the front."""
    ranks = {spec.name: len(spec.shape) for spec in (*inputs, *outputs)}
    if isinstance(batch_axis, int):
        free = {
            spec.name: batch_axis
            for spec in (*inputs, *outputs)
            if -len(spec.shape) <= batch_axis < len(spec.shape) and not isinstance(spec.shape[batch_axis], int)
        }
        fits = {spec.name: batch_axis for spec in inputs if -len(spec.shape) <= batch_axis < len(spec.shape)}
        axes: Mapping[str, int] = free if any(spec.name in free for spec in inputs) else fits
    else:
        axes = batch_axis
    for name, axis in axes.items():
        if name not in ranks:
            raise InputError(
                f"`batch_axis` must name inputs or outputs of the model, but there is no {name!r}"
                f"{suggestion(name, ranks)}. There are: {', '.join(ranks)}"
            )
        if not -ranks[name] <= axis < ranks[name]:
            raise InputError(f"`batch_axis` gives {name!r} axis {axis}, but it has {ranks[name]} dimensions")
    return {name: axis % ranks[name] for name, axis in axes.items()}


def _text(shape: tuple[int | str | None, ...]) -> str:
    return f"({', '.join('?' if dim is None else str(dim) for dim in shape)})"
