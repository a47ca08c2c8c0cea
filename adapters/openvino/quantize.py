"""Make the candidate that a config describes: how each op is quantized stands in :func:`apply_config`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import openvino as ov
from openvino import opset13 as opset

from autotune.adapter import Array
from autotune.adapters.openvino.biases import Bias, bias_name, weight_name
from autotune.adapters.openvino.candidate import HALF, Candidate, lines_on_floats
from autotune.adapters.openvino.channels import prepare_channels
from autotune.adapters.openvino.model import FLOAT32, OpenVinoModel
from autotune.adapters.openvino.ops import QuantizableOp, quantizable_ops, tensor_name
from autotune.adapters.openvino.recipes import correct_constants
from autotune.adapters.openvino.weights import weight_grid
from autotune.algorithms import (
    AffineParameters,
    activation_range,
    affine_parameters,
    representable,
)
from autotune.algorithms.grids import WeightGrid
from autotune.calibration import CalibrationStatistics
from autotune.config import OpConfig, Precision, QuantizationConfig, QuantizedType, TensorScheme
from autotune.errors import ApplyError
from autotune.options import require_declared

_AS_FACTOR = " as factor"
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
    require_declared(config.recipe.options, ())
    graph = model.graph.clone()
    floats = _require_offered(quantizable_ops(graph)[0], config)
    if not config.ops:
        return dataclasses.replace(model, given=None, file_bytes=None)
    channels = prepare_channels(graph, config, statistics)
    ops, _ = quantizable_ops(graph)
    chosen = [op for op in ops if config[op.name].precision is Precision.INT8]
    weighted = [op for op in chosen if op.weight is not None]
    activations = ActivationGrids(channels.statistics, channels.ranges)
    for op in chosen:
        activations.choose(op, config[op.name])
    grids = {op.name: (op, weight_grid(op, config[op.name], config.recipe, trained=config.trained)) for op in weighted}
    constants, notes = correct_constants(model, channels, grids, activations.tensors(), config.recipe)
    for op, grid in grids.values():
        op.node.input(1).replace_source_output(weight_node(op, grid, constants[weight_name(op)]).output(0))
        if bias_name(op) in constants:
            Bias(op).replace(constants[bias_name(op)])
    for op in chosen:
        activations.insert(op)
    graph.validate_nodes_and_infer_types()
    lines = lines_on_floats(floats, [op.name for op in ops if op.name not in config.ops])
    return Candidate(
        graph=graph,
        told=(*model.told, *channels.notes, *notes, *lines),
        batch_axes=model.batch_axes,
        floats=floats,
        asked={op.name: config[op.name].precision for op in ops if op.name in config.ops},
        sample=_sample_shapes(model, statistics),
    )


def _require_offered(ops: list[QuantizableOp], config: QuantizationConfig) -> str:
    """The type in which ops compute that are not int8; checks the names of ops and the choices on the way.

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


class ActivationGrids:
    """Chooses the integers of the tensors that int8 ops read, and puts FakeQuantize nodes before the ops.

    Args:
        statistics: Statistics of the calibration.
        ranges: ``(low, high)`` of the tensors whose range the recipe has chosen.
    """

    def __init__(self, statistics: CalibrationStatistics, ranges: Mapping[str, tuple[float, float]]) -> None:
        self._statistics = statistics
        self._ranges = ranges
        self._grids: dict[str, tuple[AffineParameters, TensorScheme]] = {}
        self._chosen: dict[tuple[str, int], str] = {}
        self._made: dict[str, ov.Output] = {}

    def choose(self, op: QuantizableOp, choice: OpConfig) -> None:
        """Choose for what an op reads; what an op before it has chosen for the same tensor stays.

        Raises:
            ApplyError: A tensor has no statistics.
        """
        assert choice.activation is not None
        assert choice.calibration is not None
        for place in op.activations:
            name = tensor_name(op.node.input_value(place))
            found = self._statistics.tensors.get(name)
            if found is None:
                raise ApplyError(
                    f"An int8 op needs statistics of {name!r}, which it reads, and there are none. Calibrate it"
                )
            own = self._ranges.get(name)
            scheme = choice.activation
            if op.kind == "MatMul" and op.weight is None and (place == 1 or found.minimum < 0):
                scheme, name = _FACTOR, f"{name}{_AS_FACTOR}"
            self._chosen[op.name, place] = name
            if name not in self._grids:
                parameters = affine_parameters(*(own or activation_range(found, choice.calibration, scheme)), scheme)
                # All 256 integers, also those that a symmetric scheme leaves out.
                self._grids[name] = parameters, dataclasses.replace(scheme, symmetric=False)

    def chosen(self, op: QuantizableOp, place: int) -> tuple[AffineParameters, TensorScheme]:
        """The scale, zero point and integers of what an op reads at a place."""
        return self._grids[self._chosen[op.name, place]]

    def tensors(self) -> dict[str, tuple[AffineParameters, QuantizedType]]:
        """By tensor: its scale, zero point and type. Where a MatMul reads it otherwise, what other ops read counts."""
        factors_first = sorted(self._grids.items(), key=lambda item: not item[0].endswith(_AS_FACTOR))
        return {
            name.removesuffix(_AS_FACTOR): (parameters, scheme.dtype) for name, (parameters, scheme) in factors_first
        }

    def insert(self, op: QuantizableOp) -> None:
        """Make an op read the quantized tensors; ops that have chosen alike share one FakeQuantize."""
        for place in op.activations:
            name = self._chosen[op.name, place]
            if name not in self._made:
                parameters, scheme = self._grids[name]
                ends = [opset.constant(np.float32(end)) for end in representable(parameters, scheme.dtype)]
                node = opset.fake_quantize(op.node.input_value(place), *ends, *ends, 256)
                node.set_friendly_name(f"{name}/quantized")
                self._made[name] = node.output(0)
            op.node.input(place).replace_source_output(self._made[name])


def weight_node(op: QuantizableOp, grid: WeightGrid, rounded: Array) -> ov.Node:
    """Integers, Convert and Multiply by the scales: the CPU plugin reads the integers, and the file holds them."""
    integers = opset.constant(op.as_read(grid.integers(rounded)))
    integers.set_friendly_name(f"{op.name}/integers")
    real = opset.convert(integers, ov.Type.f32)
    scale = grid.parameters.scale
    scales = opset.constant(op.as_read(scale.reshape(-1, *[1] * (grid.values.ndim - 1))) if scale.ndim else scale)
    scaled: ov.Node = opset.multiply(real, scales)
    scaled.set_friendly_name(f"{op.name}/weight")
    return scaled
