"""Which nodes ONNX Runtime's CPU provider can run in int8, and which of their inputs are what.

The list follows the rules by which ONNX Runtime 1.24 to 1.31 fuse a node and the Q/DQ around it into an integer kernel
(``core/optimizer/qdq_transformer/selectors_actions``); each was tried. Where it does not fuse, a quantized op is slower
than fp32 and no more accurate.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from autotune.adapters.onnx.graph import Graph, attributes, clip_bounds, is_standard, subgraphs
from autotune.notes import listed

QDQ_OPSET = 10
"""QuantizeLinear and DequantizeLinear exist from here on."""

_MAXPOOL_OPSET = 12
"""MaxPool reads 8-bit integers from here on."""

_RESIZE_OPSET = 11
"""ONNX Runtime's quantizer leaves an older Resize alone."""

FOLLOWERS = frozenset(
    {
        "Flatten",
        "Gather",
        "GatherElements",
        "MaxPool",
        "Reshape",
        "Resize",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
"""Ops that move or pick values: they go along in int8, with the scale of what they read, and have no choice."""

CLIPS = frozenset({"Relu", "Clip"})
"""Ops that disappear into the integer range of the op before them."""

LARGE = 1 << 16
"""Values of a constant. Smaller ones stay in the cache and make no model large: fewer bits gain nothing."""

_NO_KERNEL = frozenset({"ConvTranspose", "Einsum", "GRU", "RNN"})
"""Op types that users may expect to be quantized, and that ONNX Runtime has no integer kernel for."""

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})

_READ_TABLES = frozenset({"Gather", "Gemm", "MatMul"})
"""Ops that can read a table in fewer bits, each in its own layout."""

_BREAK_AT_ZERO = frozenset({"Log", "Reciprocal"})

_KEEP_ZERO = frozenset({"Abs", "Clip", "Identity", "Relu", "Sqrt"})
"""Ops on the way to those above that leave a zero what it is."""

_WHOLE = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL})
"""Types of shapes, indices and masks: no op that writes them stays in fp32."""

FLOAT_OUTPUT = frozenset({"Gemm", "MatMul"})
"""Ops with an integer kernel that writes fp32 where nobody reads int8."""


@dataclass(frozen=True, kw_only=True)
class QuantizableOp:
    """A node that has an integer kernel.

    Attributes:
        node: The node.
        activations: Tensors that it reads and that come from calibration.
        constants: Constants that it reads like activations, the other side of an Add for example.
        weight: Name of its constant weight.
        weight_axis: The weight's axis of output channels; None where the weight has one scale only.
        bias: Name of its constant bias.
        static: Whether it has an integer kernel for ranges from calibration.
    """

    node: onnx.NodeProto
    activations: tuple[str, ...]
    constants: tuple[str, ...] = ()
    weight: str | None = None
    weight_axis: int | None = None
    bias: str | None = None
    static: bool = True

    @property
    def name(self) -> str:
        """The node's name."""
        return str(self.node.name)

    @property
    def output(self) -> str:
        """The tensor that it writes, the first one where it may write several."""
        return next(str(name) for name in self.node.output if name)


_QUANTIZED = "it is quantized already"


class _Refusal(Exception):
    """Why a node of a quantizable type stays fp32."""


def quantizable_ops(graph: Graph) -> tuple[list[QuantizableOp], list[str]]:
    """The ops that have an integer kernel, in graph order, and a line for each kind of op that is left out and why."""
    ops: list[QuantizableOp] = []
    refused: dict[tuple[str, str], list[str]] = {}
    for node in graph.nodes:
        if is_standard(node) and _is_candidate(node, graph):
            try:
                ops.append(_read(node, graph))
            except _Refusal as refusal:
                if graph.elem_type(node.output[0]) in _WHOLE:
                    continue
                refused.setdefault((node.op_type, str(refusal)), []).append(node.name)
        elif is_standard(node) and node.op_type in _NO_KERNEL:
            refused.setdefault((node.op_type, "ONNX Runtime has no integer kernel for it"), []).append(node.name)
        for inner in subgraphs(node):
            for each in inner.node:
                if _is_candidate(each, graph):
                    reason = f"it lies in a graph inside of {node.op_type} {node.name!r}"
                    refused.setdefault((each.op_type, reason), []).append(each.name or each.op_type)
    return ops, [_line(op_type, reason, names) for (op_type, reason), names in refused.items()]


def _is_candidate(node: onnx.NodeProto, graph: Graph) -> bool:
    """Whether a node is of a quantizable type; of those that gather, only one that reads a large table of floats is."""
    if node.op_type != "Gather":
        return node.op_type in _READERS
    table = graph.initializers.get(node.input[0])
    return table is not None and table.data_type in _FLOATS and math.prod(table.dims) >= LARGE


def follows(node: onnx.NodeProto, graph: Graph) -> bool:
    """Whether a node of :data:`FOLLOWERS` can go along in int8."""
    if node.op_type not in FOLLOWERS or not is_standard(node):
        return False
    if node.op_type == "MaxPool":
        return graph.opset >= _MAXPOOL_OPSET and len(node.output) == 1
    if node.op_type == "Resize":
        # Interpolation has no integer kernel: ONNX Runtime leaves the Q and DQ around it.
        return graph.opset >= _RESIZE_OPSET and attributes(node).get("mode", b"nearest") == b"nearest"
    return True


def _line(op_type: str, reason: str, names: list[str]) -> str:
    stays = "as it is" if reason == _QUANTIZED else "fp32"
    return f"{op_type} {listed(names)} stays {stays}: {reason}"


def _read(node: onnx.NodeProto, graph: Graph) -> QuantizableOp:
    if graph.opset < QDQ_OPSET:
        raise _Refusal(f"opset {graph.opset} has no QuantizeLinear")
    op = _READERS[node.op_type](node, graph)
    if op.weight is None and op.activations and graph.quantized.issuperset(op.activations):
        raise _Refusal(_QUANTIZED)
    for tensor in (*op.activations, op.output):
        _require_float(graph, tensor)
        if tensor in graph.infinite:
            raise _Refusal("it reads or writes infinite values, those of a mask for example")
    if not op.activations and op.static:
        raise _Refusal("it reads constants only")
    reader = None if op.node.op_type in FLOAT_OUTPUT or not op.static else _reader_that_zero_breaks(op.output, graph)
    if reader is None:
        return op
    if op.weight is None:
        raise _Refusal(
            f"{reader.op_type} reads what it writes, and small values would become zero, which it makes infinite"
        )
    return dataclasses.replace(op, static=False)


def _reader_that_zero_breaks(tensor: str, graph: Graph) -> onnx.NodeProto | None:
    """A node that makes an infinity of zero, to which int8 rounds small values: of a spectrum, or of a deviation."""
    pending = [tensor]
    for name in pending:
        for node in graph.readers.get(name, ()):
            divides = node.op_type == "Div" and node.input[1] == name
            if node.op_type in _BREAK_AT_ZERO or divides or _is_negative_power(node, name, graph):
                return node
            if node.op_type in _KEEP_ZERO | FOLLOWERS and node.input[0] == name and not _lifts(node, graph):
                pending.extend(each for each in node.output if each and each not in pending)
    return None


def _is_negative_power(node: onnx.NodeProto, base: str, graph: Graph) -> bool:
    exponent = graph.constant(node.input[1]) if node.op_type == "Pow" and node.input[0] == base else None
    return exponent is not None and bool((exponent < 0).any())


def _lifts(node: onnx.NodeProto, graph: Graph) -> bool:
    """Whether a Clip lets nothing near zero through."""
    bounds = clip_bounds(node, graph) if node.op_type == "Clip" else None
    return bounds is not None and bounds[0] > 0


def _require_float(graph: Graph, tensor: str) -> None:
    elem_type = graph.elem_type(tensor)
    if elem_type == 0:
        raise _Refusal("the type of a tensor that it reads or writes is unknown")
    if elem_type != TensorProto.FLOAT:
        raise _Refusal(f"it computes in {TensorProto.DataType.Name(elem_type).lower()}, not in float32")


def _constant(graph: Graph, tensor: str, what: str) -> TensorProto:
    if tensor in graph.quantized:
        raise _Refusal(_QUANTIZED)
    if tensor not in graph.initializers:
        raise _Refusal(f"its {what} is computed at run time")
    constant = graph.initializers[tensor]
    if constant.data_type != TensorProto.FLOAT:
        name = TensorProto.DataType.Name(constant.data_type).lower()
        raise _Refusal(f"its {what} is {name}, not float32")
    return constant


def _bias(node: onnx.NodeProto, graph: Graph, channels: int) -> str | None:
    if len(node.input) < 3 or not node.input[2]:
        return None
    bias = _constant(graph, node.input[2], "bias")
    if list(bias.dims) != [channels]:
        raise _Refusal(f"its bias has shape {list(bias.dims)}, not one value for each output channel")
    return str(bias.name)


def _conv(node: onnx.NodeProto, graph: Graph) -> QuantizableOp:
    weight = _constant(graph, node.input[1], "weight")
    return QuantizableOp(
        node=node,
        activations=(node.input[0],),
        weight=weight.name,
        weight_axis=0,
        bias=_bias(node, graph, weight.dims[0]),
    )


def _gemm(node: onnx.NodeProto, graph: Graph) -> QuantizableOp:
    options = attributes(node)
    if options.get("transA", 0):
        raise _Refusal("it transposes its input")
    if options.get("alpha", 1.0) != 1.0 or options.get("beta", 1.0) != 1.0:
        raise _Refusal("its alpha or beta is not 1")
    weight = _constant(graph, node.input[1], "weight")
    axis = 0 if options.get("transB", 0) else 1
    return QuantizableOp(
        node=node,
        activations=(node.input[0],),
        weight=weight.name,
        weight_axis=axis,
        bias=_bias(node, graph, weight.dims[axis]),
    )


def _matmul(node: onnx.NodeProto, graph: Graph) -> QuantizableOp:
    left, right = node.input
    if left in graph.initializers:
        raise _Refusal("its left side is constant")
    if right not in graph.initializers:
        return QuantizableOp(node=node, activations=tuple(dict.fromkeys((left, right))))
    weight = _constant(graph, right, "weight")
    if len(weight.dims) < 2:
        raise _Refusal("its weight is a vector")
    # ONNX Runtime's kernel takes a scale for each column of a matrix, not of a stack of matrices.
    axis = 1 if len(weight.dims) == 2 else None
    return QuantizableOp(node=node, activations=(left,), weight=weight.name, weight_axis=axis)


def _lstm(node: onnx.NodeProto, graph: Graph) -> QuantizableOp:
    if attributes(node).get("layout", 0):
        raise _Refusal("its batch comes first (layout 1), which ONNX Runtime's kernels do not know")
    weight, recurrence = (
        _constant(graph, node.input[index], what) for index, what in ((1, "weight"), (2, "recurrence"))
    )
    if len(weight.dims) != 3 or len(recurrence.dims) != 3:
        raise _Refusal("its weight has no axis of directions")
    return QuantizableOp(node=node, activations=(node.input[0],), weight=weight.name, weight_axis=1, static=False)


def _gather(node: onnx.NodeProto, graph: Graph) -> QuantizableOp:
    table = _constant(graph, node.input[0], "table")
    if len(table.dims) < 2:
        raise _Refusal("its table is a vector")
    if attributes(node).get("axis", 0) not in (0, -len(table.dims)):
        raise _Refusal("it does not gather along the first axis of its table, as the kernel for blocks does")
    if (
        not {each.op_type for each in graph.readers[table.name]} <= _READ_TABLES
        or table.name in graph.outputs | graph.read_by_subgraphs
    ):
        raise _Refusal("others read its table too, so that it would be stored twice")
    return QuantizableOp(node=node, activations=(), weight=table.name, static=False)


def _elementwise(node: onnx.NodeProto, graph: Graph) -> QuantizableOp:
    names = tuple(dict.fromkeys(node.input))
    constants = tuple(name for name in names if name in graph.initializers)
    for name in constants:
        _constant(graph, name, "constant")
    return QuantizableOp(
        node=node, activations=tuple(name for name in names if name not in constants), constants=constants
    )


def _first_input(node: onnx.NodeProto, graph: Graph) -> QuantizableOp:  # noqa: ARG001
    return QuantizableOp(node=node, activations=(node.input[0],))


_READERS: dict[str, Callable[[onnx.NodeProto, Graph], QuantizableOp]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Gather": _gather,
    "LSTM": _lstm,
    "Add": _elementwise,
    "Mul": _elementwise,
    "Concat": _elementwise,
    "AveragePool": _first_input,
    "GlobalAveragePool": _first_input,
    "LeakyRelu": _first_input,
    "Sigmoid": _first_input,
    "Softmax": _first_input,
}
