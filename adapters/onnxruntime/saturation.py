"""Which ops of a quantized model can saturate on x86 CPUs without VNNI.

There ONNX Runtime multiplies with ``VPMADDUBSW``: activations as u8 (s8 ones are shifted by 128 first) by s8 weights,
two neighbouring products along the axis that is summed over added in 16 bits with saturation. Activations may reach
255, so that two weights decide: 255 times their positive parts must stay within 32,767, 255 times their negative ones
within -32,768. u8 by u8 is widened to 16 bits before it is multiplied, and so is a depthwise convolution
(``onnxruntime/core/mlas/lib/intrinsics/avx2/qdwconv_avx2.cpp``).
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto

from autotune.adapter import Array
from autotune.adapters.onnx.graph import is_standard
from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnxruntime.choices.limits import summed_columns
from autotune.adapters.onnxruntime.dynamic.quantize import DYNAMIC_KERNEL
from autotune.adapters.onnxruntime.dynamic.recurrent import LSTM_KERNEL, LSTM_WEIGHTS
from autotune.algorithms import can_saturate

_QDQ_WEIGHT = {"Conv": 1, "Gemm": 1, "MatMul": 1}
"""Ops that ONNX Runtime fuses with the DequantizeLinear before them, and the input that is the weight."""

_INTEGER_WEIGHT = {
    "QLinearConv": 3,
    "ConvInteger": 1,
    "QLinearMatMul": 3,
    "QGemm": 3,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
}
"""Integer ops of the standard and of ONNX Runtime's own, and the input that is the weight."""


def saturating_ops(model: OnnxModel) -> tuple[str, ...]:
    """The names of the ops at risk, in graph order.

    Exact for constant weights; a MatMul of two activations of which the second is s8 is always at risk.
    """
    graph = model.proto.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    found = []
    for node in graph.node:
        at_risk = False
        for integers in _integer_weights(node, producers):
            constant = constants.get(integers)
            if constant is None:
                at_risk |= _is_signed_activation(integers, producers, constants)
            else:
                at_risk |= constant.data_type == TensorProto.INT8 and _can_saturate(node, model.tensor(constant))
        if at_risk:
            found.append(str(node.name).removesuffix(DYNAMIC_KERNEL))
    return tuple(found)


def _integer_weights(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> tuple[str, ...]:
    """The integer tensors that an op multiplies its activations with; none where it computes in fp32."""
    if node.op_type == LSTM_KERNEL:
        return tuple(str(node.input[index]) for index in LSTM_WEIGHTS)
    if node.op_type in _INTEGER_WEIGHT:
        return (str(node.input[_INTEGER_WEIGHT[node.op_type]]),)
    if node.op_type not in _QDQ_WEIGHT or not is_standard(node):
        return ()
    before = [producers.get(name) for name in (node.input[0], node.input[_QDQ_WEIGHT[node.op_type]])]
    if any(source is None or source.op_type != "DequantizeLinear" for source in before):
        return ()
    weight = before[1]
    assert weight is not None
    return (str(weight.input[0]),)


def _is_signed_activation(
    tensor: str, producers: Mapping[str, onnx.NodeProto], constants: Mapping[str, TensorProto]
) -> bool:
    """Whether a tensor that is quantized at run time is s8, which its zero point says."""
    source = producers.get(tensor)
    # Ops that only move values stand between the quantizer and the op that reads them.
    while source is not None and source.op_type != "QuantizeLinear":
        source = producers.get(source.input[0]) if source.input else None
    if source is None or len(source.input) < 3:
        return False
    zero_point = constants.get(source.input[2])
    return zero_point is not None and zero_point.data_type == TensorProto.INT8


def _can_saturate(node: onnx.NodeProto, weight: Array) -> bool:
    columns = summed_columns(node, weight)
    return columns is not None and can_saturate(columns)
