"""The calls that latency is measured on, and what running the model tells of its batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autotune.adapter import Adapter, Array, Execution, Feeds, Model, ModelT, Runner, TensorSpec, quick_runner
from autotune.batch import BatchAxes, BatchAxis, BatchChoice, Origin, declared_axes, without_axes
from autotune.data import Batch, first_batch
from autotune.errors import InputError, TrialError

_TOLERANCE = 1e-3
"""Tolerance, a share of the output's largest magnitude: the order of sums depends on the number of samples."""

_HALF_TOLERANCE = 1e-2
"""The same where the output is float16."""

_SHAPES = 5
"""Calls of different shapes that one measurement runs, at even distances of the shapes' distribution."""

_LOOKED_AT = 64
"""Batches whose shapes are compared."""


@dataclass(frozen=True, kw_only=True)
class Calls:
    """The calls that one measurement of latency runs.

    Attributes:
        feeds: One call, or several of different shapes, the smallest first.
        note: Which shapes these are, for people.
    """

    feeds: tuple[Feeds, ...]
    note: str

    @property
    def typical(self) -> Feeds:
        """The one in the middle."""
        return self.feeds[len(self.feeds) // 2]


def told_batch_axes(
    adapter: Adapter[ModelT],
    model: ModelT,
    loader: Iterable[object],
    named: BatchAxis | None,
    size: int,
    execution: Execution,
) -> tuple[ModelT, str | None]:
    """The model, told which axes count samples: as the user names them or its shapes declare, proven on a batch.

    Args:
        adapter: Adapter of the model; one that reads no batch axes leaves the model as it is.
        model: The fp32 model.
        loader: Data loader of the calibration data; its first batch is read.
        named: The user's own word.
        size: Samples in one call when latency is measured.
        execution: How the model runs.

    Returns:
        The model, and a note where the axes are not what the shapes promised.

    Raises:
        InputError: The user names axes that the model does not have, or the adapter reads none.
        DataError: There is no batch, or one that the model cannot read.
    """
    if not isinstance(adapter, BatchChoice):
        if named is not None:
            raise InputError(f"`batch_axis` needs an adapter that reads it, but {adapter.name!r} does not")
        return model, None
    declared = declared_axes(model.inputs, model.outputs, named)
    feeds = first_batch(loader, model.inputs, declared).feeds
    axes, note = settled_axes(declared, model, feeds, size, quick_runner(adapter, model, execution))
    told: ModelT = adapter.with_batch_axes(model, axes)
    return told, note


def settled_axes(
    axes: BatchAxes, model: Model, feeds: Feeds, size: int, runner: Runner
) -> tuple[BatchAxes, str | None]:
    """The batch axes as they prove on data, and a note where they are not what the shapes promised.

    An axis that was named, or whose name means a batch, has to survive that its calls are resized: a batch may be baked
    into a Reshape. Any other axis counts samples only if a sample alone gives what it gives among the others. Steps of
    a recurrence, nodes of a graph and indices into another input do not.

    Args:
        axes: Batch axes as the shapes declare them.
        model: The fp32 model.
        feeds: A batch of the loader's.
        size: Samples in one call when latency is measured.
        runner: Runs the model.
    """
    inputs, outputs = model.inputs, model.outputs
    if axes.origin in (Origin.NONE, Origin.FIXED):
        return axes, None
    counts = {feeds[name].shape[axis] for name, axis in axes.inputs.items()}
    if len(counts) != 1:
        return _refused(axes, outputs, f"the inputs do not agree on its length: {_lengths(axes, feeds)}")
    if not axes.resizable:
        return axes, None
    count = counts.pop()
    if axes.origin.certain:
        other = size if size != count else 1 if count > 1 else 2
        survives = _runs(axes, axes.resized(feeds, other), other, runner)
        return (axes, None) if survives else _kept_whole(axes, outputs, feeds, count, runner)
    if axes.origin is Origin.POSITION:
        axes = _seen(axes, inputs, feeds, count, runner)
    return _proven(axes, outputs, feeds, count, runner)


def _proven(
    axes: BatchAxes, outputs: Sequence[TensorSpec], feeds: Feeds, count: int, runner: Runner
) -> tuple[BatchAxes, str | None]:
    """The axes if a sample alone gives what it gives among the others; the first and the last are tried."""
    # Where there is only one, two of it.
    parts = [np.array([0, 0])] if count == 1 else [np.array([count - 1]), np.array([0])]
    if not _runs(axes, axes.taken(feeds, parts[0]), len(parts[0]), runner):
        return _kept_whole(axes, outputs, feeds, count, runner)
    if all(_follows_samples(axes, feeds, samples, runner) for samples in parts):
        return axes, None
    return _refused(axes, outputs, "a part of it alone gives other results than among the rest")


def _seen(axes: BatchAxes, inputs: Sequence[TensorSpec], feeds: Feeds, count: int, runner: Runner) -> BatchAxes:
    """Axes without names as a run shows them: the free ones of the batch's length whose change the outputs follow.

    States have theirs behind the first axis, which shapes without names do not say.
    """
    states = {
        spec.name: free[0]
        for spec in inputs
        if spec.name not in axes.inputs
        for free in [[axis for axis, dim in enumerate(spec.shape) if not isinstance(dim, int)]]
        if len(free) == 1 and feeds[spec.name].shape[free[0]] == count
    }
    samples = np.array([0, 0]) if count == 1 else np.array([count - 1])
    for more in ({}, states) if states else ({},):
        found = replace(axes, inputs={**axes.inputs, **more})
        try:
            whole, part = runner(feeds), runner(found.taken(feeds, samples))
        except TrialError:
            continue
        pairs = zip(whole, part, strict=True)
        return replace(found, outputs=tuple(_followed(*pair, count, len(samples)) for pair in pairs))
    return axes


def _followed(whole: Array, part: Array, count: int, size: int) -> int | None:
    """The axis of an output that has changed from ``count`` to ``size``, the only one that has changed."""
    if whole.ndim != part.ndim:
        return None
    changed = [axis for axis in range(whole.ndim) if whole.shape[axis] != part.shape[axis]]
    right = len(changed) == 1 and (whole.shape[changed[0]], part.shape[changed[0]]) == (count, size)
    return changed[0] if right else None


def latency_calls(batches: Iterable[Batch], inputs: Sequence[TensorSpec], axes: BatchAxes, size: int) -> Calls:
    """The calls to measure: of ``size`` samples where calls can be resized, else as the loader gives them.

    Where the shapes differ from batch to batch, a handful of them at even distances of their distribution.

    Args:
        batches: Batches of the calibration data; no more are read than are needed.
        inputs: Inputs of the model.
        axes: Settled.
        size: Samples in one call.
    """
    free = any(
        not isinstance(dim, int) and not (axes.resizable and axes.inputs.get(spec.name) == axis)
        for spec in inputs
        for axis, dim in enumerate(spec.shape)
    )
    seen: dict[tuple[tuple[int, ...], ...], Feeds] = {}
    order: list[tuple[int, tuple[tuple[int, ...], ...]]] = []
    for batch in itertools.islice(batches, _LOOKED_AT if free else 1):
        feeds = axes.resized(batch.feeds, size)
        shapes = tuple(array.shape for array in feeds.values())
        seen.setdefault(shapes, feeds)
        order.append((sum(array.size for array in feeds.values()), shapes))
    order.sort()
    places = [int((2 * place + 1) * len(order) / (2 * _SHAPES)) for place in range(_SHAPES)]
    chosen = tuple(seen[shapes] for shapes in dict.fromkeys(order[place][1] for place in places))
    return Calls(feeds=chosen, note=_note(chosen, axes, size))


def _note(calls: Sequence[Feeds], axes: BatchAxes, size: int) -> str:
    shapes = "; ".join(", ".join(f"{name} {array.shape}" for name, array in feeds.items()) for feeds in calls)
    if len(calls) > 1:
        shapes = f"the mean over calls of {len(calls)} shapes that the data has: {shapes}"
    else:
        shapes = f"of calls with {shapes}"
    if axes.origin is Origin.NONE:
        ignored = "" if size == 1 else f"; `batch_size={size}` needs an axis that counts samples, see `batch_axis`"
        return f"Latency is {shapes}. A call is one sample, as the data loader gives it{ignored}"
    if axes.resizable:
        return f"Latency is {shapes}: batch {size}"
    given = axes.size(calls[0])
    if given == size:
        return f"Latency is {shapes}: batch {given}, which the model fixes"
    return (
        f"Latency is {shapes}: batch {given}, which the model fixes, not `batch_size={size}`. To measure that, export "
        "the model with a free batch axis"
    )


def _refused(axes: BatchAxes, outputs: Sequence[TensorSpec], why: str) -> tuple[BatchAxes, str | None]:
    """A call is one sample from now on."""
    where = ", ".join(f"axis {axis} of {name}" for name, axis in axes.inputs.items())
    note = f"No axis counts samples: {where} is free, but {why}. Give `batch_axis` if it does"
    return without_axes(outputs), note


def _kept_whole(
    axes: BatchAxes, outputs: Sequence[TensorSpec], feeds: Feeds, count: int, runner: Runner
) -> tuple[BatchAxes, str | None]:
    """The axes that remain where a resized call does not run: samples are counted, or a call is one."""
    if axes.origin is not Origin.NAMED and count > 1:
        # A batch full of one sample: what it gives may not depend on the others that were there.
        copies = [np.full(count, sample) for sample in (0, count - 1)]
        if not all(_follows_samples(axes, feeds, samples, runner) for samples in copies):
            return _refused(axes, outputs, "the model does not run on a part of it")
    note = f"The model runs with the data loader's batch of {count} alone: its graph holds that number somewhere"
    return replace(axes, resizable=False), note


def _runs(axes: BatchAxes, feeds: Feeds, size: int, runner: Runner) -> bool:
    """Whether a call runs and gives as many results as it has samples."""
    try:
        results = runner(feeds)
    except TrialError:
        return False
    return all(
        axis is None or (axis < result.ndim and result.shape[axis] == size)
        for result, axis in zip(results, axes.outputs, strict=True)
    )


def _follows_samples(axes: BatchAxes, feeds: Feeds, samples: Array, runner: Runner) -> bool:
    """Whether a call with these samples gives for each what the whole batch gives for it."""
    try:
        whole, part = runner(feeds), runner(axes.taken(feeds, samples))
    except TrialError:
        return False
    pairs = [
        (np.take(want, samples, axis=axis), have)
        for want, have, axis in zip(whole, part, axes.outputs, strict=True)
        if axis is not None and axis < want.ndim and want.shape[axis] > int(samples.max())
    ]
    floats = [pair for pair in pairs if pair[0].dtype.kind == "f"]
    return bool(pairs) and all(_alike(want, have) for want, have in floats or pairs)


def _alike(want: Array, have: Array) -> bool:
    if want.shape != have.shape:
        return False
    if want.dtype.kind != "f":
        return bool(np.array_equal(want, have))
    finite = want[np.isfinite(want)]
    scale = float(np.abs(finite).max()) if finite.size else 0.0
    tolerance = _HALF_TOLERANCE if want.dtype == np.float16 else _TOLERANCE
    return bool(np.allclose(have, want, rtol=0.0, atol=tolerance * scale, equal_nan=True))


def _lengths(axes: BatchAxes, feeds: Mapping[str, Array]) -> str:
    return ", ".join(f"{name} {feeds[name].shape[axis]}" for name, axis in axes.inputs.items())
