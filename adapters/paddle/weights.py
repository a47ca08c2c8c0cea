"""Constant weights as integers.

Paddle stores integers with a threshold per output channel, turns them into real values when it makes a predictor, and
chooses the scale anew: the largest magnitude of each channel becomes 127. The integers come out as they were where
each channel holds one of 127, which is seen to here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from autotune.adapter import Array
from autotune.adapters.paddle.ops import QuantizableOp
from autotune.algorithms import WeightLimits
from autotune.algorithms.grids import WeightGrid, grid_of
from autotune.algorithms.saturation import MOST, neighbour_sums
from autotune.config import OpConfig, Recipe

LARGEST = 127

REDUCED = 127
"""Largest u8 activation with a bit to spare: ``2 * 127 * 127 = 32258`` fits the 16 bits in which CPUs without VNNI add
two products."""

_MOVED = 4


@dataclass(frozen=True, kw_only=True)
class PaddleGrid(WeightGrid):
    """The values that a weight may take, shape (outputs, inputs / groups, height, width), with a scale per channel."""

    def integers(self, rounded: Array) -> Array:
        """The integers of a weight on the grid, one of each channel's largest with a magnitude of 127: int8."""
        found = super().integers(rounded)
        flat = found.reshape(len(found), -1)
        channels = np.arange(len(flat))
        places = np.abs(flat.astype(np.int16)).argmax(axis=1)
        largest = flat[channels, places]
        flat[channels, places] = np.where(largest == 0, 0, np.where(largest < 0, -LARGEST, LARGEST))
        return flat.reshape(found.shape)


def weight_grid(weight: Array, choice: OpConfig, *, trained: bool = False) -> PaddleGrid:
    """The grid of an int8 op's weight.

    Args:
        weight: The weight.
        choice: How it is quantized.
        trained: Whether weights were trained on a grid that follows their largest magnitude.
    """
    grid = grid_of(weight, choice, WeightLimits(), trained=trained)
    return PaddleGrid(values=weight, scheme=grid.scheme, limits=grid.limits, parameters=grid.parameters)


def largest_activations(grids: Mapping[str, tuple[QuantizableOp, WeightGrid]], recipe: Recipe) -> dict[str, int]:
    """By tensor that int8 ops read: the largest u8 with which no sum of two products leaves 16 bits.

    Paddle lets the largest weight of each channel be 127, so that it is activations that make room. ``reduce_range``
    halves them all, which serves any weights; ``bound_pairs`` takes as little as the weights ask for that there are.

    Args:
        grids: By op that becomes int8, with the grid of its weight.
        recipe: The candidate's recipe.
    """
    found: dict[str, int] = {}
    for op, grid in grids.values():
        if op.depthwise or not (recipe.reduce_range or recipe.bound_pairs):
            continue
        most = REDUCED
        if not recipe.reduce_range:
            # GPTQ moves integers by a step or two; a pair of 127 at the most asks for 7 bits.
            pair = min(2 * LARGEST, largest_pair(grid.integers(grid.nearest)) + _MOVED)
            most = min(255, MOST // pair)
        found[op.source] = min(found.get(op.source, 255), most)
    return found


def largest_pair(integers: Array) -> int:
    """The largest magnitude of the sum of two neighbouring weights of one sign."""
    highest, lowest = neighbour_sums(summed_columns(integers).astype(np.int64))
    return int(max(highest.max(initial=0), -lowest.min(initial=0)))


def summed_columns(integers: Array) -> Array:
    """Integers of a weight in the order in which a kernel sums them up, shape (summed, outputs)."""
    # Kernels read pictures channels last: neighbours are channels of one position.
    return integers.transpose(2, 3, 1, 0).reshape(-1, len(integers))
