"""Which ops of a graph can compute in int8: what they read, and where their weights are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov

from autotune.adapter import Array
from autotune.notes import counted

WITHOUT_BIAS = "/WithoutBiases"
"""The ONNX reader splits a Conv with a bias into a Convolution of this name and an Add that bears the node's own."""

CONVOLUTIONS = frozenset({"Convolution", "GroupConvolution"})

PASSING = frozenset(
    {"Relu", "Clamp", "MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Concat", "Split", "VariadicSplit"}
    | {"Minimum", "Maximum", "PRelu", "Pad", "StridedSlice", "Slice", "Gather", "ShuffleChannels", "DepthToSpace"}
)
"""Ops that pass integers on, or that the CPU plugin fuses into the op before them."""


@dataclass(frozen=True, kw_only=True)
class QuantizableOp:
    """One op that the CPU plugin has an integer kernel for.

    Attributes:
        name: The node's name, that of the ONNX node where the model was one.
        node: The node.
        activations: Places of the inputs that are quantized as activations.
        weight: The constant weight as the node reads it; None for MatMuls and sums of two activations.
    """

    name: str
    node: ov.Node
    activations: tuple[int, ...]
    weight: Array | None = None

    @property
    def kind(self) -> str:
        """OpenVINO's name for this kind of op."""
        return str(self.node.get_type_name())

    @property
    def convolves(self) -> bool:
        """Whether this is a convolution."""
        return self.kind in CONVOLUTIONS

    @property
    def groups(self) -> int:
        """Into how many groups a convolution's channels fall; 1 for all else."""
        return int(self.weight.shape[0]) if self.weight is not None and self.kind == "GroupConvolution" else 1

    @property
    def transposed(self) -> bool:
        """Whether a MatMul's constant matrix has its outputs along the last axis but one."""
        return self.kind == "MatMul" and bool(self.node.get_attributes()["transpose_b"])

    @property
    def rows(self) -> Array:
        """The weight with its output channels along the first axis.

        Shape (outputs, inputs / groups, kernel...) or (outputs, inputs). A stack of matrices, which have no output
        channels in common, is left as it is.
        """
        assert self.weight is not None
        if self.kind == "GroupConvolution":
            return self.weight.reshape(-1, *self.weight.shape[2:])
        if self.kind == "MatMul" and self.weight.ndim == 2 and not self.transposed:
            return np.ascontiguousarray(self.weight.T)
        return self.weight

    def as_read(self, rows: Array) -> Array:
        """An array of the shape of :attr:`rows`, or with ones after its first axis, in the node's layout."""
        assert self.weight is not None
        if self.kind == "GroupConvolution":
            return rows.reshape(*self.weight.shape[:2], *rows.shape[1:])
        if self.kind == "MatMul" and self.weight.ndim == 2 and not self.transposed:
            return np.ascontiguousarray(rows.T)
        return rows

    @property
    def has_channels(self) -> bool:
        """Whether each output channel can have a scale of its own."""
        return self.weight is not None and (self.convolves or self.weight.ndim == 2)

    @property
    def depthwise(self) -> bool:
        """Whether each filter of a convolution reads one channel."""
        return self.weight is not None and self.kind == "GroupConvolution" and self.weight.shape[2] == 1


def quantizable_ops(graph: ov.Model) -> tuple[list[QuantizableOp], list[str]]:
    """The ops of a graph that can be int8, in graph order, and a line for each reason why others cannot."""
    found: list[QuantizableOp] = []
    already: list[str] = []
    for node in graph.get_ordered_ops():
        if node.get_type_name() not in (*CONVOLUTIONS, "MatMul", "Add"):
            continue
        if any(port.get_node().get_type_name() == "FakeQuantize" for port in node.input_values()):
            already.append(op_name(node))
            continue
        op = _quantizable(node)
        if op is not None:
            found.append(op)
    notes = [f"{counted(len(already), 'op')} of this model quantized already, kept so"] if already else []
    return found, notes


def _quantizable(node: ov.Node) -> QuantizableOp | None:
    kind = node.get_type_name()
    if node.get_output_element_type(0) != ov.Type.f32:
        return None
    if kind == "Add":
        # A bias has a constant side; a residual sum has none.
        sides = (is_constant(port.get_node()) for port in reversed(node.input_values()))
        ranks = [port.get_partial_shape().rank for port in node.input_values()]
        if any(sides) or any(rank.is_dynamic or rank.get_length() < 3 for rank in ranks) or _is_small(node):
            return None
        return QuantizableOp(name=op_name(node), node=node, activations=(0, 1))
    weight = constant_value(node.input_value(1).get_node())
    if weight is not None and weight.dtype.kind == "f" and weight.ndim >= 2:
        return QuantizableOp(name=op_name(node), node=node, activations=(0,), weight=weight.astype(np.float32))
    if kind == "MatMul" and not any(is_constant(port.get_node()) for port in node.input_values()):
        return QuantizableOp(name=op_name(node), node=node, activations=(0, 1))
    return None


def _is_small(node: ov.Node) -> bool:
    """Whether a sum broadcasts one side: the CPU plugin sums integers of one shape alone."""
    first, second = (port.get_partial_shape() for port in node.input_values())
    return bool(first != second)


def op_name(node: ov.Node) -> str:
    """The node's name without what the ONNX reader appends."""
    return str(node.get_friendly_name()).removesuffix(WITHOUT_BIAS)


def tensor_name(port: Any) -> str:
    """The name of what a port carries: that of the node, which stays the same from one reading to the next."""
    node = port.get_node()
    name = str(node.get_friendly_name())
    return name if node.get_output_size() == 1 else f"{name}:{port.get_index()}"


def is_constant(node: ov.Node) -> bool:
    """Whether nothing but constants goes into a node, nor the shape of an activation that is known beforehand."""
    pending, seen = [node], set()
    while pending:  # no recursion: a model may be deeper than Python's stack
        each = pending.pop()
        if each.get_name() in seen or each.get_type_name() == "Constant":
            continue
        seen.add(each.get_name())
        if each.get_type_name() == "ShapeOf" and each.input_value(0).get_partial_shape().is_static:
            continue
        reads = each.input_values()
        if not reads:
            return False
        if each.get_type_name() == "Reshape":  # its new shape may come from the shape of an activation
            reads = reads[:1]
        pending += [port.get_node() for port in reversed(reads)]  # activations come first, and lead to the answer
    return True


def constant_value(node: ov.Node) -> Array | None:
    """The values of a constant, also behind the Reshape that the ONNX reader puts before a group convolution.

    None where the node is no constant, or one of integers that a Multiply turns into real values.
    """
    kind = node.get_type_name()
    if kind == "Constant":
        return np.asarray(node.data)
    if kind == "Convert":  # weights that were stored in half precision
        inner = constant_value(node.input_value(0).get_node())
        return None if inner is None or inner.dtype.kind != "f" else inner.astype(np.float32)
    if kind == "Reshape" and node.get_output_partial_shape(0).is_static:
        inner = constant_value(node.input_value(0).get_node())
        return None if inner is None else inner.reshape(tuple(node.get_output_shape(0)))
    if kind == "Transpose":
        inner, order = (constant_value(port.get_node()) for port in node.input_values())
        return None if inner is None or order is None else np.transpose(inner, order.tolist())
    return None


def bias_of(op: QuantizableOp) -> ov.Node | None:
    """The Add of a constant that alone reads what an op writes; None where there is none."""
    readers = list(op.node.output(0).get_target_inputs())
    if len(readers) != 1 or readers[0].get_node().get_type_name() != "Add":
        return None
    add: ov.Node = readers[0].get_node()
    other = add.input_value(1 - readers[0].get_index()).get_node()
    return add if is_constant(other) else None


def written(op: QuantizableOp) -> Any:
    """The port that carries an op's result: behind the bias where it has one."""
    bias = bias_of(op) if op.weight is not None else None
    return (op.node if bias is None else bias).output(0)
