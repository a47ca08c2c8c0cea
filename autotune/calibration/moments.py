"""Streaming mean, variance and extremes per channel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.calibration.histogram import check_finite
from autotune.errors import DataError

_Float64 = npt.NDArray[np.float64]

_BLOCK = 4096
"""Values that float32 adds up before float64 takes over: keeps the relative error of a sum near 1e-6."""

_LONG_ROW = 1024
"""Values of a row from which on a reduction along an axis, which is vectorised, is the faster one."""

_CANCELLATION = 256.0
"""Squared mean over variance from which on raw squares would leave the variance an error of more than 3e-4."""

_SQUARABLE = (1e-15, 1e15)
"""Magnitudes whose squares float32 can add up without overflow and without losing them to underflow."""


@dataclass(frozen=True, eq=False)
class ChannelMoments:
    """Moments and extremes of each channel of a tensor.

    Attributes:
        axis: Axis of the tensor that counts channels.
        minimum: float64, shape (C,).
        maximum: float64, shape (C,).
        mean: float64, shape (C,).
        variance: Variance of the population, float64, shape (C,).
    """

    axis: int
    minimum: _Float64
    maximum: _Float64
    mean: _Float64
    variance: _Float64

    def __post_init__(self) -> None:
        for array in (self.minimum, self.maximum, self.mean, self.variance):
            array.setflags(write=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ChannelMoments):
            return NotImplemented
        return self.axis == other.axis and all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("minimum", "maximum", "mean", "variance")
        )

    __hash__ = None  # type: ignore[assignment]  # holds arrays, compares by content

    @property
    def absolute_maximum(self) -> _Float64:
        """The largest magnitude of each channel, float64, shape (C,)."""
        return np.maximum(np.abs(self.minimum), np.abs(self.maximum))


class MomentsCollector:
    """Gathers :class:`ChannelMoments` from arrays that arrive one by one.

    Parts are merged by the pairwise update of Chan, Golub and LeVeque ("Updating formulae and a pairwise algorithm for
    computing sample variances", 1979), so that neither many parts nor a mean far larger than the deviation cost digits.

    Args:
        name: Name of the tensor, for messages.
        axis: Axis that counts channels; negative ones count from the end.
    """

    def __init__(self, name: str, axis: int) -> None:
        self._name = name
        self._given_axis = axis
        self._axis = axis
        self._count = 0
        self._minimum = self._maximum = self._mean = self._squares = np.empty(0)

    def update(self, array: npt.NDArray[Any]) -> None:
        """Add an array's values.

        Args:
            array: Floats, contiguous, with at least one value.

        Raises:
            DataError: A value is not finite, or the array has another number of channels than those before or no such
                axis.
        """
        axis = self._resolve(array)
        view = array.reshape(math.prod(array.shape[:axis]), array.shape[axis], math.prod(array.shape[axis + 1 :]))
        minimum, maximum = _extremes(view)
        check_finite(self._name, float(minimum.min()), float(maximum.max()))
        count = view.shape[0] * view.shape[2]
        mean, squares = _mean_and_squares(view, minimum, maximum)
        if self._count == 0:
            self._axis, self._minimum, self._maximum = axis, minimum, maximum
        else:
            self._minimum, self._maximum = np.minimum(self._minimum, minimum), np.maximum(self._maximum, maximum)
        self._merge(count, mean, squares)

    def finish(self) -> ChannelMoments:
        """Moments of all arrays so far.

        Raises:
            DataError: There was none.
        """
        if self._count == 0:
            raise DataError(f"Tensor {self._name!r} must have at least one value to calibrate it, but it had none")
        return ChannelMoments(self._axis, self._minimum, self._maximum, self._mean, self._squares / self._count)

    def _merge(self, count: int, mean: _Float64, squares: _Float64) -> None:
        if self._count == 0:
            self._count, self._mean, self._squares = count, mean, squares
            return
        together = self._count + count
        delta = mean - self._mean
        self._mean = self._mean + delta * (count / together)
        self._squares = self._squares + squares + delta * delta * (self._count * count / together)
        self._count = together

    def _resolve(self, array: npt.NDArray[Any]) -> int:
        axis = self._given_axis + array.ndim if self._given_axis < 0 else self._given_axis
        if not 0 <= axis < array.ndim:
            raise DataError(
                f"Tensor {self._name!r} needs an axis {self._given_axis} to count channels, but has shape {array.shape}"
            )
        if self._count and (axis != self._axis or array.shape[axis] != self._mean.size):
            raise DataError(
                f"Tensor {self._name!r} must keep its channels ({self._mean.size} along axis {self._axis}), "
                f"but came with shape {array.shape}"
            )
        return axis


def _extremes(view: npt.NDArray[Any]) -> tuple[_Float64, _Float64]:
    """Smallest and largest value per channel; ``view`` has shape (outer, C, inner)."""
    outer, channels, inner = view.shape
    if inner == 1:
        rows = view[:, :, 0]
        low, high = rows.min(axis=0), rows.max(axis=0)
    elif inner >= _LONG_ROW:
        low, high = view.min(axis=2).min(axis=0), view.max(axis=2).max(axis=0)
    else:
        # reduceat walks short rows in two thirds of the time that a reduction along an axis takes
        starts = np.arange(0, view.size, inner)
        low = np.minimum.reduceat(view.reshape(-1), starts).reshape(outer, channels).min(axis=0)
        high = np.maximum.reduceat(view.reshape(-1), starts).reshape(outer, channels).max(axis=0)
    return low.astype(np.float64), high.astype(np.float64)


def _mean_and_squares(view: npt.NDArray[Any], minimum: _Float64, maximum: _Float64) -> tuple[_Float64, _Float64]:
    """Mean and sum of squared deviations per channel; ``view`` has shape (outer, C, inner).

    Sums of raw squares are fast and lose digits where the mean is large against the deviation. The channels where it is
    are done again, around their means.
    """
    count = view.shape[0] * view.shape[2]
    magnitude = max(float(maximum.max()), -float(minimum.min()))
    if not _SQUARABLE[0] < magnitude < _SQUARABLE[1]:
        view = view.astype(np.float64)
    total, raw = _sums(view)
    mean = total / count
    squares = np.maximum(raw - total * mean, 0.0)
    unsafe = np.flatnonzero(total * mean > _CANCELLATION * squares)
    if unsafe.size:
        deviations = view[:, unsafe].astype(np.float64)
        # channels of equal values have exactly their value as mean
        pilot = np.where(minimum == maximum, minimum, mean)[unsafe]
        deviations -= pilot[:, None]
        offset = deviations.mean(axis=(0, 2))
        mean[unsafe] = pilot + offset
        squares[unsafe] = np.maximum(np.einsum("oci,oci->c", deviations, deviations) - count * offset * offset, 0.0)
    return mean, squares


def _sums(view: npt.NDArray[Any]) -> tuple[_Float64, _Float64]:
    """Sums of the values and of their squares, per channel; ``view`` has shape (outer, C, inner)."""
    outer, channels, inner = view.shape
    total, squares = np.zeros(channels), np.zeros(channels)
    if inner == 1:
        rows = view[:, :, 0]
        for start in range(0, outer, _BLOCK):
            part = rows[start : start + _BLOCK]
            total += np.ones(len(part), part.dtype) @ part
            squares += np.einsum("rc,rc->c", part, part)
        return total, squares
    ones = np.ones(min(inner, _BLOCK), view.dtype)
    for start in range(0, inner, _BLOCK):
        part = view[:, :, start : start + _BLOCK]
        total += (part @ ones[: part.shape[2]]).sum(axis=0, dtype=np.float64)
        squares += np.vecdot(part, part).sum(axis=0, dtype=np.float64)
    return total, squares
