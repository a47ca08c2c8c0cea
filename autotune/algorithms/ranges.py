"""Choice of the range of values that is quantized, from a tensor's statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.calibration.histogram import Histogram
from autotune.calibration.statistics import TensorStatistics
from autotune.config import CalibrationAlgorithm, CalibrationMethod, TensorScheme

_Indices = npt.NDArray[np.integer[Any]]
_Float64 = npt.NDArray[np.float64]

_KL_BINS = 4096
"""Most bins; at least half of it are used. Finer ones hold so few values that their own noise looks like divergence."""

_THRESHOLDS = 512
"""Thresholds tried where only one end is searched."""

_KL_GRID = 24
_MSE_GRID = 128
"""Thresholds tried per side where both ends are searched, before the neighbourhood of the best pair is."""

_REFINEMENTS = 3
_REFINED_GRID = 9

_MOST_SATURATED = 0.01
"""Share of the values that KL may cut off, those of exactly zero left out. On two CNNs it cuts 0.3 % off at most."""

_MOST_ERROR = 10.0
"""Estimated error of KL's range over the least one. On two CNNs it is 7 at most, in a pooled tensor."""

_PERCENTILES = (99.999, 99.99, 99.9)
"""Percentiles that ``least_error`` compares."""


def activation_range(
    statistics: TensorStatistics, algorithm: CalibrationAlgorithm, scheme: TensorScheme
) -> tuple[float, float]:
    """The range that is quantized; what lies outside saturates.

    ============  ======================================================================================================
    minmax        All values.
    percentile    The given share of all values. Two-sided tensors lose half of the rest at each end; a symmetric range
                  holds that share of the magnitudes. 100 is minmax.
    kl            The range whose quantized histogram has the least Kullback-Leibler divergence from the original one
                  (S. Migacz, "8-bit Inference with TensorRT", GTC 2017), over 2048 to 4096 bins. Values of exactly
                  zero cost no accuracy, so that the bin of zero counts no more than its larger neighbour. Where
                  little mass lies near zero, the least divergence is that of a range which leaves all of it out: no
                  more than 1 % of the values may saturate, and a range with more than ten times the least error
                  gives way to that of least_error.
    mse           The range with the least expected squared error: a twelfth of the squared step for what lies inside,
                  the squared distance to the nearest end for what lies outside, the square of what becomes zero.
    least_error   The one of minmax, mse and the percentiles 99.999, 99.99 and 99.9 that has the least expected squared
                  error for this tensor. Unlike with mse, the weights keep all of their values.
    ============  ======================================================================================================

    Where an algorithm leaves no more than the bins next to zero (99.99 % of a sparse tensor are zeros), the answer is
    that of minmax.

    Args:
        statistics: Statistics of the tensor.
        algorithm: How to choose.
        scheme: Symmetric ones get a symmetric range, the others search both ends. Granularity plays no part.

    Returns:
        ``(low, high)`` with ``low <= 0 <= high``, no wider than the tensor's extremes and zero ask for.
    """
    key = (algorithm, scheme.dtype, scheme.symmetric)
    if key not in statistics.ranges:
        statistics.ranges[key] = _activation_range(statistics, algorithm, scheme)
    return statistics.ranges[key]


def noise_to_signal(statistics: TensorStatistics, low: float, high: float) -> float:
    """Expected squared error of 8-bit integers over a range, as a share of the tensor's variance; at most 1.

    A twelfth of the squared step for what lies inside, no more than its own square for what becomes zero, and the
    squared distance to the nearest end for what lies outside. A tensor that shares the range of another one, as the
    inputs of a Concat do, may have hardly more than one step for itself.

    Args:
        statistics: Statistics of the tensor.
        low: The least value that the integers can say.
        high: The largest.
    """
    histogram = statistics.histogram
    counts, values = histogram.counts, histogram.centers
    total = int(counts.sum())
    if total == 0:
        return 0.0
    mean = float(counts @ values) / total
    variance = float(counts @ np.square(values - mean)) / total
    step = (high - low) / 255
    outside = values - np.clip(values, low, high)
    squared = np.where(outside == 0, np.minimum(step * step / 12, np.square(values)), np.square(outside))
    error = float(counts @ squared) / total
    return min(1.0, error / variance) if variance > 0 else float(error > 0)


def _activation_range(
    statistics: TensorStatistics, algorithm: CalibrationAlgorithm, scheme: TensorScheme
) -> tuple[float, float]:
    low, high = min(statistics.minimum, 0.0), max(statistics.maximum, 0.0)
    if algorithm.method is CalibrationMethod.MINMAX or algorithm.percentile == 100.0 or low == high:
        return _fit(low, high, scheme)
    histogram = statistics.histogram
    if algorithm.method is CalibrationMethod.PERCENTILE:
        assert algorithm.percentile is not None
        chosen = _percentile_range(histogram, algorithm.percentile / 100.0, scheme)
    elif algorithm.method is CalibrationMethod.KL:
        chosen = _kl_range(histogram, scheme)
    elif algorithm.method is CalibrationMethod.LEAST_ERROR:
        chosen = _least_error_range(histogram, scheme)
    else:
        chosen = _mse_range(histogram, scheme)
    if -chosen[0] <= histogram.width and chosen[1] <= histogram.width:
        return _fit(low, high, scheme)
    return _fit(max(chosen[0], low), min(chosen[1], high), scheme)


def _fit(low: float, high: float, scheme: TensorScheme) -> tuple[float, float]:
    if not scheme.symmetric:
        return low, high
    bound = max(high, 0.0 - low)  # not -low, which is -0.0 for an empty range
    return 0.0 - bound, bound


def _percentile_range(histogram: Histogram, share: float, scheme: TensorScheme) -> tuple[float, float]:
    if scheme.symmetric:
        grid = _Grid.of(histogram, histogram.bins).magnitudes()
        bound = Histogram(grid.counts, 0.0, grid.counts.size * grid.width).quantile(share)
        return -bound, bound
    occupied = np.flatnonzero(histogram.counts)
    below = histogram.low + histogram.width * int(occupied[0]) < 0
    above = histogram.low + histogram.width * (int(occupied[-1]) + 1) > 0
    lost = (1.0 - share) / 2 if below and above else 1.0 - share
    low = histogram.quantile(lost) if below else 0.0
    high = histogram.quantile(1.0 - lost) if above else 0.0
    return min(low, 0.0), max(high, 0.0)


@dataclass(frozen=True)
class _Grid:
    """A histogram that reaches to zero, zero being an edge between two bins.

    Attributes:
        counts: int64, shape (bins,), from the first to the last bin with values, or to zero.
        zero: How many bins lie below zero.
        width: Width of a bin.
    """

    counts: npt.NDArray[np.int64]
    zero: int
    width: float

    @classmethod
    def of(cls, histogram: Histogram, bins: int) -> _Grid:
        """Merge neighbours, a power of two of them, until at most ``bins`` reach from end to end, zero included."""
        occupied = np.flatnonzero(histogram.counts)
        index = round(histogram.low / histogram.width) + occupied
        shift = 0
        while max(int(index[-1]) >> shift, -1) - min(int(index[0]) >> shift, 0) + 1 > bins:
            shift += 1
        index >>= shift
        zero = max(0, -int(index[0]))
        counts = np.zeros(max(int(index[-1]) + 1, 0) + zero, np.int64)
        np.add.at(counts, index + zero, histogram.counts[occupied])
        return cls(counts, zero, histogram.width * 2.0**shift)

    def magnitudes(self) -> _Grid:
        """The same for absolute values."""
        negative, positive = self.counts[: self.zero][::-1], self.counts[self.zero :]
        counts = np.zeros(max(negative.size, positive.size), np.int64)
        counts[: negative.size] += negative
        counts[: positive.size] += positive
        return _Grid(counts, 0, self.width)

    def without_zeros(self) -> _Grid:
        """The same with the bin that holds zero cut down to the larger of its neighbours."""
        if self.zero >= self.counts.size:
            return self
        counts = self.counts.copy()
        neighbours = counts[max(self.zero - 1, 0) : self.zero + 2].copy()
        neighbours[0 if self.zero == 0 else 1] = 0
        counts[self.zero] = min(int(counts[self.zero]), int(neighbours.max()))
        return _Grid(counts, self.zero, self.width) if counts.any() else self


def _kl_range(histogram: Histogram, scheme: TensorScheme) -> tuple[float, float]:
    grid = _Grid.of(histogram, _KL_BINS)
    if scheme.symmetric:
        grid = grid.magnitudes()
    grid = grid.without_zeros()
    levels = 128 if scheme.symmetric else 256
    pair = _best_ends(grid, _Divergence(grid.counts, levels), _KL_GRID, narrowest=levels)
    low, high = ((end - grid.zero) * grid.width for end in pair)
    chosen = (-high, high) if scheme.symmetric else (low, high)
    least = _least_error_range(histogram, scheme)
    errors = _squared_errors(histogram, [chosen, least], scheme)
    return chosen if errors[0] <= _MOST_ERROR * errors[1] else least


class _Divergence:
    """Kullback-Leibler divergence of many candidate ranges at once; infinite where too many values saturate.

    P is the histogram inside the range, with what lies outside added to its first and last bin that hold values. Q is
    P without that addition, its bins merged into ``levels`` and each level spread evenly over those of its bins that
    hold values. Both divided by their sums, the divergence is ``sum(P * log(P / Q))``. Since Q is constant within a
    level, prefix sums give every level's share without looking at its bins.
    """

    def __init__(self, counts: npt.NDArray[np.int64], levels: int) -> None:
        self._counts = counts.astype(np.float64)
        self._levels = levels
        self._mass = _prefix(self._counts)
        self._occupied = _prefix((counts > 0).astype(np.float64))
        self._entropy = _prefix(_xlogx(self._counts))
        self._places = np.flatnonzero(counts)

    def __call__(self, first: _Indices, last: _Indices) -> _Float64:
        """Shape (candidates,); infinite where a range leaves out more values than it may.

        Args:
            first: The first bin of each range, shape (candidates,).
            last: Index after its last bin.
        """
        divergence = np.full(first.shape, np.inf)
        full = self._mass[last] - self._mass[first] >= (1.0 - _MOST_SATURATED) * self._mass[-1]
        divergence[full] = self._of_full(first[full], last[full])
        return divergence

    def _of_full(self, first: _Indices, last: _Indices) -> _Float64:
        total = self._mass[-1]
        below, above = self._mass[first], total - self._mass[last]
        edges = first[:, None] + np.arange(self._levels + 1) * (last - first)[:, None] // self._levels
        mass, log_level = self._level(edges[:, :-1], edges[:, 1:])
        lowest = self._places[np.searchsorted(self._places, first)]
        highest = self._places[np.searchsorted(self._places, last) - 1]
        cross = np.einsum("cl,cl->c", mass, log_level)
        entropy = self._entropy[last] - self._entropy[first]
        for saturated, end in ((below, lowest), (above, highest)):
            # the last level that starts at or before the bin
            level = ((end - first + 1) * self._levels - 1) // (last - first)
            starts = first + level * (last - first) // self._levels
            ends = first + (level + 1) * (last - first) // self._levels
            cross += saturated * self._level(starts, ends)[1]
            entropy += _xlogx(self._counts[end] + saturated) - _xlogx(self._counts[end])
        return np.asarray((entropy - cross) / total + np.log((total - below - above) / total))

    def _level(self, start: _Indices, end: _Indices) -> tuple[_Float64, _Float64]:
        """Sum of the bins from ``start`` to before ``end``, and logarithm of Q there; 0 where they are empty."""
        mass = self._mass[end] - self._mass[start]
        occupied = self._occupied[end] - self._occupied[start]
        return mass, np.log(np.where(mass > 0, mass, 1.0) / np.maximum(occupied, 1.0))


def _mse_range(histogram: Histogram, scheme: TensorScheme) -> tuple[float, float]:
    grid = _finest(histogram, scheme)
    pair = _best_ends(grid, _SquaredError.of(grid, scheme), _MSE_GRID, narrowest=1)
    low, high = ((end - grid.zero) * grid.width for end in pair)
    return (-high, high) if scheme.symmetric else (low, high)


def _least_error_range(histogram: Histogram, scheme: TensorScheme) -> tuple[float, float]:
    whole = _percentile_range(histogram, 1.0, scheme)
    shares = [_percentile_range(histogram, percent / 100.0, scheme) for percent in _PERCENTILES]
    ranges = [whole, _mse_range(histogram, scheme), *shares]
    return ranges[int(np.argmin(_squared_errors(histogram, ranges, scheme)))]


def _squared_errors(histogram: Histogram, ranges: Sequence[tuple[float, float]], scheme: TensorScheme) -> _Float64:
    """The expected squared errors of ranges, in a unit of their own; their ends go outwards to the next bin's edge."""
    grid = _finest(histogram, scheme)
    low, high = (np.asarray(ends) / grid.width + grid.zero for ends in zip(*ranges, strict=True))
    # The width is a power of two, so that an end which is an edge stays one.
    first = np.clip(np.floor(low), 0, grid.counts.size).astype(np.intp)
    last = np.clip(np.ceil(high), 0, grid.counts.size).astype(np.intp)
    return _SquaredError.of(grid, scheme)(first, last)


def _finest(histogram: Histogram, scheme: TensorScheme) -> _Grid:
    grid = _Grid.of(histogram, histogram.bins)
    return grid.magnitudes() if scheme.symmetric else grid


class _SquaredError:
    """Sum of squared quantization errors of many candidate ranges at once, in units of squared bin widths.

    Within a bin values are taken as uniform. Prefix sums of the first three moments give what saturates its exact
    share; rounding to the nearest of ``steps`` equal steps costs a twelfth of the step's square per value, but nothing
    for zero itself and for the extremes of the tensor, and for values around zero no more than they have.
    """

    def __init__(self, grid: _Grid, steps: int) -> None:
        counts = grid.counts.astype(np.float64)
        centers = np.arange(counts.size) + 0.5
        self._steps = steps
        self._moments = (
            _prefix(counts),
            _prefix(counts * centers),
            _prefix(counts * (centers * centers + 1.0 / 12)),
        )
        rounded = grid.without_zeros().counts.astype(np.float64)
        if rounded.size > 1:
            # ReLU6, a sigmoid: what piles up at an extreme is exact while the range ends there
            rounded[0], rounded[-1] = min(rounded[0], rounded[1]), min(rounded[-1], rounded[-2])
        self._zero = grid.zero
        self._rounded = _prefix(rounded)
        self._magnitudes = _prefix(rounded * (np.square(centers - grid.zero) + 1.0 / 12))

    @classmethod
    def of(cls, grid: _Grid, scheme: TensorScheme) -> _SquaredError:
        """The errors of a grid for the number of steps that 8 bits give."""
        return cls(grid, 127 if scheme.symmetric else 255)

    def __call__(self, first: _Indices, last: _Indices) -> _Float64:
        """Shape (candidates,); the bins from ``first`` to before ``last`` lie in the range."""
        zeroth, linear, square = self._moments
        step = (last - first) / self._steps
        rounding = (self._rounded[last] - self._rounded[first]) * step * step / 12 - self._spared(first, last, step)
        below = square[first] - 2.0 * first * linear[first] + (first * 1.0) ** 2 * zeroth[first]
        mass, first_moment, second_moment = (each[-1] - each[last] for each in self._moments)
        above = second_moment - 2.0 * last * first_moment + (last * 1.0) ** 2 * mass
        return np.asarray(rounding + below + above)

    def _spared(self, first: _Indices, last: _Indices, step: _Float64) -> _Float64:
        """Error that values within half a step of zero are spared, against a twelfth of the step's square each.

        They become zero, and lose no more than they have: most of a spectrum, or of what an exp gives, is of that kind.
        """
        edges = np.arange(self._rounded.size)
        band = np.clip(self._zero - step / 2, first, last), np.clip(self._zero + step / 2, first, last)
        low, high = ((np.interp(end, edges, self._rounded), np.interp(end, edges, self._magnitudes)) for end in band)
        return np.asarray(np.maximum((high[0] - low[0]) * step * step / 12 - (high[1] - low[1]), 0.0))


def _best_ends(grid: _Grid, cost: _Divergence | _SquaredError, size: int, *, narrowest: int) -> tuple[int, int]:
    """The ends of the cheapest range around zero, as numbers of bins.

    A one-sided grid keeps one end at zero. A two-sided one is searched on all pairs of a geometric grid first, then
    ever closer around the best.

    Args:
        grid: Grid to choose from.
        cost: Cost to minimise.
        size: Size of the first grid, per side.
        narrowest: Bins in a range, at least; the whole grid where it has no more.
    """
    bins = grid.counts.size
    if bins <= narrowest:
        return 0, bins
    if grid.zero in (0, bins):
        widths = np.unique(np.linspace(narrowest, bins, min(_THRESHOLDS, bins - narrowest + 1)).astype(np.intp))
        low: _Indices = np.zeros_like(widths) if grid.zero == 0 else bins - widths
        high: _Indices = low + widths
        index = int(np.argmin(cost(low, high)))
        return int(low[index]), int(high[index])
    ratios = np.geomspace(1.0 / 128, 1.0, size)
    low = np.floor(grid.zero * (1.0 - ratios)).astype(np.intp)
    high = np.ceil(grid.zero + (bins - grid.zero) * ratios).astype(np.intp)
    best = (0, bins)
    for _ in range(_REFINEMENTS + 1):
        low_pairs, high_pairs = (each.reshape(-1) for each in np.meshgrid(np.unique(low), np.unique(high)))
        wide = high_pairs - low_pairs >= narrowest
        low_pairs, high_pairs = np.append(low_pairs[wide], best[0]), np.append(high_pairs[wide], best[1])
        index = int(np.argmin(cost(low_pairs, high_pairs)))
        best = int(low_pairs[index]), int(high_pairs[index])
        low = _between(low, best[0], 0, grid.zero)
        high = _between(high, best[1], grid.zero, bins)
    return best


def _between(tried: _Indices, best: int, lowest: int, highest: int) -> _Indices:
    """Candidates from the tried one before the best to the one after it."""
    tried = np.unique(tried)
    before = tried[tried < best]
    after = tried[tried > best]
    low = int(before[-1]) if before.size else lowest
    high = int(after[0]) if after.size else highest
    return np.unique(np.append(np.linspace(low, high, _REFINED_GRID).astype(np.intp), best))


def _prefix(values: npt.NDArray[np.float64]) -> _Float64:
    """Sums of the first 0, 1, … n values."""
    return np.concatenate([np.zeros(1), np.cumsum(values)])


def _xlogx(values: _Float64) -> _Float64:
    return values * np.log(np.where(values > 0, values, 1.0))
