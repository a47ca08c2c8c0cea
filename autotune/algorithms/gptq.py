"""GPTQ: the error of one rounded weight is made up for by those not yet rounded.

Follows E. Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"
(arXiv 2210.17323), after B. Hassibi's optimal brain surgeon: with ``H`` the second moments of a layer's inputs, the
squared error of its output is ``(w - q) H (w - q)^T``, and rounding input by input, in order of descending ``H[i, i]``,
the best update of the remaining weights follows from the Cholesky factor of the inverse of ``H``. Scales stay as they
are. No gradients, one pass over the examples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autotune.adapter import Array
from autotune.algorithms.graph import Convolution

_Float64 = npt.NDArray[np.float64]

LARGEST_INPUTS = 4608
"""Most inputs of one output of a layer. Beyond, the inverse of ``H`` costs more than the recipe gives."""

_POSITIONS_PER_INPUT = 16
_FEWEST_POSITIONS = 1024
"""How many positions second moments are taken over, evenly spread: many times what their inverse needs to exist."""

_DAMPING = 0.01
"""Share of the mean of H's diagonal that is added to it, as in the paper: inputs that are always zero do no harm."""

_BLOCK = 64


@dataclass(frozen=True, kw_only=True)
class PairBound:
    """Bound of the sum of two neighbours of one sign, which a kernel adds up in few bits.

    Attributes:
        neighbours: By input, the one before and the one after it there, -1 where there is none; shape (2, inputs).
        most: Sum of their integers' magnitudes. Zero points are 0.
    """

    neighbours: Array
    most: int


def round_by_gptq(
    rows: Array,
    scale: Array,
    zero_point: Array,
    moments: Array,
    integers: tuple[int, int],
    pairs: PairBound | None = None,
) -> Array:
    """Weights on the grid of their scales, chosen for the least squared error of the layer's output.

    Args:
        rows: Weights, shape (groups, outputs, inputs).
        scale: Shape (groups, outputs), or (groups, outputs, inputs) where it differs within an output.
        zero_point: The shape of ``scale``.
        moments: Second moments of the inputs, shape (groups, inputs, inputs). Those that are not finite are not used.
        integers: Smallest and largest integer.
        pairs: A bound for neighbours; what it takes from an input is handed on like any other error.

    Returns:
        float32, the shape of ``rows``: real values that quantize to themselves.
    """
    moments = moments.astype(np.float64)
    # Where an op before divided by a zero that int8 made, nothing is known of the inputs: each counts alike.
    finite = np.isfinite(moments).all(axis=(1, 2), keepdims=True)
    moments = np.where(finite, moments, np.eye(moments.shape[1]))
    diagonal = np.diagonal(moments, axis1=1, axis2=2)
    order = np.argsort(-diagonal, axis=1, kind="stable")
    damping = _DAMPING * diagonal.mean(axis=1) + 1e-12
    moments = np.take_along_axis(np.take_along_axis(moments, order[:, :, None], 1), order[:, None, :], 2)
    moments = moments + damping[:, None, None] * np.eye(moments.shape[1])
    factor = np.stack([_inverse_factor(each) for each in moments])
    weights: _Float64 = np.take_along_axis(rows.astype(np.float64), order[:, None, :], 2)
    steps, zeros = (_ordered(np.asarray(each, np.float64), order) for each in (scale, zero_point))
    low, high = ((end - zeros) * steps for end in integers)
    bounds = None if pairs is None else _Neighbours(pairs, order, weights.shape)
    rounded = _feed_back(weights, factor, steps, low, high, bounds)
    result = np.empty(rows.shape, np.float32)
    np.put_along_axis(result, order[:, None, :], rounded.astype(np.float32), 2)
    return result


def _inverse_factor(moments: _Float64) -> _Float64:
    """The upper triangular ``U`` with ``U^T U`` the inverse of ``moments``.

    With the order of the inputs turned around, it is the inverse of the Cholesky factor of ``moments`` itself, which
    saves inverting first.
    """
    lower = np.linalg.cholesky(moments[::-1, ::-1])
    from scipy.linalg import lapack  # noqa: PLC0415  scipy takes a third of a second, which `import autotune` need not wait

    inverse, info = lapack.dtrtri(lower, lower=1)
    assert info == 0, "a Cholesky factor has no zero on its diagonal"
    return np.ascontiguousarray(inverse[::-1, ::-1], np.float64)


def _ordered(values: _Float64, order: npt.NDArray[np.intp]) -> _Float64:
    """The values of each input, shape (groups, outputs, inputs), in the order in which inputs are rounded."""
    shape = (*values.shape[:2], order.shape[1])
    if values.ndim == 2:
        return np.broadcast_to(values[:, :, None], shape)
    return np.take_along_axis(values, order[:, None, :], 2)


class _Neighbours:
    """The integers given so far, and what they leave to the inputs next to them."""

    def __init__(self, pairs: PairBound, order: npt.NDArray[np.intp], shape: tuple[int, ...]) -> None:
        self._most = pairs.most
        self._neighbours = pairs.neighbours
        self._order = order
        # One more, which stays zero: the neighbour of those at the ends.
        self._given = np.zeros((*shape[:2], shape[2] + 1))

    def room(self, column: int) -> tuple[_Float64, _Float64]:
        """The smallest and the largest integer that an input may get, shape (groups, outputs)."""
        beside = self._neighbours[:, self._order[:, column]]
        both = [np.take_along_axis(self._given, each[:, None, None], 2)[:, :, 0] for each in beside]
        high = self._most - np.maximum(np.maximum(both[0], both[1]), 0.0)
        low = -self._most - np.minimum(np.minimum(both[0], both[1]), 0.0)
        return low, high

    def give(self, column: int, integers: _Float64) -> None:
        """Keep what an input got."""
        np.put_along_axis(self._given, self._order[:, column][:, None, None], integers[:, :, None], 2)


def _feed_back(
    weights: _Float64,
    factor: _Float64,
    scale: _Float64,
    low: _Float64,
    high: _Float64,
    bounds: _Neighbours | None,
) -> _Float64:
    """Round column by column; columns beyond the current block are updated once per block. Changes ``weights``."""
    rounded = np.empty_like(weights)
    inputs = weights.shape[2]
    for start in range(0, inputs, _BLOCK):
        stop = min(start + _BLOCK, inputs)
        errors = np.empty((*weights.shape[:2], stop - start))
        for column in range(start, stop):
            current = weights[:, :, column]
            step = scale[:, :, column]
            nearest = np.clip(np.rint(current / step) * step, low[:, :, column], high[:, :, column])
            if bounds is not None:
                integers = np.clip(np.rint(nearest / step), *bounds.room(column))
                bounds.give(column, integers)
                nearest = integers * step
            rounded[:, :, column] = nearest
            error = (current - nearest) / factor[:, None, column, column]
            errors[:, :, column - start] = error
            weights[:, :, column + 1 : stop] -= error[:, :, None] * factor[:, None, column, column + 1 : stop]
        weights[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
    return rounded


def convolution_moments(convolution: Convolution, kernel: Sequence[int], inputs: Sequence[Array]) -> Array:
    """Second moments of what the filters of a convolution see.

    Args:
        convolution: How it goes over its inputs; its pads are known.
        kernel: Spatial shape of the kernel.
        inputs: Batches of the convolution's input, each of shape (N, C, spatial...).

    Returns:
        float32, shape (groups, C / groups * kernel, C / groups * kernel).
    """
    positions = _positions(inputs[0].shape[1] // convolution.groups * math.prod(kernel))
    columns = [_columns(convolution, kernel, array, max(1, positions // len(inputs))) for array in inputs]
    total = sum(each.shape[2] for each in columns)
    return np.asarray(sum(each @ each.transpose(0, 2, 1) for each in columns) / max(total, 1), np.float32)


def matmul_moments(inputs: Sequence[Array]) -> Array:
    """The same for a matrix product: float32, shape (1, inputs, inputs)."""
    rows = np.concatenate([array.reshape(-1, array.shape[-1]) for array in inputs])
    rows = rows[:: max(1, len(rows) // _positions(rows.shape[1]))]
    return np.asarray(rows.T @ rows / max(len(rows), 1), np.float32)[None]


def _positions(inputs: int) -> int:
    return max(_FEWEST_POSITIONS, _POSITIONS_PER_INPUT * inputs)


def _columns(convolution: Convolution, kernel: Sequence[int], array: Array, positions: int) -> Array:
    """Patches of one array, shape (groups, C / groups * kernel, positions)."""
    strides, dilations, pads = convolution.strides, convolution.dilations, convolution.pads
    assert pads is not None
    rank = len(kernel)
    spans = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    padded = np.pad(array, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    axes = tuple(range(2, 2 + rank))
    windows: Array = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=axes)
    both = slice(None), slice(None)
    stepped = *(slice(None, None, step) for step in strides), *(slice(None, None, step) for step in dilations)
    windows = windows[(*both, *stepped)]
    places = np.indices((len(array), *windows.shape[2 : 2 + rank])).reshape(1 + rank, -1)
    places = places[:, :: max(1, places.shape[1] // positions)]
    taken = windows[(places[0], slice(None), *places[1:])]  # (positions, C, kernel...)
    return np.ascontiguousarray(taken.reshape(len(taken), convolution.groups, -1).transpose(1, 2, 0), np.float32)
