"""Constant weights as integers: their scales, and the values that they may take."""

from __future__ import annotations

from autotune.adapters.tensorflow.graph import Graph
from autotune.adapters.tensorflow.ops import QuantizableOp
from autotune.algorithms import WeightLimits
from autotune.algorithms.grids import WeightGrid, grid_of
from autotune.config import OpConfig, Recipe


def weight_grid(
    graph: Graph, op: QuantizableOp, choice: OpConfig, recipe: Recipe, *, trained: bool = False
) -> WeightGrid:
    """The grid of a static int8 op's weight. XNNPACK's kernels add products in 32 bits, so that none can saturate.

    Args:
        graph: The graph that holds the weight.
        op: The op.
        choice: How it is quantized.
        recipe: The candidate's recipe.
        trained: Whether weights were trained on a grid that follows their largest magnitude.
    """
    assert op.weight is not None
    weight = graph.constant(op.weight)
    assert weight is not None
    return grid_of(op.rows(weight), choice, WeightLimits(reduce_range=recipe.reduce_range), trained=trained)
