"""The evaluation data: loaded once where memory allows, and then read in any order."""

from __future__ import annotations

import hashlib
import itertools
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil

from autotune.adapter import Array, Feeds, TensorSpec
from autotune.batch import BatchAxes, Origin, leading_axes
from autotune.data import Batch, iterate, require_repeatable
from autotune.errors import DataError
from autotune.notes import counted


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Samples that are run together.

    Attributes:
        samples: Positions of the samples in the data set.
        feeds: The model's inputs.
        labels: Labels in the loader's form; None where there are none.
        axes: How samples lie in inputs and outputs.
    """

    samples: Array
    feeds: Feeds
    labels: Any
    axes: BatchAxes = field(default_factory=BatchAxes)


class SampleStore:
    """A data set as units that can be evaluated on their own: single samples, or the loader's batches.

    Samples are units where all batches are in memory and share their shapes. Else batches are: in any order where they
    are in memory or the loader can be indexed, in the loader's own order where it can only be iterated.

    Args:
        loader: Yields ``(inputs, labels)`` or ``inputs``.
        inputs: The inputs of the model.
        labelled: Whether labels are needed; where they are not and come along all the same, they are left out.
        memory_bytes: Most memory in which batches are kept; None: a quarter of what is free.
        hashed: Whether ``fingerprint`` is wanted, a hash of all inputs and labels, which reads a gigabyte in a second.
            Without it the first one who asks reads the data once more.
        axes: Which axes count samples; None: the first one of each input where it is free. Where none does, a call is
            one sample, and what comes with it is its label.
        check: Called after each batch was read; may raise.
    """

    def __init__(
        self,
        loader: Iterable[object],
        inputs: Sequence[TensorSpec],
        *,
        labelled: bool,
        memory_bytes: int | None,
        hashed: bool = True,
        axes: BatchAxes | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        require_repeatable(loader, "evaluation data loader")
        self._loader = loader
        self._inputs = inputs
        self._labelled = labelled
        self._axes = leading_axes(inputs) if axes is None else axes
        self._batches: list[Batch] | None = []
        self._sizes: list[int] = []
        self._fingerprint: str | None = None
        memory_bytes = psutil.virtual_memory().available // 4 if memory_bytes is None else memory_bytes
        self._read(memory_bytes, hashed=hashed, check=check)
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)])
        self.total = int(self._starts[-1])
        self.by_sample = self._batches is not None and self._sliceable(self._batches)
        self.units: list[Array] = self._units()
        """Positions of the samples of each unit, in the loader's order."""
        self.any_order = self._batches is not None or _indexable(loader)

    @property
    def fingerprint(self) -> str:
        """A hash of all inputs and labels in the loader's order."""
        if self._fingerprint is None:
            digest = hashlib.blake2b(digest_size=12)
            for batch in self._iterate() if self._batches is None else self._batches:
                _hash(digest, batch)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def chunks(self, units: Array) -> Iterator[Chunk]:
        """The given units in the given order, put together to batches of the loader's size where they are samples.

        Args:
            units: Indices into :attr:`units`; ascending where :attr:`any_order` is false.
        """
        if self.by_sample:
            assert self._batches is not None
            size = max(self._sizes)
            for start in range(0, len(units), size):
                yield self._gather(np.asarray(units[start : start + size]))
            return
        for unit, batch in self._pick(units):
            yield Chunk(
                samples=np.arange(self._starts[unit], self._starts[unit + 1]),
                feeds=batch.feeds,
                labels=_label_of_call(batch.labels) if self._axes.origin is Origin.NONE else batch.labels,
                axes=self._axes,
            )

    def _units(self) -> list[Array]:
        if self.by_sample:
            return list(np.arange(self.total).reshape(-1, 1))
        return [np.arange(start, stop) for start, stop in itertools.pairwise(self._starts)]

    def _read(self, memory_bytes: int, *, hashed: bool, check: Callable[[], None]) -> None:
        digest = hashlib.blake2b(digest_size=12) if hashed else None
        held = 0
        for batch in self._iterate():
            check()
            self._sizes.append(batch.size)
            if digest is not None:
                _hash(digest, batch)
            held += sum(array.nbytes for array in batch.feeds.values())
            if held > memory_bytes:
                self._batches = None
            elif self._batches is not None:
                self._batches.append(batch)
        self._fingerprint = None if digest is None else digest.hexdigest()

    def _iterate(self) -> Iterator[Batch]:
        batches = iterate(self._loader, self._inputs, axes=self._axes, labelled=self._labelled or None)
        for index, batch in enumerate(batches):
            if self._labelled and self._axes.origin is not Origin.NONE:
                _check_labels(batch, index)
            yield batch

    def _sliceable(self, batches: list[Batch]) -> bool:
        """Whether samples of different batches can be put together to one batch."""
        axes = self._axes
        if not axes.resizable:
            return False
        first = batches[0].feeds
        shapes = {
            tuple(tuple(np.delete(batch.feeds[name].shape, axis)) for name, axis in axes.inputs.items())
            for batch in batches
        }
        sizes_agree = all(
            batch.feeds[name].shape[axis] == batch.size for batch in batches for name, axis in axes.inputs.items()
        )
        # An input that belongs to a call as a whole, such as a sampling rate, has to be the same in all.
        whole = [name for name in first if axes.is_constant(name)]
        constant = all(np.array_equal(batch.feeds[name], first[name]) for batch in batches for name in whole)
        return len(shapes) == 1 and sizes_agree and constant

    def _gather(self, samples: Array) -> Chunk:
        assert self._batches is not None
        batch_of = np.searchsorted(self._starts, samples, side="right") - 1
        rows = samples - self._starts[batch_of]
        picked = [(self._batches[batch], int(row)) for batch, row in zip(batch_of, rows, strict=True)]
        feeds = {name: self._rows(name, picked) for name in picked[0][0].feeds}
        labels = join_labels([(batch.labels, row) for batch, row in picked]) if self._labelled else None
        return Chunk(samples=samples, feeds=feeds, labels=labels, axes=self._axes)

    def _rows(self, name: str, picked: list[tuple[Batch, int]]) -> Array:
        if self._axes.is_constant(name):
            return picked[0][0].feeds[name]
        axis = self._axes.inputs[name]
        return np.stack([np.take(batch.feeds[name], row, axis=axis) for batch, row in picked], axis=axis)

    def _pick(self, units: Array) -> Iterator[tuple[int, Batch]]:
        if self._batches is not None:
            for unit in units:
                yield unit, self._batches[unit]
        elif _indexable(self._loader):
            for unit in units:
                items = [self._loader[unit]]  # type: ignore[index]  # checked by _indexable
                yield unit, next(iterate(items, self._inputs, axes=self._axes, labelled=self._labelled or None))
        else:
            wanted = set(units.tolist())
            for unit, batch in enumerate(self._iterate()):
                if unit in wanted:
                    yield unit, batch


def _indexable(loader: object) -> bool:
    return isinstance(loader, Sequence)


def _check_labels(batch: Batch, index: int) -> None:
    parts = batch.labels.values() if isinstance(batch.labels, Mapping) else [batch.labels]
    for part in parts:
        try:
            count = len(part)
        except TypeError:
            count = 1
        if count != batch.size:
            raise DataError(
                f"Batch {index} of the evaluation data has {counted(batch.size, 'sample')}, but "
                f"{counted(count, 'label')}. "
                "Labels must come one per sample, in the order of the inputs"
            )


def _label_of_call(labels: Any) -> Any:
    """The labels of a call that is one sample, as a metric reads those of a batch of one."""
    if labels is None:
        return None
    if isinstance(labels, Mapping):
        return {name: _label_of_call(part) for name, part in labels.items()}
    if isinstance(labels, str) or not hasattr(labels, "__len__") or getattr(labels, "shape", None) == ():
        return [labels]
    if len(labels) == 1:
        return labels
    return [labels] if isinstance(labels, (list, tuple)) else np.asarray(labels)[np.newaxis]


def join_labels(rows: Sequence[tuple[Any, int]]) -> Any:
    """The labels of single samples as those of one batch: by sample, the labels of its batch and its place there."""
    first = rows[0][0]
    if isinstance(first, Mapping):
        return {name: join_labels([(labels[name], row) for labels, row in rows]) for name in first}
    values = [labels[row] if hasattr(labels, "__getitem__") else labels for labels, row in rows]
    return values if isinstance(first, (list, tuple)) else np.asarray(values)


def _hash(digest: Any, batch: Batch) -> None:
    for name, array in batch.feeds.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(pickle.dumps(array.tolist()) if array.dtype == object else np.ascontiguousarray(array).tobytes())
    digest.update(pickle.dumps(batch.labels))
