"""Applies a recipe to a graph with the algorithms that all adapters share: channels before scales, weights after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from autotune.adapter import Array
from autotune.adapters.pytorch.fold import give_bias
from autotune.adapters.pytorch.graph import ATEN, constant_of, copied, set_constant, tensor
from autotune.adapters.pytorch.layers import PytorchGraph
from autotune.adapters.pytorch.model import PytorchModel
from autotune.adapters.pytorch.ops import QuantizableOp, nodes_by_name
from autotune.algorithms import AffineParameters
from autotune.algorithms.corrections import QuantizedGraph, corrected_constants, quantized_layers
from autotune.algorithms.equalization import equalize
from autotune.algorithms.graph import Layer
from autotune.algorithms.grids import WeightGrid
from autotune.algorithms.smoothquant import smooth
from autotune.batch import axes_of
from autotune.calibration import CalibrationStatistics
from autotune.config import BiasCorrection, Precision, QuantizationConfig, QuantizedType, SmoothQuant

_INTEGERS = (Precision.INT8, Precision.INT8_DYNAMIC)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A graph whose channels are as the recipe wants them.

    Attributes:
        graph: To be quantized; a copy that may be changed.
        bounds: By the tensor that an activation writes: the upper end of each channel, which a range takes the place of
            where it is quantized.
        statistics: Statistics of the graph.
        ranges: ``(low, high)`` of tensors whose range the recipe has chosen.
        notes: Layers that were left as they are and why, a line each.
    """

    graph: fx.GraphModule
    bounds: Mapping[str, Array]
    statistics: CalibrationStatistics
    ranges: Mapping[str, tuple[float, float]]
    notes: tuple[str, ...]


def prepare_channels(model: PytorchModel, config: QuantizationConfig, statistics: CalibrationStatistics) -> Prepared:
    """Equalize and smooth channels before scales are chosen; ``model`` stays as it is."""
    assert model.graph is not None
    graph, recipe = copied(model.graph), config.recipe
    ranges: dict[str, tuple[float, float]] = {}
    bounds: Mapping[str, Array] = {}
    notes: tuple[str, ...] = ()
    if recipe.smooth_quant is not SmoothQuant.NONE:
        smoothed = smooth(PytorchGraph(graph, model.ops), config, statistics)
        set_constants(graph, smoothed.constants)
        statistics, ranges, notes = smoothed.statistics, dict(smoothed.ranges), smoothed.notes
    if recipe.bias_correction is not BiasCorrection.NONE:
        _give_biases(graph, model.ops, config)
    if recipe.equalization:
        equalized = equalize(PytorchGraph(graph, model.ops), config, statistics)
        set_constants(graph, equalized.constants)
        statistics, bounds = equalized.statistics, equalized.bounds
        ranges.update(equalized.ranges)
        notes += equalized.notes
    return Prepared(graph=graph, bounds=bounds, statistics=statistics, ranges=ranges, notes=notes)


def correct_constants(
    model: PytorchModel,
    prepared: Prepared,
    config: QuantizationConfig,
    grids: Mapping[str, WeightGrid],
    tensors: Mapping[str, tuple[AffineParameters, QuantizedType]],
) -> tuple[dict[str, Array], list[str]]:
    """Weights on their grids, and biases that differ from the graph's, by name; and what was left undone, a line each.

    Args:
        model: The fp32 model.
        prepared: Its graph, with the channels of the candidate.
        config: The candidate's config.
        grids: By op that becomes static int8 and has a weight.
        tensors: Scale, zero point and type of each tensor that is quantized.
    """
    graph = PytorchGraph(_bounded(prepared.graph, prepared.bounds), model.ops)
    known = {node.name: node for node in graph.nodes if isinstance(node, Layer)}
    quantized = QuantizedGraph(
        graph=graph,
        layers=quantized_layers(graph, grids),
        tensors=tensors,
        ranges=prepared.ranges,
    )
    found, notes = corrected_constants(quantized, config.recipe, prepared.statistics, axes_of(model))
    return {known[name].weight: grid.nearest for name, grid in grids.items()} | found, notes


def set_constants(graph: fx.GraphModule, values: Mapping[str, Array]) -> None:
    """Give constants of a graph other values, each of the shape and element type that it has."""
    for name, value in values.items():
        set_constant(graph, name, tensor(value).to(torch.float32))


def _give_biases(graph: fx.GraphModule, ops: Sequence[QuantizableOp], config: QuantizationConfig) -> None:
    """Zeros to add for ops that become int8 and add nothing yet, so that there is something to correct."""
    nodes = nodes_by_name(graph)
    for op in ops:
        node = nodes[op.node]
        if op.weight is None or config[op.name].precision not in _INTEGERS:
            continue
        if len(node.args) < 3 or node.args[2] is None:
            weight = constant_of(graph, node.args[1])
            assert weight is not None
            give_bias(graph, node, torch.zeros(len(weight)))
    graph.recompile()


def _bounded(graph: fx.GraphModule, bounds: Mapping[str, Array]) -> fx.GraphModule:
    """The graph with an upper end for each channel behind activations; it is the one that writes the tensor's name."""
    if not bounds:
        return graph
    made = copied(graph)
    nodes = nodes_by_name(made)
    for name, caps in bounds.items():
        clip = nodes[name]
        value = clip.meta["val"]
        set_constant(made, f"{name}_bound", tensor(caps).view(-1, *[1] * (value.ndim - 2)))
        source = clip.args[0]
        with made.graph.inserting_before(clip):
            ends = made.graph.get_attr(f"{name}_bound")
            cut = made.graph.call_function(ATEN.clamp_min.default, (source, 0.0))
        cut.meta["val"] = value
        clip.target, clip.args, clip.kwargs = ATEN.minimum.default, (cut, ends), {}
    made.recompile()
    return made
