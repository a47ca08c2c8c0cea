"""Changes that the recipe makes to weights and biases of int8 ops, by the algorithms that all adapters share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autotune.adapter import Array
from autotune.adapters.paddle.channels import Channels
from autotune.adapters.paddle.layers import PaddleGraph
from autotune.adapters.paddle.model import PaddleModel
from autotune.adapters.paddle.ops import QuantizableOp
from autotune.adapters.paddle.scales import Scales
from autotune.algorithms.corrections import QuantizedGraph, corrected_constants, quantized_layers
from autotune.algorithms.grids import WeightGrid
from autotune.batch import axes_of
from autotune.config import Recipe


def correct_constants(
    model: PaddleModel,
    channels: Channels,
    ops: Sequence[QuantizableOp],
    grids: Mapping[str, tuple[QuantizableOp, WeightGrid]],
    scales: Scales,
    recipe: Recipe,
) -> tuple[dict[str, Array], list[str]]:
    """Weights on their grids, and biases that differ from the model's, by name; and a line for what was left undone.

    Args:
        model: The fp32 model.
        channels: The same with channels as the recipe wants them.
        ops: Its ops that can be int8.
        grids: By op that becomes int8, with its grid.
        scales: Scales of the tensors that are quantized.
        recipe: The candidate's recipe.
    """
    graph = PaddleGraph(channels.reference, channels.constants, ops)
    quantized = QuantizedGraph(
        graph=graph,
        layers=quantized_layers(graph, {name: grid for name, (_, grid) in grids.items()}),
        tensors=scales.tensors(),
        ranges=channels.ranges,
    )
    found, notes = corrected_constants(quantized, recipe, channels.statistics, axes_of(model))
    return {op.weight: grid.nearest for op, grid in grids.values()} | found, notes
