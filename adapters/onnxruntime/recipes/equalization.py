"""Equalization of an ONNX model: what :mod:`autotune.algorithms.equalization` found is written into its graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import helper

from autotune.adapter import Array
from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnx.rewriting import add_constant, set_nodes
from autotune.adapters.onnxruntime.choices.ops import quantizable_ops
from autotune.adapters.onnxruntime.recipes.graph import OnnxGraph, with_constants
from autotune.algorithms import equalization
from autotune.calibration import CalibrationStatistics
from autotune.config import QuantizationConfig

_UNBOUNDED = "/unbounded"


@dataclass(frozen=True, kw_only=True)
class Equalized:
    """A model with equalized channels.

    Attributes:
        model: Computes what the original does. The bound of a Clip is a ``Min`` of its own, one value per channel.
        statistics: Statistics of the equalized model, as far as scaling tells: extremes and channel moments.
        ranges: ``(low, high)`` in which to quantize the tensors whose channels were scaled.
        notes: Pairs that were left as they are and why, a line each.
    """

    model: OnnxModel
    statistics: CalibrationStatistics
    ranges: Mapping[str, tuple[float, float]]
    notes: tuple[str, ...]

    def without_bounds(self) -> OnnxModel:
        """The model as it is quantized: without those bounds, since a range never reaches beyond them."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.model.proto)
        kept: list[onnx.NodeProto] = []
        for node in proto.graph.node:
            if node.op_type == "Min" and node.input[0].endswith(_UNBOUNDED) and node.output[0] in self.ranges:
                kept[-1].output[0] = node.output[0]
            else:
                kept.append(node)
        set_nodes(proto, kept)
        return dataclasses.replace(self.model, proto=proto)


def equalize(model: OnnxModel, config: QuantizationConfig, statistics: CalibrationStatistics) -> Equalized:
    """Scale the channels between all convolutions that can be served; the outputs stay what they are.

    Args:
        model: The fp32 model; left as it is.
        config: Says which ops become int8, and whether their weights have a scale per tensor or per channel.
        statistics: Statistics with channel moments of the tensors between convolutions.
    """
    graph = Graph(model.proto)
    found = equalization.equalize(OnnxGraph(model, quantizable_ops(graph)[0]), config, statistics)
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for tensor, caps in found.bounds.items():
        _bound(proto, graph, tensor, caps)
    bounded = dataclasses.replace(model, proto=proto, notes=(*model.notes, *found.notes))
    return Equalized(
        model=with_constants(bounded, found.constants),
        statistics=found.statistics,
        ranges=found.ranges,
        notes=found.notes,
    )


def _bound(proto: onnx.ModelProto, graph: Graph, tensor: str, caps: Array) -> None:
    """Put a Relu and a Min with a bound for each channel in place of the Clip that writes a tensor."""
    clip = graph.producers[tensor]
    convolution = graph.producers[clip.input[0]]
    spatial = len(graph.initializers[convolution.input[1]].dims) - 2
    unbounded, name = f"{tensor}{_UNBOUNDED}", f"{tensor}/bound"
    nodes = list(proto.graph.node)
    index = next(i for i, node in enumerate(nodes) if node.name == clip.name)
    relu = helper.make_node("Relu", [clip.input[0]], [unbounded], clip.name)
    add_constant(proto, name, caps.reshape(-1, *[1] * spatial))
    nodes[index : index + 1] = [relu, helper.make_node("Min", [unbounded, name], [tensor], name)]
    set_nodes(proto, nodes)
