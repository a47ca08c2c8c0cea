"""Fast bias correction: the mean shift that quantized weights cause is taken from what is added to an op's result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from openvino import opset13 as opset

from autotune.adapter import Array
from autotune.adapters.onnxruntime.recipes.bias_correction import convolution_shift, matmul_shift
from autotune.adapters.openvino.ops import CONVOLUTIONS, QuantizableOp, bias_of, constant_value, tensor_name
from autotune.adapters.openvino.weights import QuantizedWeight
from autotune.calibration import CalibrationStatistics
from autotune.config import BiasCorrection, Recipe


def correct_biases(
    ops: Sequence[QuantizableOp],
    weights: Mapping[str, QuantizedWeight],
    recipe: Recipe,
    statistics: CalibrationStatistics,
) -> None:
    """Change the biases of int8 ops in their graph as the recipe says.

    Args:
        ops: Those that became int8, in the candidate's graph.
        weights: By op, what its weight has become.
        recipe: Of the candidate.
        statistics: Of the fp32 model.
    """
    if recipe.bias_correction is BiasCorrection.NONE:
        return
    for op in ops:
        if op.name in weights:
            shift = _shift(op, weights[op.name].error, statistics)
            if shift is not None:
                _subtract(op, shift)


def _shift(op: QuantizableOp, error: Array, statistics: CalibrationStatistics) -> Array | None:
    """By how much the mean result is shifted, along the output channels; None where the input's means are not known."""
    quantizer = op.node.input_value(0).get_node()
    found = statistics.tensors.get(tensor_name(quantizer.input_value(0)))
    if found is None or found.channels is None or not op.has_channels:
        return None
    mean = found.channels.mean
    if op.kind in CONVOLUTIONS:
        fits = found.channels.axis == 1 and mean.size == error.shape[1] * op.groups
        return convolution_shift(error, mean, op.groups) if fits else None
    return matmul_shift(error, mean) if mean.size == error.shape[1] else None


def _subtract(op: QuantizableOp, shift: Array) -> None:
    """Take a shift from the op's bias; one that has none gets one."""
    rank = op.node.get_output_partial_shape(0).rank.get_length()
    shape = (1, -1, *[1] * (rank - 2)) if op.kind in CONVOLUTIONS else (-1,)
    change = np.asarray(-shift, np.float32).reshape(shape)
    add = bias_of(op)
    if add is None:
        corrected = opset.add(op.node, opset.constant(change))
        corrected.set_friendly_name(f"{op.name}/corrected")
        names = op.node.output(0).get_names()
        for reader in op.node.output(0).get_target_inputs():
            if reader.get_node().get_name() != corrected.get_name():
                reader.replace_source_output(corrected.output(0))
        op.node.output(0).set_names(set())
        corrected.output(0).set_names(names)  # it may be an output of the model
        return
    place = 1 if add.input_value(0).get_node().get_name() == op.node.get_name() else 0
    bias = constant_value(add.input_value(place).get_node())
    new = opset.constant(change if bias is None else np.asarray(bias + change, np.float32))
    source = new if bias is not None else opset.add(add.input_value(place), new)
    add.input(place).replace_source_output(source.output(0))
