"""Finds parts of a model that are quantized already; they are named, and left as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import onnx

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


_RESCALING = frozenset({"Cast", "Mul", "Reshape"})
"""Ops that turn the sums of an integer op, and the scales of what it read, into its result."""


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
    inner = (g for node in graph.node for each in node.attribute for g in (each.g, *each.graphs))
    for each in inner:
        found += quantized_nodes(each)
    return found


def quantized_part(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """The tensors that a quantized part writes: dequantized ones, and what rescales integers in a dynamic one.

    Args:
        nodes: The nodes in topological order.
    """
    written: set[str] = set()
    scaled: set[str] = set()
    for node in nodes:
        dynamic = node.op_type in _INTEGER_OPS
        rescales = node.op_type in _RESCALING and any(name in scaled for name in node.input)
        if dynamic or rescales:
            scaled.update(node.output)
        if dynamic or rescales or is_pair(node) or node.op_type.startswith("QLinear"):
            written.update(node.output)
    return written


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
