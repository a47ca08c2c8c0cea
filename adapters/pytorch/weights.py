"""Constant weights as integers: their scales, and what keeps two products within 16 bits."""

from __future__ import annotations

import numpy as np

from autotune.adapter import Array
from autotune.adapters.pytorch.ops import QuantizableOp
from autotune.algorithms.grids import WeightGrid, grid_of
from autotune.algorithms.saturation import weight_limits
from autotune.config import OpConfig, Recipe


def weight_grid(
    op: QuantizableOp, values: Array, choice: OpConfig, recipe: Recipe, *, trained: bool = False
) -> WeightGrid:
    """The grid of an int8 op's weight.

    Args:
        op: The op.
        values: Its weight.
        choice: The op's choice in the config.
        recipe: The candidate's recipe.
        trained: Whether weights were trained on a grid that follows their largest magnitude.
    """
    assert choice.weight is not None
    order = summed_columns(op, np.arange(values.size).reshape(values.shape)) if recipe.bound_pairs else None
    return grid_of(values, choice, weight_limits(order, choice.weight, recipe), trained=trained)


def channel_scales(grid: WeightGrid) -> Array:
    """A scale for each output channel, shape (outputs,): Inductor's kernels ask for one each."""
    return np.broadcast_to(grid.parameters.scale, (len(grid.values),)).astype(np.float32)


def summed_columns(op: QuantizableOp, values: Array) -> Array | None:
    """The weight in the order in which a kernel sums it up, shape (summed, outputs).

    None for a depthwise convolution, whose products are summed in 32 bits.
    """
    if not op.convolves:
        return np.asarray(values.T)
    if values.shape[1] == 1:
        return None
    # Kernels read pictures channels last: neighbours are channels of one position.
    return values.transpose(*range(2, values.ndim), 1, 0).reshape(-1, values.shape[0])
