"""A model's graph, indexed: writers and readers of tensors, and constants."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from functools import cached_property

import numpy as np
import onnx
from onnx import numpy_helper

from autotune.adapter import Array
from autotune.adapters.onnx.quantized import quantized_part

_STANDARD_DOMAINS = ("", "ai.onnx")

_FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16})

_MASK_LENGTH = 4096
"""Weights are not searched for infinities."""

_KEEPS_INFINITY = frozenset(
    {
        "Add",
        "Cast",
        "Concat",
        "Expand",
        "Gather",
        "Identity",
        "Mul",
        "Reshape",
        "Slice",
        "Squeeze",
        "Sub",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Where",
    }
)


class Graph:
    """An index over the top level of a model's graph; it must not outlive a change of the graph."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.nodes = list(proto.graph.node)
        self.initializers: dict[str, onnx.TensorProto] = {tensor.name: tensor for tensor in proto.graph.initializer}
        self.outputs = {output.name for output in proto.graph.output}
        self.producers = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                if name:
                    self.readers.setdefault(name, []).append(node)
        self.read_by_subgraphs = {name for node in self.nodes for name in outer_reads(node)}

    @cached_property
    def opset(self) -> int:
        """Version of the standard operator set; 0 where the model uses none of it."""
        return next((int(o.version) for o in self.proto.opset_import if o.domain in _STANDARD_DOMAINS), 0)

    @cached_property
    def types(self) -> dict[str, onnx.TypeProto.Tensor]:
        """Element type and shape of every tensor of which they are known."""
        graph = self.proto.graph
        return {
            value.name: value.type.tensor_type
            for value in (*graph.value_info, *graph.input, *graph.output)
            if value.type.HasField("tensor_type")
        }

    @cached_property
    def infinite(self) -> set[str]:
        """Tensors that hold infinities by the model's own constants: masks that are added before a Softmax."""
        found = {
            name
            for name, tensor in self.initializers.items()
            if tensor.data_type in _FLOATS and max(tensor.dims, default=1) <= _MASK_LENGTH
            for value in [self.constant(name)]
            if value is not None and np.isinf(value).any()
        }
        for node in self.nodes:
            if node.op_type in _KEEPS_INFINITY and not found.isdisjoint(node.input):
                found.update(node.output)
        return found

    @cached_property
    def quantized(self) -> set[str]:
        """Tensors that a part writes which is quantized already."""
        return quantized_part(self.nodes)

    def elem_type(self, tensor: str) -> int:
        """``TensorProto.DataType`` of a tensor; 0 where it is unknown."""
        if tensor in self.initializers:
            return int(self.initializers[tensor].data_type)
        return int(self.types[tensor].elem_type) if tensor in self.types else 0

    def rank(self, tensor: str) -> int | None:
        """Number of dimensions; None where it is unknown."""
        if tensor in self.initializers:
            return len(self.initializers[tensor].dims)
        if tensor in self.types and self.types[tensor].HasField("shape"):
            return len(self.types[tensor].shape.dim)
        return None

    def read_once(self, tensor: str) -> bool:
        """Whether exactly one node reads a tensor, and nobody outside of the graph's top level does."""
        return (
            len(self.readers.get(tensor, ())) == 1
            and tensor not in self.outputs
            and tensor not in self.read_by_subgraphs
        )

    def constant(self, tensor: str) -> Array | None:
        """The value of a small constant; None where it is not constant."""
        if tensor not in self.initializers or is_external(self.initializers[tensor]):
            return None
        value: Array = numpy_helper.to_array(self.initializers[tensor])
        return value


def is_standard(node: onnx.NodeProto) -> bool:
    """Whether a node belongs to the standard operator set."""
    return node.domain in _STANDARD_DOMAINS


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor's values lie outside of the model's own file."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    """A node's attributes as Python values."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def clip_bounds(node: onnx.NodeProto, graph: Graph) -> tuple[float, float] | None:
    """Lower and upper bound of a Relu or Clip; None where it is computed at run time."""
    if node.op_type == "Relu":
        return 0.0, math.inf
    options = attributes(node)  # where opset 6 has them, inputs came with 11
    bounds = [float(str(options.get("min", -math.inf))), float(str(options.get("max", math.inf)))]
    for index, name in enumerate(node.input[1:3]):
        if name:
            value = graph.constant(name)
            if value is None or value.size != 1:
                return None
            bounds[index] = float(value.item())
    return bounds[0], bounds[1]


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside of a node, ``If`` and ``Loop`` and ``Scan`` for example."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every constant of a graph: initializers, values of Constant nodes, and those of the graphs inside of nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
        for inner in subgraphs(node):
            yield from tensors(inner)


def outer_reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that the graphs inside of a node read; those that they define themselves do no harm."""
    for graph in subgraphs(node):
        for inner in graph.node:
            yield from inner.input
            yield from outer_reads(inner)
        yield from (output.name for output in graph.output)


def ancestors(tensor: str, graph: Graph, *, ends: Collection[str] = ()) -> Iterator[tuple[str, onnx.NodeProto | None]]:
    """The tensors that a tensor is computed from, itself first, constants left out.

    Args:
        tensor: A name.
        graph: Graph of the tensor.
        ends: Types of ops whose own inputs are not looked at.

    Yields:
        Names, each once, with the node that writes it; None for an input of the model.
    """
    seen, waiting = set(), [tensor]
    while waiting:
        name = waiting.pop()
        if not name or name in seen or name in graph.initializers:
            continue
        seen.add(name)
        node = graph.producers.get(name)
        yield name, node
        if node is not None and node.op_type not in ends:
            waiting += [*node.input, *outer_reads(node)]
