"""Streaming histograms whose range grows by merging bins."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.errors import DataError

DEFAULT_BINS = 8192
"""Bins of a collected histogram. The values span more than half of them, unless they are all nearly equal."""

_SMALLEST_EXPONENT = -160
"""Exponent of the smallest bin width, below float32's smallest denormal, 2**-149, so that zero has a bin of its own."""

_RESOLUTION_BITS = 40
"""A bin is at least 2**-40 of the largest magnitude wide, so that bin numbers stay exact in float64 and int64."""

_PENDING = 8192
"""Values put aside to be binned together: for fewer, the passes over all bins would cost more than the values."""

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of values in bins of equal width.

    Attributes:
        counts: int64, shape (bins,). Bin ``i`` holds the values ``x`` with
            ``low + i * width <= x < low + (i + 1) * width``.
        low: Lower edge of the first bin.
        high: Upper edge of the last bin.
    """

    counts: npt.NDArray[np.int64]
    low: float
    high: float

    def __post_init__(self) -> None:
        if self.counts.ndim != 1 or self.counts.size == 0 or self.counts.dtype != np.int64:
            raise ValueError(
                f"`counts` must be int64 of shape (bins,), but got {self.counts.dtype} of shape {self.counts.shape}"
            )
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"`low < high` must hold and both be finite, but got {self.low}, {self.high}")
        self.counts.setflags(write=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        return (self.low, self.high) == (other.low, other.high) and np.array_equal(self.counts, other.counts)

    __hash__ = None  # type: ignore[assignment]  # holds an array, compares by content

    @property
    def bins(self) -> int:
        """Number of bins."""
        return int(self.counts.size)

    @property
    def width(self) -> float:
        """Width of a bin."""
        return (self.high - self.low) / self.bins

    @property
    def total(self) -> int:
        """Number of values."""
        return int(self.counts.sum())

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """Shape (bins + 1,)."""
        return np.asarray(self.low + self.width * np.arange(self.bins + 1), np.float64)

    @property
    def centers(self) -> npt.NDArray[np.float64]:
        """Shape (bins,)."""
        return np.asarray(self.low + self.width * (np.arange(self.bins) + 0.5), np.float64)

    def quantile(self, share: float) -> float:
        """The value below which ``share`` of all values lie, taken as uniform within a bin.

        Args:
            share: Share between 0 and 1, both included.

        Raises:
            ValueError: The share is out of range, or the histogram is empty.
        """
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"`0 <= share <= 1` must hold, but got {share}")
        cumulative = np.cumsum(self.counts)
        total = int(cumulative[-1])
        if total == 0:
            raise ValueError("A histogram without values has no quantiles")
        target = share * total
        index = int(np.searchsorted(cumulative, target, side="left"))
        # share 0 lands on leading empty bins, rounding of share * total may land past the end
        occupied = np.flatnonzero(self.counts)
        index = min(max(index, int(occupied[0])), int(occupied[-1]))
        below = int(cumulative[index]) - int(self.counts[index])
        inside = min(max((target - below) / int(self.counts[index]), 0.0), 1.0)
        return self.low + self.width * (index + inside)


class HistogramCollector:
    """Collects a histogram from values that arrive in parts, without keeping them.

    Bins are as wide as a power of two and start at whole multiples of their width. When a value falls outside, widths
    double until all fit and neighbours are merged, which loses nothing: the result is, bin for bin, the histogram that
    all values at once would give, whatever their order and their parts.

    Args:
        name: Description of the values, for messages.
        bins: How many bins to keep.
    """

    def __init__(self, name: str, bins: int = DEFAULT_BINS) -> None:
        if bins < 2048:
            raise ValueError(f"`bins >= 2048` must hold, but got {bins}: fewer are too coarse for entropy calibration")
        self._name = name
        self._bins = bins
        self._counts = np.zeros(bins, np.int64)
        self._exponent = _SMALLEST_EXPONENT
        self._first = 0  # number of the first bin: it starts at _first * 2 ** _exponent
        self._minimum = math.inf
        self._maximum = -math.inf
        self._pending: list[npt.NDArray[Any]] = []
        self._pending_size = 0

    def update(self, values: npt.NDArray[Any], extremes: tuple[float, float] | None = None) -> None:
        """Count values.

        Args:
            values: Floats of any shape.
            extremes: A smallest and a largest value that the bins have to reach, where they are known already: those of
                the tensor that ``values`` are drawn from, of which there may be none. None: those of ``values``.

        Raises:
            DataError: A value is NaN, infinite or larger than float32 can say.
        """
        if extremes is not None:
            self._add(values, extremes)
        elif values.size:
            self._add(values, (float(values.min()), float(values.max())))

    def _add(self, values: npt.NDArray[Any], extremes: tuple[float, float]) -> None:
        check_finite(self._name, *extremes)
        self._cover(*extremes)
        self._pending.append(values.reshape(-1).astype(np.float32 if values.dtype == np.float32 else np.float64))
        self._pending_size += values.size
        if self._pending_size >= _PENDING:
            self._flush()

    def _flush(self) -> None:
        """Bin what was put aside."""
        if self._pending_size == 0:
            return
        # float64 bins floats of every width exactly
        positions = np.concatenate(self._pending, dtype=np.float64)
        self._pending.clear()
        self._pending_size = 0
        positions *= math.ldexp(1.0, -self._exponent)
        np.floor(positions, out=positions)
        positions -= self._first
        self._counts += np.bincount(positions.astype(np.intp), minlength=self._bins)

    def merge(self, other: HistogramCollector) -> None:
        """Add what another collector has counted; it stays as it is.

        Raises:
            ValueError: It has another number of bins.
        """
        if other._bins != self._bins:
            raise ValueError(f"Only histograms of equal size merge, but got {self._bins} and {other._bins} bins")
        if other._minimum > other._maximum:
            return
        self._flush()
        other._flush()
        self._cover(other._minimum, other._maximum)
        occupied = np.flatnonzero(other._counts)
        target = ((other._first + occupied) >> min(self._exponent - other._exponent, 63)) - self._first
        np.add.at(self._counts, target, other._counts[occupied])

    def finish(self) -> Histogram:
        """The histogram of all values so far; its first bin is that of the smallest value.

        Raises:
            DataError: There was no value.
        """
        if self._minimum > self._maximum:
            raise DataError(f"Tensor {self._name!r} must have at least one value to calibrate it, but it had none")
        self._flush()
        self._move(self._bin(self._minimum, self._exponent))
        width = math.ldexp(1.0, self._exponent)
        return Histogram(self._counts.copy(), self._first * width, (self._first + self._bins) * width)

    def _cover(self, minimum: float, maximum: float) -> None:
        """Widen and move the bins until they hold the given values and all before."""
        if self._minimum <= minimum and maximum <= self._maximum:
            return
        fresh = self._minimum > self._maximum
        self._minimum, self._maximum = min(minimum, self._minimum), max(maximum, self._maximum)
        exponent = self._smallest_exponent()
        if fresh:
            self._exponent, self._first = exponent, self._bin(self._minimum, exponent)
        elif exponent > self._exponent:
            # a shift by 63 or more leaves the sign, as the floor of a division does
            shift = min(exponent - self._exponent, 63)
            occupied = np.flatnonzero(self._counts)
            target = (self._first + occupied) >> shift
            self._first = self._first >> shift
            counts = np.zeros_like(self._counts)
            np.add.at(counts, target - self._first, self._counts[occupied])
            self._counts, self._exponent = counts, exponent
        lowest, highest = self._bin(self._minimum, exponent), self._bin(self._maximum, exponent)
        if lowest < self._first or highest >= self._first + self._bins:
            self._move(lowest)

    def _move(self, first: int) -> None:
        """Number the bins from ``first`` on; those that fall off at either end are empty."""
        occupied = np.flatnonzero(self._counts)
        counts = np.zeros_like(self._counts)
        counts[occupied + (self._first - first)] = self._counts[occupied]
        self._counts, self._first = counts, first

    def _smallest_exponent(self) -> int:
        """The finest width that holds all values: a function of the extremes alone, which makes order irrelevant."""
        largest = max(abs(self._minimum), abs(self._maximum))
        exponent = max(_SMALLEST_EXPONENT, math.frexp(largest)[1] - _RESOLUTION_BITS if largest else _SMALLEST_EXPONENT)
        span = (self._maximum - self._minimum) / self._bins
        if span > 0:
            exponent = max(exponent, math.frexp(span)[1] - 2)
        while self._bin(self._maximum, exponent) - self._bin(self._minimum, exponent) >= self._bins:
            exponent += 1
        return exponent

    @staticmethod
    def _bin(value: float, exponent: int) -> int:
        return math.floor(math.ldexp(value, -exponent))


def check_finite(name: str, minimum: float, maximum: float) -> None:
    """See that a tensor's extremes are numbers that float32 can say.

    Raises:
        DataError: Values are not finite; the message names the tensor.
    """
    if not (minimum >= -_LARGEST and maximum <= _LARGEST):  # also true for NaN
        raise DataError(
            f"Tensor {name!r} must be finite to be calibrated, but its values reach from {minimum} to {maximum}. "
            "Look for NaN or infinity in the calibration data, or leave the ops that read this tensor in fp32"
        )
