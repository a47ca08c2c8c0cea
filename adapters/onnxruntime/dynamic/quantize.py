"""Dynamic quantization: what an op reads is quantized in every call, by the range that it has then.

Each op becomes ``DynamicQuantizeLinear``, ``MatMulInteger`` or ``ConvInteger``, ``Cast``, ``Mul`` and, for a bias,
``Add``, all of them standard operators. ONNX Runtime fuses those of a MatMul into its integer kernels
(``MatMulIntegerToFloat``, and ``DynamicQuantizeMatMul`` where nobody else reads the integers), and none around a
convolution. Ops that read one tensor share its quantization.

The weights of a convolution are stored as u8 around 128. ConvInteger has them on the left side of its multiplication,
and for a left side of s8 there is no fast kernel: measured 3 to 4.5 times as slow (docs/recipes.md). u8 x u8 cannot
saturate on CPUs without VNNI either, so that these weights have all 8 bits everywhere.

ONNX Runtime's own ``quantize_dynamic`` makes the same graph, but has no way to mix it with static int8 nor with weight
schemes that differ from op to op.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from autotune.adapter import Array
from autotune.adapters.onnx.graph import Graph, attributes
from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnx.rewriting import add_constant, replace_nodes
from autotune.adapters.onnxruntime.choices.ops import QuantizableOp
from autotune.algorithms import quantize, weight_parameters
from autotune.algorithms.saturation import weight_limits
from autotune.config import (
    CalibrationMethod,
    Granularity,
    Precision,
    QuantizationConfig,
    QuantizedType,
    TensorScheme,
)

DYNAMIC_OPSET = 11
"""DynamicQuantizeLinear exists from here on."""


DYNAMIC_KERNEL = "/MatMulInteger"
"""Suffix of the name of an op's integer MatMul; ONNX Runtime keeps it when it fuses."""

CONVOLUTION_KERNEL = "/ConvInteger"
"""The same of a convolution."""

DYNAMIC_PARTS = (DYNAMIC_KERNEL, CONVOLUTION_KERNEL, "/quantize", "/Cast", "/scales", "/rescale", "/bias")
"""Suffixes of the names of all nodes that an op becomes."""

_U8 = TensorScheme(dtype=QuantizedType.U8, symmetric=True)


def supports_dynamic(op: QuantizableOp, graph: Graph) -> bool:
    """Whether an op has a dynamic integer kernel: convolutions, MatMul and Gemm with one constant matrix, and LSTM."""
    if op.node.op_type == "LSTM":
        return True
    return (
        graph.opset >= DYNAMIC_OPSET
        and op.node.op_type in ("Conv", "MatMul", "Gemm")
        and op.weight is not None
        and op.weight_axis is not None
    )


def quantize_dynamically(
    proto: onnx.ModelProto, model: OnnxModel, ops: Sequence[QuantizableOp], config: QuantizationConfig
) -> None:
    """Replace the MatMul, Gemm and Conv nodes that ``config`` wants in dynamic int8.

    Args:
        proto: The candidate, whose other ops may be quantized already; changed in place.
        model: The model that holds the values of weights.
        ops: The model's ops; LSTMs and those of other precisions are passed over.
        config: The config that says how.
    """
    dynamic = [op for op in ops if config[op.name].precision is Precision.INT8_DYNAMIC and op.node.op_type != "LSTM"]
    if not dynamic:
        return
    rewriting = _Rewriting(proto, model, config)
    nodes = {node.name: node for node in proto.graph.node}
    replace_nodes(proto, {op.name: rewriting.replacement(op, nodes[op.name]) for op in dynamic})


def _matmul(node: onnx.NodeProto, inputs: Sequence[str]) -> onnx.NodeProto:
    return helper.make_node("MatMulInteger", inputs, [f"{node.name}/sums"], f"{node.name}{DYNAMIC_KERNEL}")


def _convolution(node: onnx.NodeProto, inputs: Sequence[str]) -> onnx.NodeProto:
    new = helper.make_node("ConvInteger", inputs, [f"{node.name}/sums"], f"{node.name}{CONVOLUTION_KERNEL}")
    new.attribute.extend(node.attribute)
    return new


class _Rewriting:
    """Makes the nodes of one candidate, and the constants that they share."""

    def __init__(self, proto: onnx.ModelProto, model: OnnxModel, config: QuantizationConfig) -> None:
        self._proto = proto
        self._model = model
        self._config = config
        self._constants = {tensor.name: tensor for tensor in model.proto.graph.initializer}
        self._quantized: set[str] = set()
        self._weights: dict[tuple[str, TensorScheme], str] = {}
        self._columns: set[str] = set()

    def replacement(self, op: QuantizableOp, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes that compute what ``node``, the op as it stands in the candidate, computes."""
        source, name = node.input[0], op.name
        convolution = node.op_type == "Conv"
        nodes = []
        if source not in self._quantized:
            self._quantized.add(source)
            nodes.append(
                helper.make_node(
                    "DynamicQuantizeLinear",
                    [source],
                    [f"{source}/integers", f"{source}/scale", f"{source}/zero_point"],
                    f"{name}/quantize" if convolution else f"{source}/DynamicQuantizeLinear",
                )
            )
        weight = self._filter(op) if convolution else self._weight(op)
        inputs = [f"{source}/integers", f"{weight}/integers", f"{source}/zero_point", f"{weight}/zero_point"]
        product = f"{name}/product" if op.bias is not None else node.output[0]
        nodes += [
            _convolution(node, inputs) if convolution else _matmul(node, inputs),
            helper.make_node("Cast", [f"{name}/sums"], [f"{name}/sums_float"], f"{name}/Cast", to=TensorProto.FLOAT),
            helper.make_node(
                "Mul", [f"{source}/scale", f"{weight}/scale"], [f"{name}/product_scale"], f"{name}/scales"
            ),
            helper.make_node("Mul", [f"{name}/sums_float", f"{name}/product_scale"], [product], f"{name}/rescale"),
        ]
        if op.bias is not None:
            bias = self._column(op.bias, node) if convolution else node.input[2]
            nodes.append(helper.make_node("Add", [product, bias], [node.output[0]], f"{name}/bias"))
        return nodes

    def _filter(self, op: QuantizableOp) -> str:
        """The same as :meth:`_weight` for a convolution, whose scales stand beside the channels of a picture."""
        scheme = self._config[op.name].weight
        assert scheme is not None
        assert op.weight is not None
        key = (f"{op.weight}/filter", scheme)
        if key in self._weights:
            return self._weights[key]
        values = np.asarray(self._model.tensor(self._constants[op.weight]), np.float32)
        stored = dataclasses.replace(_U8, granularity=scheme.granularity)
        parameters = weight_parameters(values, stored, 0, CalibrationMethod.MINMAX)
        per_channel = scheme.granularity == Granularity.PER_CHANNEL
        integers = quantize(values, parameters, stored, 0 if per_channel else None)
        name = f"{op.weight}/dynamic_{scheme.granularity}"
        self._add(f"{name}/integers", integers)
        scale = parameters.scale.reshape(-1, *[1] * (values.ndim - 2)) if per_channel else parameters.scale
        self._add(f"{name}/scale", scale)
        # The kernel takes a single one.
        self._add(f"{name}/zero_point", np.asarray(128, np.uint8))
        self._weights[key] = name
        return name

    def _column(self, bias: str, node: onnx.NodeProto) -> str:
        """The bias in the shape that goes with the channels of a picture."""
        name = f"{bias}/channels"
        if name not in self._columns:
            self._columns.add(name)
            dimensions = len(self._constants[node.input[1]].dims) - 2
            values = np.asarray(self._model.tensor(self._constants[bias]), np.float32)
            self._add(name, values.reshape(-1, *[1] * dimensions))
        return name

    def _weight(self, op: QuantizableOp) -> str:
        """Add the weight's integers, scale and zero point to the graph, once for all ops that agree on them."""
        scheme = self._config[op.name].weight
        assert scheme is not None
        assert op.weight is not None
        assert op.weight_axis is not None
        transposed = bool(attributes(op.node).get("transB", 0))
        key = (f"{op.weight}/transposed" if transposed else op.weight, scheme)
        if key in self._weights:
            return self._weights[key]
        values = np.asarray(self._model.tensor(self._constants[op.weight]), np.float32)
        values = values.T if transposed else values
        limits = weight_limits(np.arange(values.size).reshape(values.shape), scheme, self._config.recipe)
        parameters = limits.parameters(values, scheme, 1, CalibrationMethod.MINMAX)
        axis = 1 if scheme.granularity == Granularity.PER_CHANNEL else None
        integers = limits.quantize(values, parameters, scheme, axis)
        name = f"{key[0]}/{str(scheme).replace(' ', '_')}"
        self._add(f"{name}/integers", integers)
        self._add(f"{name}/scale", parameters.scale)
        self._add(f"{name}/zero_point", parameters.zero_point)
        self._weights[key] = name
        return name

    def _add(self, name: str, values: Array) -> None:
        add_constant(self._proto, name, np.ascontiguousarray(values))
