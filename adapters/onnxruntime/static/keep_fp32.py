"""Keep ONNX Runtime from quantizing what a config leaves in fp32.

ONNX Runtime quantizes the fp32 weight of a Conv, ConvTranspose or Gemm by itself where the op reads a DequantizeLinear
and writes, past a Relu or Clip, a QuantizeLinear (``core/optimizer/qdq_transformer/weight_bias_quantization.cc``). An
op that a config keeps in fp32 between two int8 ops would run in int8 all the same, with one scale for its whole weight.
It does so only where the DequantizeLinear has a single scale.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import numpy_helper

from autotune.adapters.onnx.graph import Graph, attributes
from autotune.adapters.onnx.rewriting import add_constant, set_nodes
from autotune.adapters.onnxruntime.choices.ops import CLIPS

_AT_RISK = frozenset({"Conv", "ConvTranspose", "Gemm"})

_PER_AXIS_OPSET = 13


def keep_fp32(proto: onnx.ModelProto, given: Collection[str] = frozenset()) -> None:
    """Give every fp32 op at risk a DequantizeLinear of its own that repeats its scale for each channel.

    The values are the same. A single channel cannot be protected so, nor can a model before opset 13.

    Args:
        proto: A quantized model, its nodes in topological order; changed in place.
        given: Names of the DequantizeLinear nodes of the user's own: what ONNX Runtime makes of them stays.
    """
    graph = Graph(proto)
    if graph.opset < _PER_AXIS_OPSET:
        return
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        source = graph.producers.get(node.input[0]) if node.op_type in _AT_RISK else None
        ours = source is not None and source.op_type == "DequantizeLinear" and source.name not in given
        if source is not None and ours and _is_at_risk(node, graph):
            channels = _input_channels(node, graph)
            if channels > 1:
                nodes.append(_repeat_scale(proto, graph, source, node.name, channels))
                node.input[0] = nodes[-1].output[0]
        nodes.append(node)
    if len(nodes) > len(proto.graph.node):
        read = {name for node in nodes for name in node.input} | graph.read_by_subgraphs | graph.outputs
        nodes = [n for n in nodes if n.op_type != "DequantizeLinear" or n.name in given or n.output[0] in read]
        set_nodes(proto, nodes)


def _is_at_risk(node: onnx.NodeProto, graph: Graph) -> bool:
    if node.input[1] not in graph.initializers:
        return False
    current = node
    while True:
        readers = graph.readers.get(current.output[0], [])
        if len(readers) != 1:
            return False
        if readers[0].op_type not in CLIPS:
            return bool(readers[0].op_type == "QuantizeLinear")
        current = readers[0]


def _input_channels(node: onnx.NodeProto, graph: Graph) -> int:
    """Size of axis 1 of what the op reads, told from its weight."""
    dims = graph.initializers[node.input[1]].dims
    options = attributes(node)
    if node.op_type == "Conv":
        group = options.get("group", 1)
        assert isinstance(group, int)
        return int(dims[1]) * group
    if node.op_type == "ConvTranspose":
        return int(dims[0])
    return 1 if options.get("transA", 0) else int(dims[1] if options.get("transB", 0) else dims[0])


def _repeat_scale(
    proto: onnx.ModelProto, graph: Graph, source: onnx.NodeProto, name: str, channels: int
) -> onnx.NodeProto:
    inputs = [source.input[0]]
    for tensor in source.input[1:]:
        value = numpy_helper.to_array(graph.initializers[tensor])
        inputs.append(add_constant(proto, f"{tensor}/{name}", np.repeat(value.reshape(-1), channels)))
    output = f"{source.output[0]}/{name}"
    return onnx.helper.make_node("DequantizeLinear", inputs, [output], f"{source.name}/{name}", axis=1)
