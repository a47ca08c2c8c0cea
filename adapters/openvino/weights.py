"""Constant weights as integers: their scales, and what keeps two products within 16 bits."""

from __future__ import annotations

import numpy as np

from autotune.adapter import Array
from autotune.adapters.openvino.ops import QuantizableOp
from autotune.algorithms.grids import WeightGrid, grid_of
from autotune.algorithms.saturation import weight_limits
from autotune.config import OpConfig, Recipe


def weight_grid(op: QuantizableOp, choice: OpConfig, recipe: Recipe, *, trained: bool = False) -> WeightGrid:
    """The grid of an int8 op's weight.

    Args:
        op: The op.
        choice: How it is quantized.
        recipe: The candidate's recipe.
        trained: Whether weights were trained on a grid that follows their largest magnitude.
    """
    assert choice.weight is not None
    order = summed_columns(op, np.arange(op.rows.size).reshape(op.rows.shape)) if recipe.bound_pairs else None
    return grid_of(op.rows, choice, weight_limits(order, choice.weight, recipe), trained=trained)


def summed_columns(op: QuantizableOp, rows: Array) -> Array | None:
    """Rows of a weight in the order in which a kernel sums them up, shape (summed, outputs).

    None for a depthwise convolution, whose products are summed in 32 bits.
    """
    if op.depthwise:
        return None
    if op.convolves:
        # Kernels read pictures channels last: neighbours are channels of one position.
        return rows.transpose(*range(2, rows.ndim), 1, 0).reshape(-1, rows.shape[0])
    if rows.ndim > 2:  # a stack of matrices as it is read: (..., inputs, outputs) or transposed
        rows = np.swapaxes(rows, -1, -2) if op.transposed else rows
        return np.moveaxis(rows, -2, 0).reshape(rows.shape[-2], -1)
    return np.asarray(rows.T)
