"""Constant weights of int8 ops: quantized here, so that the quantizer finds integers and leaves them alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from autotune.adapter import Array
from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnx.rewriting import add_constant, drop_unread, set_nodes
from autotune.adapters.onnxruntime.choices.limits import op_limits
from autotune.adapters.onnxruntime.choices.ops import QuantizableOp
from autotune.algorithms import AffineParameters
from autotune.config import CalibrationMethod, Granularity, OpConfig, QuantizationConfig

_BIAS_MARGIN = 1.0001
"""Room for the rounding of the scales' product to float32."""

_SMALLEST_BIAS_SCALE = float(np.finfo(np.float32).tiny) * _BIAS_MARGIN
"""A normal float32: hardware that flushes denormals takes smaller ones for zero."""

_LARGEST_SCALE = float(np.finfo(np.float32).max) / 256
"""Integers times it stay finite."""


def weight_grids(
    model: OnnxModel,
    ops: Sequence[QuantizableOp],
    config: QuantizationConfig,
    activations: Mapping[str, AffineParameters],
) -> dict[str, AffineParameters]:
    """By op: scales and zero points of its constant weight.

    Args:
        model: The fp32 model.
        ops: The ops that become int8.
        config: The config that says how.
        activations: Parameters of the tensors that the ops read.
    """
    tensors = {tensor.name: tensor for tensor in model.proto.graph.initializer}
    grids = {}
    for op in ops:
        if op.weight is None:
            continue
        weight = model.tensor(tensors[op.weight])
        parameters = weight_parameters(weight, op, config)
        if op.bias is not None:
            scale = float(activations[op.activations[0]].scale)
            parameters = _with_room_for_bias(parameters, model.tensor(tensors[op.bias]), scale)
        grids[op.name] = parameters
    return grids


def quantize_weights(
    proto: onnx.ModelProto,
    model: OnnxModel,
    ops: Sequence[QuantizableOp],
    config: QuantizationConfig,
    grids: Mapping[str, AffineParameters],
) -> None:
    """Replace the weight of every int8 op in ``proto`` by integers and a DequantizeLinear.

    Ops that read one weight keep sharing it where they agree on its scales; those that stay fp32 read the original.

    Args:
        proto: A copy of the model's message; changed in place.
        model: The fp32 model.
        ops: The ops that become int8.
        config: The config that says how.
        grids: The grids that :func:`weight_grids` returned.
    """
    nodes = {node.name: node for node in proto.graph.node}
    tensors = {tensor.name: tensor for tensor in model.proto.graph.initializer}
    dequantized: dict[tuple[object, ...], str] = {}
    taken: set[str] = set()
    new_nodes: list[onnx.NodeProto] = []
    for op in ops:
        if op.weight is None:
            continue
        choice = config[op.name]
        axis = scale_axis(op, choice)
        weight = model.tensor(tensors[op.weight])
        parameters = grids[op.name]
        assert choice.weight is not None
        limits = op_limits(op.node, weight.shape, choice.weight, config.recipe)
        integers = limits.quantize(weight, parameters, choice.weight, axis)
        # Integers too: two kernels that sum in different orders may have different ones of the same scales.
        digest = hashlib.sha256(integers.tobytes()).digest()
        key = (op.weight, axis, choice.weight, parameters.scale.tobytes(), parameters.zero_point.tobytes(), digest)
        if key not in dequantized:
            name = op.weight if op.weight not in taken else f"{op.weight}/{op.name}"
            taken.add(op.weight)
            dequantized[key] = f"{name}_dequantized"
            new_nodes.append(_insert(proto, name, integers, parameters, axis))
        nodes[op.name].input[1] = dequantized[key]
    set_nodes(proto, [*new_nodes, *proto.graph.node])
    drop_unread(proto, {op.weight for op in ops if op.weight is not None})


def scale_axis(op: QuantizableOp, choice: OpConfig) -> int | None:
    """The axis of a weight along which it has scales; None where it has one."""
    assert choice.weight is not None
    return op.weight_axis if choice.weight.granularity == Granularity.PER_CHANNEL else None


def weight_parameters(weight: Array, op: QuantizableOp, config: QuantizationConfig) -> AffineParameters:
    """Scales and zero points of an op's constant weight, before there is room for its bias."""
    choice = config[op.name]
    assert choice.weight is not None
    assert choice.calibration is not None
    # Percentiles and KL divergence speak of distributions; a weight is known value by value. Training decides for
    # itself which weights are large, and finding the least error anew at each step would take longer than the step.
    mse = choice.calibration.method is CalibrationMethod.MSE and not config.trained
    method = CalibrationMethod.MSE if mse else CalibrationMethod.MINMAX
    limits = op_limits(op.node, weight.shape, choice.weight, config.recipe)
    return limits.parameters(weight, choice.weight, op.weight_axis or 0, method)


def _with_room_for_bias(parameters: AffineParameters, bias: Array, activation_scale: float) -> AffineParameters:
    """Widen scales so that no bias, whose own scale is the product of both, exceeds its 32 bits.

    Nor may that product vanish: a dead channel, whose weights training has decayed to 1e-40, and power spectra of
    1e-10 would leave 0 / 0 for the integer.
    """
    magnitude = np.abs(bias.astype(np.float64))
    if parameters.scale.ndim == 0:
        magnitude = np.asarray(magnitude.max(initial=0.0))
    needed = np.maximum(magnitude * (_BIAS_MARGIN / np.iinfo(np.int32).max), _SMALLEST_BIAS_SCALE) / activation_scale
    scale = np.maximum(parameters.scale, np.minimum(needed, _LARGEST_SCALE).astype(np.float32))
    return AffineParameters(np.asarray(scale, np.float32), parameters.zero_point)


def _insert(
    proto: onnx.ModelProto, name: str, integers: Array, parameters: AffineParameters, axis: int | None
) -> onnx.NodeProto:
    names = [f"{name}_quantized", f"{name}_scale", f"{name}_zero_point"]
    for each, array in zip(names, (integers, parameters.scale, parameters.zero_point), strict=True):
        add_constant(proto, each, array)
    output = f"{name}_dequantized"
    proto.graph.value_info.append(
        onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, list(integers.shape))
    )
    node = onnx.helper.make_node("DequantizeLinear", names, [output], f"{name}_DequantizeLinear")
    if axis is not None:
        node.attribute.append(onnx.helper.make_attribute("axis", axis))
    return node
