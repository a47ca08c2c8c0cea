"""Make the candidate that a config describes: how each op is quantized stands in :func:`apply_config`."""

from __future__ import annotations

import dataclasses

import numpy as np
import openvino as ov
from openvino import opset13 as opset

from autotune.adapter import Array
from autotune.adapters.openvino.biases import correct_biases
from autotune.adapters.openvino.candidate import HALF, Candidate, lines_on_floats
from autotune.adapters.openvino.model import FLOAT32, OpenVinoModel
from autotune.adapters.openvino.ops import QuantizableOp, quantizable_ops, tensor_name
from autotune.adapters.openvino.weights import QuantizedWeight, quantized_weight
from autotune.algorithms import activation_range, affine_parameters, integer_range
from autotune.calibration import CalibrationStatistics, TensorStatistics
from autotune.config import OpConfig, Precision, QuantizationConfig, QuantizedType, TensorScheme
from autotune.errors import ApplyError

_FACTOR = TensorScheme(dtype=QuantizedType.S8, symmetric=True)
"""The CPU plugin multiplies two activations as integers where neither has a zero point and the second one is s8."""


def apply_config(model: OpenVinoModel, config: QuantizationConfig, statistics: CalibrationStatistics) -> OpenVinoModel:
    """The candidate that ``config`` describes; ``model`` stays as it is.

    An int8 op gets a FakeQuantize on each of its activations, with the range that the config's algorithm finds in the
    statistics, and its weight becomes ``Constant i8 -> Convert -> Multiply``. The CPU plugin turns both into integer
    kernels. One tensor has one FakeQuantize: that of the first int8 op in graph order that reads it. An fp32 op goes on
    reading the tensor itself. Where an op is to be bf16 or fp16, all that is not int8 computes in that: OpenVINO has
    one floating-point type for a whole model.

    Raises:
        ApplyError: The config names an op that cannot be quantized, or a tensor has no statistics.
    """
    graph = model.graph.clone()
    ops, _ = quantizable_ops(graph)
    floats = _require_offered(ops, config)
    if not config.ops:
        return dataclasses.replace(model, given=None, file_bytes=None)
    chosen = [op for op in ops if config[op.name].precision is Precision.INT8]
    quantizer = ActivationQuantizer(statistics)
    weights: dict[str, QuantizedWeight] = {}
    for op in chosen:
        choice = config[op.name]
        for place in op.activations:
            quantizer.quantize(op, place, choice)
        if op.weight is not None:
            weights[op.name] = quantized_weight(op, choice, config.recipe)
            op.node.input(1).replace_source_output(weight_node(op, weights[op.name]).output(0))
    correct_biases(chosen, weights, config.recipe, statistics)
    graph.validate_nodes_and_infer_types()
    return Candidate(
        graph=graph,
        told=(*model.told, *lines_on_floats(floats, [op.name for op in ops if op.name not in config.ops])),
        batch_axes=model.batch_axes,
        floats=floats,
        asked={op.name: config[op.name].precision for op in ops if op.name in config.ops},
        sample=_sample_shapes(model, statistics),
    )


def _require_offered(ops: list[QuantizableOp], config: QuantizationConfig) -> str:
    """What the config's ops that are not int8 compute in; see that it names ops of the model, and what OpenVINO has.

    Raises:
        ApplyError: It does not, or it asks for two types of 16 bits.
    """
    unknown = sorted(set(config.ops) - {op.name for op in ops})
    if unknown:
        raise ApplyError(f"A config may name ops of the model's space only, but names {', '.join(unknown[:3])}")
    floats = {FLOAT32}
    for name, choice in config.ops.items():
        if choice.precision in HALF:
            floats.add(HALF[choice.precision])
        elif choice.precision is not Precision.INT8:
            raise ApplyError(
                f"In OpenVINO an op computes in int8, fp32, bf16 or fp16, but {name!r} is to be in {choice.precision}"
            )
    if len(floats) > 2:
        raise ApplyError(
            "OpenVINO has one floating-point type for a whole model, but the config asks for bf16 and fp16"
        )
    return max(floats - {FLOAT32}, default=FLOAT32)


def _sample_shapes(model: OpenVinoModel, statistics: CalibrationStatistics) -> tuple[tuple[int, ...], ...]:
    """Shapes of the inputs in one of the calibration samples that were kept; empty where none was."""
    return tuple(tuple(statistics.examples[0][spec.name].shape) for spec in model.inputs if statistics.examples)


class ActivationQuantizer:
    """Puts FakeQuantize nodes before ops, one per tensor.

    Args:
        statistics: Of the calibration.
    """

    def __init__(self, statistics: CalibrationStatistics) -> None:
        self._statistics = statistics
        self._made: dict[str, ov.Output] = {}

    def quantize(self, op: QuantizableOp, place: int, choice: OpConfig) -> None:
        """Let input ``place`` of an op read the quantized tensor.

        Raises:
            ApplyError: The tensor has no statistics.
        """
        source = op.node.input_value(place)
        name = tensor_name(source)
        if op.kind == "MatMul" and op.weight is None and (place == 1 or self._statistics_of(name).minimum < 0):
            choice = dataclasses.replace(choice, activation=_FACTOR)
            name = f"{name} as factor"
        if name not in self._made:
            low, high = self._ends(tensor_name(source), choice)
            ends = opset.constant(low), opset.constant(high)
            node = opset.fake_quantize(source, *ends, *ends, 256)
            node.set_friendly_name(f"{name}/quantized")
            self._made[name] = node.output(0)
        op.node.input(place).replace_source_output(self._made[name])

    def _statistics_of(self, name: str) -> TensorStatistics:
        found = self._statistics.tensors.get(name)
        if found is None:
            raise ApplyError(f"A tensor of an int8 op needs statistics, but {name!r} has none. Calibrate this model")
        return found

    def _ends(self, name: str, choice: OpConfig) -> tuple[np.float32, np.float32]:
        """The real values of the smallest and the largest integer: 256 steps, of which zero is one."""
        assert choice.activation is not None
        assert choice.calibration is not None
        scheme = choice.activation
        parameters = affine_parameters(*activation_range(self._statistics_of(name), choice.calibration, scheme), scheme)
        least, most = integer_range(dataclasses.replace(scheme, symmetric=False))
        zero = int(parameters.zero_point)
        return np.float32(parameters.scale * (least - zero)), np.float32(parameters.scale * (most - zero))


def weight_node(op: QuantizableOp, weight: QuantizedWeight) -> ov.Node:
    """Integers, Convert and Multiply by the scales: the CPU plugin reads the integers, and the file holds them."""
    integers = opset.constant(op.as_read(weight.integers))
    integers.set_friendly_name(f"{op.name}/integers")
    real = opset.convert(integers, ov.Type.f32)
    scale: Array = weight.scale.reshape(-1, *[1] * (weight.integers.ndim - 1)) if weight.scale.ndim else weight.scale
    scales = opset.constant(op.as_read(scale) if scale.ndim else scale)
    scaled: ov.Node = opset.multiply(real, scales)
    scaled.set_friendly_name(f"{op.name}/weight")
    return scaled
