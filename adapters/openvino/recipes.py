"""Changes that the recipe makes to weights and biases of int8 ops, by the algorithms that all adapters share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from autotune.adapter import Array
from autotune.adapters.openvino.biases import weight_name
from autotune.adapters.openvino.channels import Channels
from autotune.adapters.openvino.layers import OpenVinoGraph
from autotune.adapters.openvino.model import OpenVinoModel
from autotune.adapters.openvino.ops import QuantizableOp, tensor_name
from autotune.algorithms import AffineParameters
from autotune.algorithms.corrections import QuantizedGraph, corrected_constants, quantized_layers
from autotune.algorithms.grids import WeightGrid
from autotune.batch import BatchAxes, axes_of
from autotune.calibration import CalibrationStatistics
from autotune.config import QuantizedType, Recipe


def correct_constants(
    model: OpenVinoModel,
    channels: Channels,
    grids: Mapping[str, tuple[QuantizableOp, WeightGrid]],
    tensors: Mapping[str, tuple[AffineParameters, QuantizedType]],
    recipe: Recipe,
) -> tuple[dict[str, Array], list[str]]:
    """Weights on their grids, and biases that differ from the model's, by name; and a line for what was left undone.

    Args:
        model: The fp32 model.
        channels: The same with channels and biases as the recipe wants them; its reference is taken apart.
        grids: By op that becomes int8, with its grid.
        tensors: Scale, zero point and type of each tensor that is quantized.
        recipe: The candidate's recipe.
    """
    layers = OpenVinoGraph(channels.reference)
    quantized = QuantizedGraph(
        graph=layers,
        layers=quantized_layers(layers, {name: grid for name, (_, grid) in grids.items()}),
        tensors=tensors,
        ranges=channels.ranges,
    )
    statistics, axes = _by_tensor(model, channels.statistics)
    found, notes = corrected_constants(quantized, recipe, statistics, axes)
    return {weight_name(op): grid.nearest for op, grid in grids.values()} | found, notes


def _by_tensor(model: OpenVinoModel, statistics: CalibrationStatistics) -> tuple[CalibrationStatistics, BatchAxes]:
    """The same with samples and their axes by the names of the tensors that carry the inputs."""
    names = {
        spec.name: tensor_name(port.get_node().output(0))
        for spec, port in zip(model.inputs, model.graph.inputs, strict=True)
    }
    axes = axes_of(model)
    examples = tuple({names[name]: array for name, array in feeds.items()} for feeds in statistics.examples)
    renamed = dataclasses.replace(axes, inputs={names[name]: axis for name, axis in axes.inputs.items()})
    return dataclasses.replace(statistics, examples=examples), renamed
