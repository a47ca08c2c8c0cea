"""Streaming mean, variance and extremes per channel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.errors import DataError

_Float64 = npt.NDArray[np.float64]

_BLOCK = 4096
"""Values that float32 adds up before float64 takes over: keeps the relative error of a sum near 1e-6."""


@dataclass(frozen=True, eq=False)
class ChannelMoments:
    """What is known of each channel of a tensor.

    Attributes:
        axis: Of the tensor, the one that counts channels.
        minimum: float64, shape (C,).
        maximum: float64, shape (C,).
        mean: float64, shape (C,).
        variance: Of the population, float64, shape (C,).
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

    Sums of squares are taken around a pilot mean, and parts are merged by the pairwise update of Chan, Golub and
    LeVeque ("Updating formulae and a pairwise algorithm for computing sample variances", 1979), so that a mean far
    larger than the deviation costs no digits.

    Args:
        name: Of the tensor, for messages.
        axis: That counts channels; negative ones count from the end.
    """

    def __init__(self, name: str, axis: int) -> None:
        self._name = name
        self._given_axis = axis
        self._axis = axis
        self._count = 0
        self._minimum = self._maximum = self._mean = self._squares = np.empty(0)
        self._pilot: npt.NDArray[Any] = np.empty(0)

    def update(self, array: npt.NDArray[Any]) -> tuple[float, float]:
        """Add an array's values.

        Returns:
            The array's smallest and largest value.

        Raises:
            DataError: It has another number of channels than those before, or no such axis.
        """
        axis = self._resolve(array)
        channels = array.shape[axis]
        view = array.reshape(math.prod(array.shape[:axis]), channels, math.prod(array.shape[axis + 1 :]))
        minimum, maximum = _extremes(view)
        count = view.shape[0] * view.shape[2]
        if self._count == 0:
            # one sample's mean is close enough: the pilot only has to be within some deviations of the mean
            self._pilot = view[0].mean(axis=1, dtype=np.float64).astype(array.dtype)
        total, squares = _sums(view, self._pilot.astype(array.dtype, copy=False))
        offset = total / count
        mean = self._pilot.astype(np.float64) + offset
        self._merge(count, mean, np.maximum(squares - total * offset, 0.0))
        if self._count == count:
            self._minimum, self._maximum = minimum, maximum
        else:
            self._minimum, self._maximum = np.minimum(self._minimum, minimum), np.maximum(self._maximum, maximum)
        return float(minimum.min()), float(maximum.max())

    def finish(self) -> ChannelMoments:
        """What all arrays so far have in sum.

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
        self._axis = axis
        return axis


def _extremes(view: npt.NDArray[Any]) -> tuple[_Float64, _Float64]:
    """Smallest and largest value per channel of an array of shape (outer, C, inner)."""
    if view.shape[2] == 1:
        low, high = view[:, :, 0].min(axis=0), view[:, :, 0].max(axis=0)
    else:
        low, high = view.min(axis=2).min(axis=0), view.max(axis=2).max(axis=0)
    return low.astype(np.float64), high.astype(np.float64)


def _sums(view: npt.NDArray[Any], pilot: npt.NDArray[Any]) -> tuple[_Float64, _Float64]:
    """Sums of the differences to the pilot and of their squares, per channel; ``view`` has shape (outer, C, inner)."""
    _, channels, inner = view.shape
    total, squares = np.zeros(channels), np.zeros(channels)
    if inner == 1:
        rows = view[:, :, 0]
        for start in range(0, len(rows), _BLOCK):
            part = rows[start : start + _BLOCK] - pilot
            total += part.sum(axis=0)
            squares += np.einsum("rc,rc->c", part, part)
        return total, squares
    for sample in view:
        for start in range(0, inner, _BLOCK):
            part = sample[:, start : start + _BLOCK] - pilot[:, None]
            total += part.sum(axis=1)
            squares += np.vecdot(part, part)
    return total, squares
