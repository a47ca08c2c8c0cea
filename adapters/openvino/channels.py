"""Recipes that scale channels before anything is quantized: SmoothQuant and equalization.

Both leave what the model computes in fp32 as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import openvino as ov
from openvino import opset13 as opset

from autotune.adapter import Array
from autotune.adapters.openvino.biases import give_bias
from autotune.adapters.openvino.layers import OpenVinoGraph, replace_constants
from autotune.adapters.openvino.nodes import GraphNode, graph_nodes
from autotune.adapters.openvino.ops import quantizable_ops, tensor_name
from autotune.algorithms.equalization import equalize
from autotune.algorithms.graph import Connections
from autotune.algorithms.smoothquant import smooth, smoothing_sites
from autotune.calibration import CalibrationStatistics
from autotune.config import BiasCorrection, Precision, QuantizationConfig, SmoothQuant


@dataclass(frozen=True, kw_only=True, eq=False)
class Channels:
    """A model whose channels are as the recipe wants them.

    Attributes:
        graph: To be quantized.
        reference: Computes in fp32 what the original computes, with the nodes and tensors of ``graph``. The bound of a
            Clip whose channels were scaled is a Minimum here, with one value per channel. ``graph`` does without: no
            range reaches beyond the bounds.
        statistics: Statistics of both, as far as scaling tells.
        ranges: ``(low, high)`` of the tensors whose range the recipe has chosen.
        notes: Pairs that were left as they are and why, a line each.
    """

    graph: ov.Model
    reference: ov.Model
    statistics: CalibrationStatistics
    ranges: Mapping[str, tuple[float, float]]
    notes: tuple[str, ...]


def prepare_channels(graph: ov.Model, config: QuantizationConfig, statistics: CalibrationStatistics) -> Channels:
    """Equalize and smooth channels before scales are chosen.

    Args:
        graph: A copy of the fp32 model, which is changed.
        config: The candidate's config.
        statistics: Statistics of the fp32 model.
    """
    recipe = config.recipe
    ranges: dict[str, tuple[float, float]] = {}
    notes: tuple[str, ...] = ()
    if recipe.smooth_quant is not SmoothQuant.NONE:
        smoothed = smooth(OpenVinoGraph(graph), config, statistics)
        replace_constants(graph, smoothed.constants)
        statistics, notes = smoothed.statistics, smoothed.notes
        ranges.update(smoothed.ranges)
    if recipe.bias_correction is not BiasCorrection.NONE:
        statistics = _with_biases(graph, config, statistics)
    if not recipe.equalization:
        return Channels(graph=graph, reference=graph.clone(), statistics=statistics, ranges=ranges, notes=notes)
    found = equalize(OpenVinoGraph(graph), config, statistics, quantized=_quantized(graph, config))
    replace_constants(graph, found.constants)
    reference = graph.clone()
    _replace_bounds(reference, found.bounds)
    _replace_bounds(graph, dict.fromkeys(found.bounds))
    return Channels(
        graph=graph,
        reference=reference,
        statistics=found.statistics,
        ranges={**ranges, **found.ranges},
        notes=(*notes, *found.notes),
    )


def can_be_smoothed(graph: ov.Model) -> bool:
    """Whether SmoothQuant has something to act on."""
    layers = OpenVinoGraph(graph)
    return bool(smoothing_sites(Connections(layers.nodes, layers.outputs)))


def _with_biases(
    graph: ov.Model, config: QuantizationConfig, statistics: CalibrationStatistics
) -> CalibrationStatistics:
    """Give int8 ops a bias that can be corrected; what is observed of an op is then told of the sum with the bias."""
    tensors = dict(statistics.tensors)
    for op in quantizable_ops(graph)[0]:
        if op.weight is None or config[op.name].precision is not Precision.INT8:
            continue
        before = tensor_name(op.node.output(0))
        after = give_bias(op)
        if after is not None and before in tensors:
            tensors[tensor_name(after)] = tensors[before]
    return dataclasses.replace(statistics, tensors=tensors)


def _quantized(graph: ov.Model, config: QuantizationConfig) -> set[str]:
    """The tensors that are quantized: what int8 ops read."""
    chosen = [op for op in quantizable_ops(graph)[0] if config[op.name].precision is Precision.INT8]
    return {tensor_name(op.node.input_value(place)) for op in chosen for place in op.activations}


def _replace_bounds(graph: ov.Model, bounds: Mapping[str, Array | None]) -> None:
    """Put a Relu in place of Clips, by the tensors that they write, and a bound for each channel where one is given."""
    ops = [op for op in quantizable_ops(graph)[0] if op.has_channels]
    for clip in [each for each in graph_nodes(graph, ops) if each.node.writes[0] in bounds]:
        _replace_bound(clip, bounds[clip.node.writes[0]])
    graph.validate_nodes_and_infer_types()


def _replace_bound(clip: GraphNode, caps: Array | None) -> None:
    name, last = clip.node.writes[0], clip.last
    readers = last.output(0).get_target_inputs()
    made: ov.Node = opset.relu(clip.inputs[0].get_source_output())
    if caps is not None:
        made.set_friendly_name(f"{name}/unbounded")
        rank = last.get_output_partial_shape(0).rank.get_length()
        shape = (1, -1, *[1] * (rank - 2))
        made = opset.minimum(made, opset.constant(np.asarray(caps, np.float32).reshape(shape)))
    last.set_friendly_name(f"{name}/replaced")
    made.set_friendly_name(name)
    for reader in readers:
        reader.replace_source_output(made.output(0))
