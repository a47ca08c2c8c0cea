"""Weights that cannot saturate: two neighbours of one sign sum to no more than 16 bits hold.

x86 CPUs without VNNI multiply u8 activations by s8 weights with ``VPMADDUBSW``, which adds two neighbouring products
in 16 bits. Weights of 7 bits are safe (``reduce_range``: 2 x 255 x 64 = 32,640) and give a bit away that most of them
never needed: what decides is the largest sum of two neighbours, and the largest weight is seldom next to another large
one of its sign. On bell-shaped weights the smallest scale that keeps a channel's own neighbours within the bound is
about ``max / 95`` instead of ``max / 64``: 3.2 dB less noise in the weights of MobileNetV2 and 3.4 dB in those of
ResNet-20 (``docs/recipes.md``).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.algorithms.affine import (
    AffineParameters,
    dequantize,
    integer_range,
    quantize,
    weight_parameters,
)
from autotune.config import CalibrationMethod, QuantizedType, Recipe, TensorScheme

_Integers = npt.NDArray[np.intp]

LARGEST_ACTIVATION = 255
"""Integer that a kernel may multiply a weight with. Data seen in calibration gives no smaller one: QuantizeLinear lets
255 through whatever the scale, and s8 activations are shifted by 128 before they are multiplied."""

MOST, LEAST = 32767, -32768
"""Range of a sum of two products: 16 bits with a sign."""

LARGEST_PAIR = MOST // LARGEST_ACTIVATION
"""Largest sum of the magnitudes of two neighbouring weights of one sign: 128, since 255 x 129 is 32,895."""


def neighbour_sums(columns: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """By output: the largest sum of the positive parts of two neighbours, and the least of their negative parts.

    Args:
        columns: Weights in the order in which they are summed up, shape (summed, outputs).
    """
    # Which of two neighbours begins a pair depends on how a kernel packs them: both are looked at.
    first, second = columns[:-1], columns[1:]
    highest = (np.maximum(first, 0) + np.maximum(second, 0)).max(axis=0, initial=0)
    lowest = (np.minimum(first, 0) + np.minimum(second, 0)).min(axis=0, initial=0)
    return highest, lowest


def can_saturate(columns: npt.NDArray[np.integer[Any]]) -> bool:
    """Whether two products of integer weights with u8 activations can leave 16 bits.

    Args:
        columns: Integers in the order in which they are summed up, shape (summed, outputs).
    """
    highest, lowest = neighbour_sums(columns.astype(np.int64))
    return bool((highest * LARGEST_ACTIVATION > MOST).any() or (lowest * LARGEST_ACTIVATION < LEAST).any())


@dataclass(frozen=True, kw_only=True)
class WeightLimits:
    """Which integers a weight may become.

    Attributes:
        reduce_range: Limits of 7 bits, see :func:`~autotune.algorithms.affine.integer_range`.
        order: Positions in the flat weight in the order in which a kernel sums them up, shape (summed, outputs), where
            no two neighbours of one sign may sum to more than :data:`LARGEST_PAIR`; None where there is no such bound.
            For symmetric s8 alone: the integers' signs are those of the weights.
    """

    reduce_range: bool = False
    order: _Integers | None = None

    def integers(self, scheme: TensorScheme) -> tuple[int, int]:
        """The smallest and the largest integer."""
        return integer_range(scheme, reduce_range=self.reduce_range)

    def parameters(
        self, weight: npt.NDArray[Any], scheme: TensorScheme, axis: int, method: CalibrationMethod
    ) -> AffineParameters:
        """Scales and zero points, see :func:`~autotune.algorithms.affine.weight_parameters`.

        With an order, each output's scale is the smallest that keeps its own neighbours within the bound; one scale for
        all is that of the output that needs the largest.
        """
        parameters = weight_parameters(weight, scheme, axis, method, self.reduce_range)
        if self.order is None:
            return parameters
        shape = [1] * weight.ndim
        if parameters.scale.ndim:
            shape[axis] = -1
        end = self.integers(scheme)[1] * parameters.scale.astype(np.float64).reshape(shape)
        kept = np.clip(weight, -end, end)  # `mse` cuts the ends of some channels
        highest, lowest = neighbour_sums(kept.reshape(-1)[self.order])
        needed = np.maximum(highest, -lowest) / LARGEST_PAIR
        scale = np.maximum(parameters.scale, needed if parameters.scale.ndim else needed.max(initial=0.0))
        # Rounded up, so that a bound that is met exactly stays met.
        narrow = scale.astype(np.float32)
        narrow = np.where(narrow < scale, np.nextafter(narrow, np.float32(np.inf)), narrow)
        return AffineParameters(np.asarray(narrow, np.float32), parameters.zero_point)

    def quantize(
        self, weight: npt.NDArray[Any], parameters: AffineParameters, scheme: TensorScheme, axis: int | None
    ) -> npt.NDArray[Any]:
        """Integers within the limits, whatever the scales: the nearest ones, and less where neighbours sum to more."""
        integers = quantize(weight, parameters, scheme, axis, reduce_range=self.reduce_range)
        if self.order is None or not can_saturate(integers.reshape(-1)[self.order]):
            return integers
        flat = integers.reshape(-1).astype(np.int64)
        flat[self.order] = _within_pairs(flat[self.order])
        return flat.reshape(integers.shape).astype(integers.dtype)

    def fake_quantize(
        self, weight: npt.NDArray[Any], parameters: AffineParameters, scheme: TensorScheme, axis: int | None
    ) -> npt.NDArray[np.float32]:
        """A weight, quantized and dequantized."""
        return dequantize(self.quantize(weight, parameters, scheme, axis), parameters, scheme, axis)

    def neighbours(self, shape: tuple[int, ...], axis: int) -> _Integers | None:
        """By input of an output, in the order of a row: the inputs before and after it in the kernel's order.

        Args:
            shape: Shape of the weight.
            axis: Axis of the output channels; a row is the rest of the weight, flat.

        Returns:
            Shape (2, inputs), -1 where there is none; None without an order.
        """
        if self.order is None:
            return None
        positions = np.moveaxis(np.arange(self.order.size).reshape(shape), axis, 0).reshape(shape[axis], -1)
        inputs = np.searchsorted(positions[0], self.order[:, 0])
        found = np.full((2, len(inputs)), -1)
        found[0, inputs[1:]] = inputs[:-1]
        found[1, inputs[:-1]] = inputs[1:]
        return found


def weight_limits(order: _Integers | None, scheme: TensorScheme, recipe: Recipe) -> WeightLimits:
    """The limits of a weight whose order is known.

    Args:
        order: Positions in the flat weight, shape (summed, outputs); None for a kernel that cannot saturate.
        scheme: How the weight is quantized.
        recipe: The candidate's recipe.
    """
    # u8 by u8 is widened to 16 bits before it is multiplied.
    at_risk = order is not None and len(order) > 1 and scheme.dtype is QuantizedType.S8
    if recipe.reduce_range or not recipe.bound_pairs or not at_risk:
        return WeightLimits(reduce_range=recipe.reduce_range)
    # A zero point moves all weights to one side, where two neighbours always sum to much.
    return WeightLimits(order=order) if scheme.symmetric else WeightLimits(reduce_range=True)


def _within_pairs(columns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Rows whose neighbours stay in the sum: the larger one is reduced, or both where both exceed half of it.

    One pass is enough: an integer that comes nearer to zero cannot break the pair before it.
    """
    columns = columns.copy()
    half = LARGEST_PAIR // 2
    for sign in (1, -1):
        for first, second in itertools.pairwise(columns):  # rows are views: both change in place
            left, right = np.maximum(sign * first, 0), np.maximum(sign * second, 0)
            too_much = left + right > LARGEST_PAIR
            smaller = np.minimum(np.minimum(left, right), half)
            larger = LARGEST_PAIR - smaller
            first[:] = np.where(too_much, sign * np.where(left >= right, larger, smaller), first)
            second[:] = np.where(too_much, sign * np.where(left >= right, smaller, larger), second)
    return columns
