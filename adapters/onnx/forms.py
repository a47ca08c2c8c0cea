"""Write ops in the form that integer kernels know; what they compute stays the same.

=====================================  =================================================================================
a Gemm with                            becomes
=====================================  =================================================================================
alpha or beta, both constants there    the same with the factors in its weight and bias
a constant bias of 1 or [1, N] values  the same with a bias of N values
another bias                           a Gemm without one, and an Add
a transposed input                     a Transpose and a Gemm
=====================================  =================================================================================

``Max(x, c * x)`` with ``0 <= c <= 1``, and a PRelu with a single slope, become LeakyRelu. All keep their names.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from autotune.adapter import Array
from autotune.adapters.onnx.graph import Graph, attributes, is_standard
from autotune.adapters.onnx.rewriting import add_constant, replace_nodes


def write_in_known_forms(proto: onnx.ModelProto) -> None:
    """Rewrite a graph whose nodes have names of their own; weights in files stay as they are.

    Args:
        proto: Changed in place.
    """
    graph = Graph(proto)
    replacements: dict[str, Sequence[onnx.NodeProto]] = {}
    for node in graph.nodes:
        if not is_standard(node):
            continue
        replacement = _Gemm(node, graph, proto).nodes() if node.op_type == "Gemm" else _leaky_relu(node, graph)
        if replacement is not None:
            replacements[node.name] = replacement
    if not replacements:
        return
    unread = _only_read_by(graph, set(replacements))
    replace_nodes(proto, {**replacements, **dict.fromkeys(unread, ())})


def _leaky_relu(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    source, slope = None, None
    if node.op_type == "PRelu":
        source, slope = node.input[0], _scalar(node.input[1], graph, most_dimensions=8)
    elif node.op_type == "Max" and len(node.input) == 2:
        for source, scaled in (node.input, reversed(node.input)):
            slope = _slope(source, scaled, graph)
            if slope is not None:
                break
    if source is None or slope is None:
        return None
    return [helper.make_node("LeakyRelu", [source], list(node.output), node.name, alpha=slope)]


def _slope(source: str, scaled: str, graph: Graph) -> float | None:
    """The ``c`` of ``scaled = c * source``, where the larger of the two is a leaky Relu."""
    product = graph.producers.get(scaled)
    if product is None or product.op_type != "Mul" or not is_standard(product) or source not in product.input:
        return None
    other = product.input[1] if product.input[0] == source else product.input[0]
    # One with more dimensions would give them to what it multiplies.
    slope = _scalar(other, graph, most_dimensions=1)
    return slope if slope is not None and 0.0 <= slope <= 1.0 else None


def _scalar(tensor: str, graph: Graph, *, most_dimensions: int) -> float | None:
    """The only value of a float32 constant."""
    value = graph.constant(tensor)
    if value is None or value.size != 1 or value.dtype != np.float32 or value.ndim > most_dimensions:
        return None
    return float(value.item())


def _only_read_by(graph: Graph, replaced: set[str]) -> list[str]:
    """Products that only replaced nodes read: what scaled the input of a leaky Relu."""
    return [
        node.name
        for node in graph.nodes
        if node.op_type == "Mul"
        and node.output[0] not in graph.outputs | graph.read_by_subgraphs
        and all(reader.name in replaced and reader.op_type == "Max" for reader in graph.readers.get(node.output[0], ()))
        and graph.readers.get(node.output[0])
    ]


class _Gemm:
    """A Gemm, and the changes that give it a form that has a kernel.

    Args:
        node: The Gemm.
        graph: Graph that it lies in.
        proto: Takes new constants.
    """

    def __init__(self, node: onnx.NodeProto, graph: Graph, proto: onnx.ModelProto) -> None:
        self._node = node
        self._graph = graph
        self._proto = proto
        options = attributes(node)
        self._alpha, self._beta = (float(str(options.get(name, 1.0))) for name in ("alpha", "beta"))
        self._transposed = [bool(options.get(name, 0)) for name in ("transA", "transB")]

    def nodes(self) -> list[onnx.NodeProto] | None:
        """The nodes that take its place; None where it has a kernel's form already, or there is no kernel for it."""
        weight = self._float(self._node.input[1])
        if weight is None or weight.ndim != 2 or self._node.input[0] in self._graph.initializers:
            return None
        channels = weight.shape[0 if self._transposed[1] else 1]
        vector, added = self._bias(channels)
        if vector is None and added is None and self._has_bias() and self._beta != 0.0:
            return None  # a factor of what is computed at run time
        if self._is_known(channels):
            return None
        name, source, output = str(self._node.name), str(self._node.input[0]), str(self._node.output[0])
        before, after = [], []
        if self._transposed[0]:
            before = [helper.make_node("Transpose", [source], [f"{name}/input"], f"{name}/transpose", perm=[1, 0])]
            source = f"{name}/input"
        inputs = [source, str(self._node.input[1])]
        if self._alpha != 1.0:
            inputs[1] = self._constant(f"{name}/weight", weight * np.float32(self._alpha))
        if vector is not None:
            inputs.append(self._constant(f"{name}/vector", vector))
        product = output
        if added is not None:
            product = f"{name}/unbiased"
            after = [helper.make_node("Add", [product, added], [output], f"{name}/add")]
        gemm = helper.make_node("Gemm", inputs, [product], name, transB=int(self._transposed[1]))
        return [*before, gemm, *after]

    def _has_bias(self) -> bool:
        return len(self._node.input) > 2 and bool(self._node.input[2])

    def _is_known(self, channels: int) -> bool:
        if self._transposed[0] or self._alpha != 1.0 or self._beta != 1.0:
            return False
        bias = self._float(self._node.input[2]) if self._has_bias() else None
        return not self._has_bias() or (bias is not None and bias.shape == (channels,))

    def _bias(self, channels: int) -> tuple[Array | None, str | None]:
        """The bias as a vector, or the name of what an Add has to bring in; neither where there is none."""
        if not self._has_bias() or self._beta == 0.0:
            return None, None
        name = str(self._node.input[2])
        value = self._float(name)
        if value is None:
            return None, name if self._beta == 1.0 and name not in self._graph.initializers else None
        value = value * np.float32(self._beta)
        if value.size == 1 or value.shape in ((channels,), (1, channels)):
            return np.ascontiguousarray(np.broadcast_to(value.reshape(-1), (channels,))), None
        if self._beta == 1.0:
            return None, name
        return None, self._constant(f"{self._node.name}/addend", value)

    def _float(self, name: str) -> Array | None:
        tensor = self._graph.initializers.get(name)
        if tensor is None or tensor.data_type != TensorProto.FLOAT:
            return None
        return self._graph.constant(name)

    def _constant(self, name: str, value: Array) -> str:
        while name in self._graph.initializers or name in self._graph.producers:
            name += "_"
        return add_constant(self._proto, name, np.asarray(value, np.float32))
