"""Make the candidate that a config describes: how each op is quantized stands in :func:`apply_config`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autotune.adapter import Array
from autotune.adapters.paddle import program as programs
from autotune.adapters.paddle.candidate import Candidate
from autotune.adapters.paddle.channels import prepare_channels
from autotune.adapters.paddle.model import LARGEST_INTEGER, PaddleModel
from autotune.adapters.paddle.ops import CONVOLUTIONS, QuantizableOp, quantizable_ops
from autotune.adapters.paddle.recipes import correct_constants
from autotune.adapters.paddle.scales import Scale, Scales
from autotune.adapters.paddle.space import is_clipped
from autotune.adapters.paddle.tensors import Tensors
from autotune.adapters.paddle.weights import LARGEST, largest_activations, weight_grid
from autotune.algorithms.grids import WeightGrid
from autotune.calibration import CalibrationStatistics
from autotune.config import Precision, QuantizationConfig
from autotune.errors import ApplyError
from autotune.options import require_declared

_ZERO = "autotune/zero"
_FLOAT = np.dtype(np.float32)

MARKED = (
    *CONVOLUTIONS, "conv2d_transpose", "matmul", "matmul_v2", "mul", "elementwise_add", "elementwise_mul",
    "elementwise_sub", "concat", "pool2d", "reshape2", "transpose2", "slice", "split", "nearest_interp",
    "nearest_interp_v2",
)  # fmt: skip
"""Ops that Paddle turns into integers by itself where the tensors around them have scales."""


def apply_config(model: PaddleModel, config: QuantizationConfig, statistics: CalibrationStatistics) -> PaddleModel:
    """The candidate that ``config`` describes; ``model`` stays as it is.

    The tensor that an int8 op reads goes through ``quantize_linear`` and ``dequantize_linear``, with the range that
    the config's algorithm finds in the statistics, and its weight is integers behind a ``dequantize_linear``.
    Paddle's integer passes turn both into oneDNN's kernels. One tensor has one scale: that of the first int8 op in
    graph order that reads it. A convolution into which Paddle fuses a residual sum computes in integers where the
    sum's tensors have scales too; these are thresholds on the ops that write them. Every other op that Paddle would
    quantize by itself is marked to be left alone; max pooling between int8 ops is not, since it only passes
    integers on.

    Raises:
        ApplyError: The config names an op that cannot be quantized, or a tensor has no statistics.
    """
    require_declared(config.recipe.options, ())
    program = model.program
    ops = quantizable_ops(program, model.constants, model.names)
    tensors = Tensors(program, model.constants)
    _require_offered(ops, config, tensors)
    if not config.ops:
        return dataclasses.replace(model, given=None, file_bytes=None)
    chosen = [op for op in ops if op.name in config.ops]
    quantized = {name for op in chosen for name in tensors.read_or_summed(op)}
    channels = prepare_channels(program, model.constants, ops, config, statistics, quantized=quantized)
    program = channels.program
    # Which tensors are unsigned was read before: a Relu stands in place of a Relu6 by now.
    grids = {
        op.name: (op, weight_grid(channels.constants[op.weight], config[op.name], trained=config.trained))
        for op in chosen
    }
    largest = largest_activations(grids, config.recipe)
    scales = Scales(tensors, channels.statistics, channels.ranges, largest=largest)
    for op in chosen:
        scales.choose(op, config[op.name])
    found, notes = correct_constants(model, channels, ops, grids, scales, config.recipe)
    constants = {**channels.constants, **found}
    insertion = _Insertion(program, constants, grids)
    insertion.insert(scales.found, tensors)
    kept = programs.drop_unused(program, insertion.constants)
    return Candidate(
        content=program.SerializeToString(),
        constants=kept,
        names=model.names,
        told=(*model.told, *channels.notes, *notes),
        batch_axes=model.batch_axes,
        asked=tuple(op.name for op in chosen),
        sample=_sample(model, statistics),
    )


def _require_offered(ops: Sequence[QuantizableOp], config: QuantizationConfig, tensors: Tensors) -> None:
    unknown = sorted(set(config.ops) - {op.name for op in ops})
    if unknown:
        raise ApplyError(f"A config may name ops of the model's space only, but names {', '.join(unknown[:3])}")
    for name, choice in config.ops.items():
        if choice.precision is not Precision.INT8:
            raise ApplyError(f"In Paddle an op computes in int8 or fp32, but {name!r} is to be in {choice.precision}")
    clipped = [op.name for op in ops if op.name in config.ops and is_clipped(op, tensors)]
    if clipped:
        raise ApplyError(
            f"An int8 op must not add what has no negative values to what has, since Paddle cuts the sum at zero, but "
            f"{clipped[0]!r} does. Leave it in fp32"
        )


def _sample(model: PaddleModel, statistics: CalibrationStatistics) -> tuple[tuple[int, ...], ...]:
    """Shapes of the inputs in one of the calibration samples that were kept; empty where none was."""
    return tuple(tuple(statistics.examples[0][spec.name].shape) for spec in model.inputs if statistics.examples)


class _Insertion:
    """Puts scales and integers into a program.

    Args:
        program: The program, which is changed.
        constants: Its constants.
        grids: By op that becomes int8, with the grid of its weight.

    Attributes:
        constants: The constants afterwards.
    """

    def __init__(
        self, program: Any, constants: Mapping[str, Array], grids: Mapping[str, tuple[QuantizableOp, WeightGrid]]
    ) -> None:
        self._program = program
        self._grids = {op.weight: (op, grid) for op, grid in grids.values()}
        self._made: list[Any] = []
        self._read: set[str] = set()
        self.constants = dict(constants)

    def insert(self, scales: Mapping[str, Scale], tensors: Tensors) -> None:
        """Let int8 ops read integers, and mark all others."""
        self._constant(_ZERO, np.zeros(1, np.float32))
        sources = {op.source for op, _ in self._grids.values()}
        for op in self._program.blocks[0].ops:
            weight = programs.read(op, "Filter")
            if weight in self._grids:
                self._quantize_input(op, scales)
                self._quantize_weight(op, weight)
            elif op.type in MARKED and not _passes(op, tensors, scales, sources):
                programs.set_attribute(op, "skip_quant", 1)
            for name in programs.all_written(op):
                if name in scales and name not in sources:
                    programs.set_attribute(op, "out_threshold", scales[name].threshold)
            self._made.append(op)
        programs.replace_ops(self._program, self._made)

    def _quantize_input(self, op: Any, scales: Mapping[str, Scale]) -> None:
        source = programs.read(op, "Input")
        _, shape = programs.tensor_type(programs.variables(self._program)[source]) or (None, ())
        if source not in self._read:
            self._read.add(source)
            self._constant(f"{source}/scale", np.array([scales[source].threshold], np.float32))
            for name in (f"{source}/integers", f"{source}/quantized"):
                programs.add_tensor(self._program, name, _FLOAT, shape)
            self._linear("quantize_linear", source, f"{source}/integers", f"{source}/scale", -1)
            programs.set_attribute(self._made[-1], LARGEST_INTEGER, scales[source].largest)
            self._linear("dequantize_linear", f"{source}/integers", f"{source}/quantized", f"{source}/scale", -1)
        programs.rename_read(op, source, f"{source}/quantized")

    def _quantize_weight(self, op: Any, weight: str) -> None:
        _, grid = self._grids[weight]
        integers = grid.integers(self.constants.pop(weight))
        self._constant(f"{weight}/integers", integers)
        self._constant(f"{weight}/scale", np.asarray(grid.parameters.scale * np.float32(LARGEST), np.float32))
        programs.add_tensor(self._program, f"{weight}/quantized", _FLOAT, integers.shape)
        self._linear("dequantize_linear", f"{weight}/integers", f"{weight}/quantized", f"{weight}/scale", 0)
        programs.rename_read(op, weight, f"{weight}/quantized")
        programs.set_attribute(op, "quantization_type", "qat_with_weight")

    def _constant(self, name: str, array: Array) -> None:
        self.constants[name] = array
        programs.add_tensor(self._program, name, array.dtype, array.shape, constant=True)

    def _linear(self, kind: str, source: str, target: str, scale: str, axis: int) -> None:
        slots = {"X": [source], "Scale": [scale], "ZeroPoint": [_ZERO]}
        attrs = {"quant_axis": axis, "bit_length": 8, "is_test": True, "only_observer": False}
        made = programs.new_op(kind, slots, {"Y": [target]}, attrs)
        self._made.append(made)


def _passes(op: Any, tensors: Tensors, scales: Mapping[str, Scale], sources: set[str]) -> bool:
    """Whether an op only passes integers on from one int8 op to others."""
    if op.type != "pool2d" or programs.attribute(op, "pooling_type") != "max":
        return False
    result = programs.written(op, "Out")
    return result in scales and result in sources and len(tensors.readers.get(programs.read(op, "X"), [])) == 1
