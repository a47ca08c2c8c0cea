"""What somebody quantized before us: it is named, and left as it is."""

from __future__ import annotations

from collections import Counter

import onnx

from autotune.adapters.onnxruntime.graph import subgraphs

_PAIRS = frozenset({"DequantizeLinear", "QuantizeLinear"})

_INTEGER_OPS = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeLinear",
        "DynamicQuantizeMatMul",
        "GatherBlockQuantized",
        "MatMulBnb4",
        "MatMulInteger",
        "MatMulInteger16",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QAttention",
        "QEmbedLayerNormalization",
        "QGemm",
        "QMoE",
    }
)
"""Ops that compute in integers, beside those whose name begins with ``QLinear``."""


def is_pair(node: onnx.NodeProto) -> bool:
    """Whether a node is a QuantizeLinear or a DequantizeLinear."""
    return node.op_type in _PAIRS


def quantized_nodes(graph: onnx.GraphProto) -> Counter[str]:
    """How many nodes of each type show that a graph is quantized, or a part of it; none where it is not."""
    found = Counter(
        node.op_type
        for node in graph.node
        if is_pair(node) or node.op_type in _INTEGER_OPS or node.op_type.startswith("QLinear")
    )
    for node in graph.node:
        for inner in subgraphs(node):
            found += quantized_nodes(inner)
    return found


def quantized_note(proto: onnx.ModelProto) -> str | None:
    """The line that tells a user that a model is quantized already; None where it is not."""
    found = quantized_nodes(proto.graph)
    if not found:
        return None
    kinds = ", ".join(f"{count} {op_type}" for op_type, count in sorted(found.items()))
    return (
        f"This model is quantized already, or a part of it is ({kinds}): that part is left as it is, and what it loses "
        "against fp32 is not seen. Give the fp32 model to tune all of it"
    )
