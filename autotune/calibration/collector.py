"""Gathers the statistics of many tensors, batch by batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.calibration.moments import MomentsCollector
from autotune.calibration.sampling import SUBSAMPLE, SampledHistogramCollector
from autotune.calibration.statistics import CalibrationStatistics, TensorStatistics
from autotune.errors import DataError

_PORTION = 1 << 16
"""Values that are worth a call."""

_DENSE = 32
"""Rows (of the first axis: samples, most often) whose channel moments are all taken."""

_UNBOUNDED = 1e37
"""Larger magnitudes stand for infinity: float32's lowest, which masks add to what is not to be seen."""

_SKIPPED = 3
"""Portions that are left out between two of which channel moments are taken, beyond that."""


class StatisticsCollector:
    """Gathers :class:`CalibrationStatistics`; memory depends on the number of tensors, not of samples.

    Minimum and maximum are exact. So is a histogram in its tails, while the bulk of a tensor with large arrays is
    estimated from a subsample (see :class:`SampledHistogramCollector`). Channel moments are those of the first samples
    and of every fourth portion of the later ones: a channel's mean needs no more, and they cost as much as all else.

    Args:
        channel_axes: The axis that counts channels, for each tensor whose channel moments are wanted.
        seed: Seed of the subsample. A tensor's depends on its own name only, not on the other tensors.
        subsample: How many values of a tensor's first array the bulk of its histogram is fed with; None for all.
    """

    def __init__(self, channel_axes: Mapping[str, int], seed: int, *, subsample: int | None = SUBSAMPLE) -> None:
        if subsample is not None and subsample < 1:
            raise ValueError(f"`subsample >= 1` must hold, but got {subsample}")
        self._channel_axes = dict(channel_axes)
        self._seed = seed
        self._subsample = subsample
        self._tensors: dict[str, _TensorCollector] = {}

    def update(self, name: str, array: npt.NDArray[Any]) -> None:
        """Add one array of a tensor's values, of any shape; an empty one adds nothing.

        NaN, infinities and what stands for them are left out, and the tensor is remembered as unbounded.

        Raises:
            DataError: The array is not of floats, or its channels are others than before.
        """
        if array.dtype.kind != "f":
            raise DataError(f"Tensor {name!r} must be of floats to be calibrated, but is of {array.dtype}")
        if array.size == 0:
            return
        if array.dtype == np.float16:
            array = array.astype(np.float32)  # numpy reduces float16 in software
        if name not in self._tensors:
            self._tensors[name] = _TensorCollector(name, self._channel_axes.get(name), self._seed, self._subsample)
        self._tensors[name].update(np.ascontiguousarray(array))

    def finish(self, samples: int) -> CalibrationStatistics:
        """The statistics of everything so far.

        Args:
            samples: How many samples that was.
        """
        return CalibrationStatistics(
            {name: tensor.finish() for name, tensor in self._tensors.items() if tensor.seen},
            samples,
            unbounded=frozenset(name for name, tensor in self._tensors.items() if tensor.unbounded),
        )

    def has_nan(self, name: str) -> bool:
        """Whether one of a tensor's values was NaN."""
        return name in self._tensors and self._tensors[name].has_nan


class _TensorCollector:
    def __init__(self, name: str, axis: int | None, seed: int, subsample: int | None) -> None:
        self._axis = axis
        self._moments = None if axis is None else MomentsCollector(name, axis)
        self._histogram = SampledHistogramCollector(name, np.random.default_rng([seed, *name.encode()]), subsample)
        self._waiting: list[npt.NDArray[Any]] = []
        self._rows = self._skipped = 0
        self.seen = self.unbounded = self.has_nan = False

    def update(self, array: npt.NDArray[Any]) -> None:
        """Add an array; small ones wait until there are enough, since the calls would cost more than the values."""
        if not _all_bounded(array):
            self._flush()
            self.unbounded = True
            self.has_nan = self.has_nan or bool(np.isnan(array).any())
            self._moments = None  # of a channel's other values, a mean says nothing
            array = array[np.abs(array) <= _UNBOUNDED]  # one axis is left; NaN compares false
            if array.size == 0:
                return
        self.seen = True
        if self._waiting and array.shape[1:] != self._waiting[0].shape[1:]:
            self._flush()
        if array.size >= _PORTION or array.ndim == 0 or self._axis == 0:
            self._add(array)
            return
        # The caller's memory may be used again for the next batch.
        self._waiting.append(array.copy())
        if sum(part.size for part in self._waiting) >= _PORTION:
            self._flush()

    def finish(self) -> TensorStatistics:
        self._flush()
        values = self._histogram
        channels = None if self._moments is None else self._moments.finish()
        return TensorStatistics(values.minimum, values.maximum, values.count, values.finish(), channels)

    def _flush(self) -> None:
        if self._waiting:
            self._add(np.concatenate(self._waiting))
            self._waiting.clear()

    def _add(self, array: npt.NDArray[Any]) -> None:
        self._histogram.update(array)
        if self._moments is None:
            return
        if self._rows < _DENSE or self._skipped == _SKIPPED:
            self._moments.update(array)
            self._skipped = 0
        else:
            self._skipped += 1
        self._rows += array.shape[0] if array.ndim else 1


def _all_bounded(array: npt.NDArray[Any]) -> bool:
    """Whether no value is NaN, infinite, or so large that it stands for infinity."""
    flat = array.reshape(-1)
    # One product adds up what is not finite in a quarter of the time that a look at each value takes; it overflows
    # before a magnitude stands for infinity, and then the values are looked at.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(np.dot(flat, flat)):
            return True
    return bool((np.abs(flat) <= _UNBOUNDED).all())
