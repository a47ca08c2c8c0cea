"""Parts of random graphs: pictures, rows, and the ops that go from one to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from autotune.adapter import Array


class Writer:
    """A graph as it grows.

    Args:
        opset: Opset of the standard operators.
        seed: Seed of the constants.
    """

    def __init__(self, opset: int, seed: int) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.feeds: tuple[dict[str, Array], ...] = ({}, {})
        self._random = np.random.default_rng(seed)
        self._count = 0

    def normal(self, *shape: int, scale: float = 0.3) -> Array:
        return (self._random.standard_normal(shape) * scale).astype(np.float32)

    def input(self, name: str, shape: list[int | str], batches: list[Array]) -> str:
        elem_type = helper.np_dtype_to_tensor_dtype(batches[0].dtype)
        self.inputs.append(helper.make_tensor_value_info(name, elem_type, shape))
        for feeds, batch in zip(self.feeds, batches, strict=True):
            feeds[name] = batch
        return name

    def name(self, op_type: str) -> str:
        self._count += 1
        return f"{op_type.lower()}_{self._count}"

    def constant(self, value: Array) -> str:
        name = self.name("constant")
        self.constants[name] = value
        return name

    def node(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Append a node named after its first output; returns that name."""
        name = self.name(op_type)
        names = [name, *(f"{name}_{index}" for index in range(1, outputs))]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, name, **attributes))
        return name

    def axes(self, op_type: str, tensor: str, axes: list[int], since: int, **attributes: Any) -> str:
        """A node whose axes are an attribute before opset ``since``, and an input from then on."""
        if self.opset < since:
            return self.node(op_type, tensor, axes=axes, **attributes)
        return self.node(op_type, tensor, self.constant(np.array(axes, np.int64)), **attributes)

    def clip(self, tensor: str, low: float, high: float) -> str:
        if self.opset < 11:
            return self.node("Clip", tensor, min=low, max=high)
        bounds = (self.constant(np.array(value, np.float32)) for value in (low, high))
        return self.node("Clip", tensor, *bounds)

    def model(self) -> onnx.ModelProto:
        initializers = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "random", self.inputs, self.outputs, initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """A tensor of shape (N, channels, size, size)."""

    tensor: str
    channels: int = 4
    size: int = 8


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A tensor of shape (N, values)."""

    tensor: str
    values: int


def conv(w: Writer, x: Pictures) -> Pictures:
    channels = 4 if x.channels > 4 else 8
    weight, bias = w.constant(w.normal(channels, x.channels, 3, 3)), w.constant(w.normal(channels))
    return Pictures(tensor=w.node("Conv", x.tensor, weight, bias, pads=[1, 1, 1, 1]), channels=channels, size=x.size)


def _depthwise(w: Writer, x: Pictures) -> Pictures:
    weight = w.constant(w.normal(x.channels, 1, 3, 3))
    tensor = w.node("Conv", x.tensor, weight, pads=[1, 1, 1, 1], group=x.channels)
    return Pictures(tensor=w.clip(tensor, 0.0, 6.0), channels=x.channels, size=x.size)


def _normalized(w: Writer, x: Pictures) -> Pictures:
    x = conv(w, x)
    scales = [1.0 + w.normal(x.channels), w.normal(x.channels), w.normal(x.channels), 0.5 + w.normal(x.channels) ** 2]
    tensor = w.node("BatchNormalization", x.tensor, *map(w.constant, scales))
    return Pictures(tensor=w.node("Relu", tensor), channels=x.channels, size=x.size)


def _half_weight(w: Writer, x: Pictures) -> Pictures:
    """A weight that is stored in half precision, behind a Cast."""
    weight = w.node("Cast", w.constant(w.normal(x.channels, x.channels, 1, 1).astype(np.float16)), to=TensorProto.FLOAT)
    return Pictures(tensor=w.node("Conv", x.tensor, weight), channels=x.channels, size=x.size)


def _residual(w: Writer, x: Pictures) -> Pictures:
    weight = w.constant(w.normal(x.channels, x.channels, 1, 1))
    tensor = w.node("Add", x.tensor, w.node("Relu", w.node("Conv", x.tensor, weight)))
    return Pictures(tensor=tensor, channels=x.channels, size=x.size)


def _concat(w: Writer, x: Pictures) -> Pictures:
    tensor = w.node("Concat", x.tensor, w.node("LeakyRelu", x.tensor, alpha=0.1), axis=1)
    return Pictures(tensor=tensor, channels=2 * x.channels, size=x.size)


def _gate(w: Writer, x: Pictures) -> Pictures:
    return Pictures(tensor=w.node("Mul", x.tensor, w.node("Sigmoid", x.tensor)), channels=x.channels, size=x.size)


def _expanded_constant(w: Writer, x: Pictures) -> Pictures:
    """A constant that is large only once it is computed."""
    if w.opset < 8:
        return x
    shape = w.constant(np.array([x.channels, x.size, x.size], np.int64))
    tensor = (
        w.node("Expand", w.constant(w.normal(1, 1, 1)), shape)
        if w.opset < 9
        else w.node("ConstantOfShape", shape, value=numpy_helper.from_array(w.normal(1)))
    )
    return Pictures(tensor=w.node("Add", x.tensor, tensor), channels=x.channels, size=x.size)


def _resized(w: Writer, x: Pictures, mode: str) -> Pictures:
    scales = np.array([1, 1, 2, 2], np.float32)
    if w.opset < 9:
        tensor = w.node("Upsample", x.tensor, mode=mode, scales=scales.tolist())
    elif w.opset < 10:
        tensor = w.node("Upsample", x.tensor, w.constant(scales), mode=mode)
    elif w.opset < 11:
        tensor = w.node("Resize", x.tensor, w.constant(scales), mode=mode)
    else:
        region = "" if w.opset >= 13 else w.constant(np.array([], np.float32))
        tensor = w.node("Resize", x.tensor, region, w.constant(scales), mode=mode)
    return Pictures(
        tensor=w.node("AveragePool", tensor, kernel_shape=[2, 2], strides=[2, 2]), channels=x.channels, size=x.size
    )


def _nearest(w: Writer, x: Pictures) -> Pictures:
    return _resized(w, x, "nearest")


def _linear(w: Writer, x: Pictures) -> Pictures:
    return _resized(w, x, "linear")


def _max_pool(w: Writer, x: Pictures) -> Pictures:
    return Pictures(
        tensor=w.node("MaxPool", x.tensor, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), channels=x.channels, size=x.size
    )


def _moved(w: Writer, x: Pictures) -> Pictures:
    return Pictures(
        tensor=w.node("Transpose", w.node("Identity", x.tensor), perm=[0, 1, 3, 2]), channels=x.channels, size=x.size
    )


PICTURES: dict[str, Callable[[Writer, Pictures], Pictures]] = {
    "conv": conv,
    "depthwise": _depthwise,
    "normalized": _normalized,
    "half weight": _half_weight,
    "residual": _residual,
    "concat": _concat,
    "gate": _gate,
    "expanded constant": _expanded_constant,
    "nearest": _nearest,
    "linear": _linear,
    "max pool": _max_pool,
    "moved": _moved,
}
"""Layers of pictures."""


def pooled(w: Writer, x: Pictures) -> Rows:
    return Rows(tensor=w.node("Flatten", w.node("GlobalAveragePool", x.tensor)), values=x.channels)


def _product(w: Writer, x: Rows) -> Rows:
    tensor = w.node("MatMul", x.tensor, w.constant(w.normal(x.values, 16)))
    return Rows(tensor=w.node("Add", tensor, w.constant(w.normal(16))), values=16)


def _gemm(w: Writer, x: Rows) -> Rows:
    weight, bias = w.constant(w.normal(8, x.values)), w.constant(w.normal(8))
    return Rows(tensor=w.node("Relu", w.node("Gemm", x.tensor, weight, bias, transB=1)), values=8)


def _layer_normalization(w: Writer, x: Rows) -> Rows:
    """Written out, as exporters do."""
    mean = w.axes("ReduceMean", x.tensor, [-1], 18) if w.opset >= 11 else w.axes("ReduceMean", x.tensor, [1], 18)
    difference = w.node("Sub", x.tensor, mean)
    square = w.node("Mul", difference, difference)
    variance = w.axes("ReduceMean", square, [-1 if w.opset >= 11 else 1], 18)
    root = w.node("Sqrt", w.node("Add", variance, w.constant(np.array(1e-3, np.float32))))
    scaled = w.node("Mul", w.node("Div", difference, root), w.constant(1 + w.normal(x.values)))
    return Rows(tensor=w.node("Add", scaled, w.constant(w.normal(x.values))), values=x.values)


def _gelu(w: Writer, x: Rows) -> Rows:
    if w.opset < 9:
        return x
    erf = w.node("Erf", w.node("Div", x.tensor, w.constant(np.array(np.sqrt(2), np.float32))))
    factor = w.node("Add", erf, w.constant(np.array(1, np.float32)))
    tensor = w.node("Mul", w.node("Mul", x.tensor, factor), w.constant(np.array(0.5, np.float32)))
    return Rows(tensor=tensor, values=x.values)


def _softmax(w: Writer, x: Rows) -> Rows:
    return Rows(tensor=w.node("Softmax", x.tensor, axis=1), values=x.values)


def _hardmax(w: Writer, x: Rows) -> Rows:
    """Over an axis before the last one, where opsets differ."""
    stacked = w.axes("Unsqueeze", x.tensor, [2], 13)
    doubled = w.node("Concat", stacked, w.axes("Unsqueeze", w.node("Neg", x.tensor), [2], 13), axis=2)
    picked = w.node("Hardmax", doubled, axis=1)
    summed = w.axes("ReduceSum", w.node("Mul", picked, doubled), [2], 13, keepdims=0)
    return Rows(tensor=summed, values=x.values)


def _quantized(w: Writer, x: Rows) -> Rows:
    """A layer that somebody quantized already, under the names that ONNX Runtime's quantizer gives."""
    if w.opset < 10:
        return x
    integers = np.clip(np.round(w.normal(x.values, 8) / 0.01), -127, 127).astype(np.int8)
    scale, zero = w.constant(np.array(0.05, np.float32)), w.constant(np.array(128, np.uint8))
    weight_scale, weight_zero = w.constant(np.array(0.01, np.float32)), w.constant(np.array(0, np.int8))
    quantized, back, weight = (f"{x.tensor}_QuantizeLinear", f"{x.tensor}_DequantizeLinear", w.name("weight"))
    w.constants[f"{weight}_quantized"] = integers
    for op_type, inputs, name in (
        ("QuantizeLinear", [x.tensor, scale, zero], quantized),
        ("DequantizeLinear", [f"{quantized}_Output", scale, zero], back),
        ("DequantizeLinear", [f"{weight}_quantized", weight_scale, weight_zero], f"{weight}_DequantizeLinear"),
    ):
        w.nodes.append(helper.make_node(op_type, inputs, [f"{name}_Output"], name))
    tensor = w.node("MatMul", f"{back}_Output", f"{weight}_DequantizeLinear_Output")
    # Somebody reads the tensor in fp32 as well.
    other = w.node("MatMul", x.tensor, w.constant(w.normal(x.values, 8)))
    return Rows(tensor=w.node("Add", tensor, other), values=8)


def _chosen(w: Writer, x: Rows) -> Rows:
    """Two branches, between which an input decides that is always the same."""
    name = f"rate_{len(w.inputs)}"
    w.input(name, [], [np.array(16000, np.int64)] * 2)
    branches = []
    for label in ("then", "else"):
        weight = numpy_helper.from_array(w.normal(x.values, 8), w.name(f"{label}_weight"))
        output = w.name(label)
        node = helper.make_node("MatMul", [x.tensor, weight.name], [output], output)
        value = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", 8])
        branches.append(helper.make_graph([node], label, [], [value], [weight]))
    condition = w.node("Equal", name, w.constant(np.array(16000, np.int64)))
    return Rows(tensor=w.node("If", condition, then_branch=branches[0], else_branch=branches[1]), values=8)


ROWS: dict[str, Callable[[Writer, Rows], Rows]] = {
    "product": _product,
    "gemm": _gemm,
    "layer normalization": _layer_normalization,
    "gelu": _gelu,
    "softmax": _softmax,
    "hardmax": _hardmax,
    "quantized": _quantized,
    "chosen": _chosen,
}
"""Layers of rows of values."""
