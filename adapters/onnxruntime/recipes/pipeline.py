"""The order in which recipes act: channels before scales are chosen, weights and biases after."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnx.rewriting import add_constant
from autotune.adapters.onnxruntime.choices.limits import op_limits
from autotune.adapters.onnxruntime.choices.ops import QuantizableOp, quantizable_ops
from autotune.adapters.onnxruntime.recipes.equalization import equalize
from autotune.adapters.onnxruntime.recipes.graph import OnnxGraph, layer_of, with_constants
from autotune.adapters.onnxruntime.static.placement import Placement
from autotune.algorithms import AffineParameters
from autotune.algorithms.corrections import QuantizedGraph, QuantizedLayer, corrected_constants
from autotune.algorithms.layerwise import Correction
from autotune.algorithms.smoothquant import smooth
from autotune.batch import axes_of
from autotune.calibration import CalibrationStatistics
from autotune.config import BiasCorrection, Precision, QuantizationConfig, SmoothQuant

_CORRECTED = frozenset({"Conv", "Gemm"})
"""Ops with a bias of their own."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A model whose channels are as the recipe wants them.

    Attributes:
        model: The model to quantize.
        reference: Computes in fp32 what the original computes, with the nodes and tensors of ``model``.
        statistics: Statistics of both models.
        ranges: ``(low, high)`` of tensors whose range the recipe has chosen.
    """

    model: OnnxModel
    reference: OnnxModel
    statistics: CalibrationStatistics
    ranges: Mapping[str, tuple[float, float]]


def prepare_channels(model: OnnxModel, config: QuantizationConfig, statistics: CalibrationStatistics) -> Prepared:
    """Equalize and smooth a model before placement; ``model`` stays as it is."""
    recipe = config.recipe
    ranges: Mapping[str, tuple[float, float]] = {}
    if recipe.smooth_quant is not SmoothQuant.NONE:
        smoothed = smooth(OnnxGraph(model, quantizable_ops(Graph(model.proto))[0]), config, statistics)
        model = _noted(with_constants(model, smoothed.constants), smoothed.notes)
        statistics, ranges = smoothed.statistics, smoothed.ranges
    if recipe.bias_correction is not BiasCorrection.NONE:
        model = _with_biases(model, config)
    if not recipe.equalization:
        return Prepared(model=model, reference=model, statistics=statistics, ranges=ranges)
    equalized = equalize(model, config, statistics)
    return Prepared(
        model=equalized.without_bounds(),
        reference=equalized.model,
        statistics=equalized.statistics,
        ranges={**ranges, **equalized.ranges},
    )


def correct_constants(
    prepared: Prepared,
    placement: Placement,
    config: QuantizationConfig,
    activations: Mapping[str, AffineParameters],
    weights: Mapping[str, AffineParameters],
    blocks: Mapping[str, Correction],
) -> OnnxModel:
    """The model to be quantized, with weights rounded and biases corrected as the recipe says.

    Args:
        prepared: The model.
        placement: The ops and tensors that are quantized.
        config: The config that says how.
        activations: Scales by tensor.
        weights: Scales of the ops' weights by op.
        blocks: Rounds the weights of ops that are stored in blocks, by op.
    """
    graph = Graph(prepared.reference.proto)
    quantized = QuantizedGraph(
        graph=OnnxGraph(prepared.reference, placement.ops),
        layers=[_quantized_layer(op, graph, config, weights[op.name]) for op in placement.ops if op.weight is not None],
        tensors={name: (parameters, placement.groups[name].dtype) for name, parameters in activations.items()},
        ranges=prepared.ranges,
        blocks=blocks,
    )
    constants, notes = corrected_constants(quantized, config.recipe, prepared.statistics, axes_of(prepared.reference))
    return _noted(with_constants(prepared.model, constants) if constants else prepared.model, notes)


def _quantized_layer(
    op: QuantizableOp, graph: Graph, config: QuantizationConfig, parameters: AffineParameters
) -> QuantizedLayer:
    scheme = config[op.name].weight
    assert scheme is not None
    shape = tuple(graph.initializers[str(op.weight)].dims)
    limits = functools.partial(op_limits, op.node, shape, scheme, config.recipe)
    return QuantizedLayer(layer=layer_of(op, graph), scheme=scheme, parameters=parameters, limits=limits)


def _with_biases(model: OnnxModel, config: QuantizationConfig) -> OnnxModel:
    """The same with a bias of zeros for int8 convolutions that have none."""
    graph = Graph(model.proto)
    missing = [
        op
        for op in quantizable_ops(graph)[0]
        if config[op.name].precision is Precision.INT8 and op.node.op_type in _CORRECTED and op.bias is None
    ]
    if not missing:
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    nodes = {node.name: node for node in proto.graph.node}
    for op in missing:
        if len(op.node.input) > 2 and op.node.input[2]:
            continue
        assert op.weight is not None
        size = graph.initializers[op.weight].dims[op.weight_axis or 0]
        name = f"{op.name}/bias"
        add_constant(proto, name, np.zeros(size, np.float32))
        inputs = [*list(nodes[op.name].input)[:2], name]
        del nodes[op.name].input[:]
        nodes[op.name].input.extend(inputs)
    return dataclasses.replace(model, proto=proto)


def _noted(model: OnnxModel, notes: Sequence[str]) -> OnnxModel:
    return dataclasses.replace(model, notes=(*model.notes, *notes)) if notes else model
