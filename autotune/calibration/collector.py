"""Gathers the statistics of many tensors, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.calibration.histogram import HistogramCollector, check_finite
from autotune.calibration.moments import MomentsCollector
from autotune.calibration.statistics import CalibrationStatistics, TensorStatistics
from autotune.errors import DataError

_RUN = 16
"""Neighbours taken together: a cache line of float32, which is fetched as a whole for any one of them."""

_BLOCK = 1 << 17

SUBSAMPLE = 16384
"""Values of the first array of a tensor that its histogram is fed with; later arrays are thinned as the first."""


class StatisticsCollector:
    """Gathers :class:`CalibrationStatistics`; memory depends on the number of tensors, not of samples.

    Minimum, maximum and channel moments are exact. The histogram of a tensor with large arrays is fed with every n-th
    run of 16 neighbours, from a random start; n has no common divisor with the number of runs, so that no row, column
    or channel is left out.

    Args:
        channel_axes: The axis that counts channels, for each tensor whose channel moments are wanted.
        seed: Of the subsample. A tensor's depends on its own name only, not on the other tensors.
        subsample: How many values of a tensor's first array its histogram is fed with; None for all values.
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

        Raises:
            DataError: A value is NaN or infinite, the array is not of floats, or its channels are others than before.
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
        return CalibrationStatistics({name: tensor.finish() for name, tensor in self._tensors.items()}, samples)


class _TensorCollector:
    def __init__(self, name: str, axis: int | None, seed: int, subsample: int | None) -> None:
        self._name = name
        self._moments = None if axis is None else MomentsCollector(name, axis)
        self._histogram = HistogramCollector(name)
        self._random = np.random.default_rng([seed, *name.encode()])
        self._subsample = subsample
        self._stride = 0
        self._count = 0
        self._minimum, self._maximum = math.inf, -math.inf

    def update(self, array: npt.NDArray[Any]) -> None:
        flat = array.reshape(-1)
        if self._moments is not None:
            minimum, maximum = self._moments.update(array)
        else:
            minimum, maximum = _extremes(flat)
            check_finite(self._name, minimum, maximum)
        self._minimum, self._maximum = min(self._minimum, minimum), max(self._maximum, maximum)
        self._count += flat.size
        self._histogram.update(self._thinned(flat), (minimum, maximum))

    def _thinned(self, flat: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The part of an array that the histogram is fed with."""
        if self._subsample is None:
            return flat
        if not self._stride:
            self._stride = max(1, flat.size // self._subsample)
        runs, rest = divmod(flat.size, _RUN)
        if self._stride == 1 or runs == 0:
            return flat
        stride = self._stride
        while math.gcd(stride, runs) != 1:
            stride += 1
        shift = int(self._random.integers(rest + 1))
        return flat[shift : shift + runs * _RUN].reshape(runs, _RUN)[int(self._random.integers(stride)) :: stride]

    def finish(self) -> TensorStatistics:
        channels = None if self._moments is None else self._moments.finish()
        return TensorStatistics(self._minimum, self._maximum, self._count, self._histogram.finish(), channels)


def _extremes(flat: npt.NDArray[Any]) -> tuple[float, float]:
    """Smallest and largest value; NaN where there is one."""
    if flat.size <= _BLOCK:
        return float(flat.min()), float(flat.max())
    # both reductions on a part that the cache holds, so that memory is read once
    starts = range(0, flat.size, _BLOCK)
    parts = [(flat[start : start + _BLOCK].min(), flat[start : start + _BLOCK].max()) for start in starts]
    low, high = np.array(parts).T
    return float(low.min()), float(high.max())
