"""Keep ONNX Runtime from joining residual additions with the normalizations that read them.

Where it knows all shapes, it makes ``SkipLayerNormalization`` of an Add and a LayerNormalization. That kernel is slower
than the two: MiniLM with fixed shapes in dynamic int8 takes 1.2 times as long (docs/recipes.md). A Sum of two tensors
computes the same as an Add, is a standard operator too, and is not joined.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto

from autotune.adapters.onnx.graph import Graph, is_standard


def keep_residuals_apart(proto: onnx.ModelProto) -> None:
    """Make a Sum of every fp32 Add that a LayerNormalization reads, but for those that bring in a bias.

    Args:
        proto: A candidate; changed in place.
    """
    graph = Graph(proto)
    for node in graph.nodes:
        if node.op_type != "LayerNormalization" or not is_standard(node):
            continue
        add = graph.producers.get(node.input[0])
        if add is not None and add.op_type == "Add" and is_standard(add) and _is_residual(add, graph):
            add.op_type = "Sum"


def _is_residual(add: onnx.NodeProto, graph: Graph) -> bool:
    """Whether both sides are more than the vector of a bias, which goes into the integer kernel before it."""
    vectors = [name for name in add.input if name in graph.initializers and len(graph.initializers[name].dims) < 2]
    return not vectors and graph.elem_type(add.output[0]) == TensorProto.FLOAT
