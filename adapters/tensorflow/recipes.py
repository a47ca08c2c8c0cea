"""Changes that the recipe makes to channels, weights and biases, by the algorithms that all adapters share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from autotune.adapter import Array
from autotune.adapters.tensorflow.graph import Graph
from autotune.adapters.tensorflow.layers import TensorFlowGraph, channels_first
from autotune.adapters.tensorflow.model import TensorFlowModel
from autotune.adapters.tensorflow.ops import QuantizableOp, followed
from autotune.adapters.tensorflow.unfuse import tensor_key
from autotune.algorithms import AffineParameters
from autotune.algorithms.corrections import QuantizedGraph, corrected_constants, quantized_layers
from autotune.algorithms.equalization import equalize
from autotune.algorithms.grids import WeightGrid
from autotune.batch import BatchAxes, axes_of
from autotune.calibration import CalibrationStatistics
from autotune.config import Precision, QuantizationConfig, QuantizedType, Recipe


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A model whose channels are as the recipe wants them.

    Attributes:
        content: Bytes of the model to quantize. A Relu6 whose channels were scaled is a Relu in it, for no range
            reaches beyond the bounds.
        bounds: By key of the tensor that such an activation writes: the upper end of each channel.
        statistics: Statistics of the model.
        ranges: ``(low, high)`` of the tensors whose range the recipe has chosen, by key.
        notes: Pairs that were left as they are and why, a line each.
    """

    content: bytes
    bounds: Mapping[str, Array]
    statistics: CalibrationStatistics
    ranges: Mapping[str, tuple[float, float]]
    notes: tuple[str, ...]


def prepare_channels(model: TensorFlowModel, config: QuantizationConfig, statistics: CalibrationStatistics) -> Prepared:
    """Equalize channels before scales are chosen; ``model`` stays as it is."""
    if not config.recipe.equalization:
        return Prepared(content=model.content, bounds={}, statistics=statistics, ranges={}, notes=())
    found = equalize(TensorFlowGraph(model.content), config, statistics, quantized=_quantized(model, config))
    graph = Graph(model.content)
    _set_constants(graph, model, found.constants)
    for operator in graph.operators:
        if any(tensor_key(int(place)) in found.bounds for place in operator.outputs):
            operator.builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.RELU
    return Prepared(
        content=graph.to_bytes() if found.constants else model.content,
        bounds=found.bounds,
        statistics=found.statistics,
        ranges=found.ranges,
        notes=tuple(found.notes),
    )


def _quantized(model: TensorFlowModel, config: QuantizationConfig) -> set[str]:
    """The tensors that become integers, without those that an activation writes which stays an op of its own."""
    graph = model.graph
    chosen = [op for op in model.ops if config[op.name].precision is Precision.INT8]
    places = {place for op in (*chosen, *followed(graph, chosen)) for place in (*op.activations, *op.outputs)}
    alone = {int(place) for each in graph.operators if graph.kind(each).startswith("RELU") for place in each.outputs}
    return {tensor_key(place) for place in places - alone}


def _set_constants(graph: Graph, model: TensorFlowModel, constants: Mapping[str, Array]) -> None:
    for op in model.ops:
        if op.weight is not None and tensor_key(op.weight) in constants:
            graph.set_constant(op.weight, op.as_stored(np.asarray(constants[tensor_key(op.weight)], np.float32)))
        if op.bias is not None and tensor_key(op.bias) in constants:
            graph.set_constant(op.bias, np.asarray(constants[tensor_key(op.bias)], np.float32))


def correct_constants(
    model: TensorFlowModel,
    prepared: Prepared,
    grids: Mapping[str, tuple[QuantizableOp, WeightGrid]],
    tensors: Mapping[str, tuple[AffineParameters, QuantizedType]],
    recipe: Recipe,
) -> tuple[dict[str, tuple[Array, Array | None]], list[str]]:
    """By op: its weight on its grid, and its bias or None; and a line for what was left undone.

    Args:
        model: The fp32 model.
        prepared: The same with channels as the recipe wants them.
        grids: By op that becomes int8, with its grid.
        tensors: Scale, zero point and type of each tensor that becomes integers, by key.
        recipe: The candidate's recipe.
    """
    graph = TensorFlowGraph(prepared.content, prepared.bounds)
    quantized = QuantizedGraph(
        graph=graph,
        layers=quantized_layers(graph, {name: grid for name, (_, grid) in grids.items()}),
        tensors=tensors,
        ranges=prepared.ranges,
    )
    statistics, axes = _by_tensor(model, prepared.statistics)
    found, notes = corrected_constants(quantized, recipe, statistics, axes)
    stored = Graph(prepared.content)
    result: dict[str, tuple[Array, Array | None]] = {}
    for name, (op, grid) in grids.items():
        assert op.weight is not None
        bias = None if op.bias is None else found.get(tensor_key(op.bias), stored.constant(op.bias))
        result[name] = np.asarray(found.get(tensor_key(op.weight), grid.nearest)), bias
    return result, notes


def _by_tensor(model: TensorFlowModel, statistics: CalibrationStatistics) -> tuple[CalibrationStatistics, BatchAxes]:
    """The same with samples and their axes by the keys of the tensors that carry the inputs, channels first."""
    keys = {spec.name: tensor_key(place) for place, spec in zip(model.graph.inputs, model.inputs, strict=True)}
    axes = axes_of(model)
    examples = tuple(
        {keys[name]: channels_first(np.asarray(array)) for name, array in feeds.items()}
        for feeds in statistics.examples
    )
    renamed = dataclasses.replace(axes, inputs={keys[name]: axis for name, axis in axes.inputs.items()})
    return dataclasses.replace(statistics, examples=examples), renamed
