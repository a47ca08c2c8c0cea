"""Constant weights as integers: their scales, and what keeps two products within 16 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autotune.adapter import Array
from autotune.adapters.openvino.ops import CONVOLUTIONS, QuantizableOp
from autotune.algorithms import AffineParameters, WeightLimits, dequantize
from autotune.config import CalibrationMethod, Granularity, OpConfig, QuantizedType, Recipe, TensorScheme


@dataclass(frozen=True, kw_only=True)
class QuantizedWeight:
    """A weight in the shape of :attr:`.ops.QuantizableOp.rows`.

    Attributes:
        integers: int8.
        scale: float32, shape () or (outputs,).
        error: What is left of the weight, minus the weight: float32.
    """

    integers: Array
    scale: Array
    error: Array


def quantized_weight(op: QuantizableOp, choice: OpConfig, recipe: Recipe) -> QuantizedWeight:
    """The weight of an int8 op, to the nearest integers."""
    scheme = choice.weight
    assert scheme is not None
    assert choice.calibration is not None
    rows = op.rows
    axis = 0 if scheme.granularity is Granularity.PER_CHANNEL else None
    # Percentiles and KL divergence speak of distributions; a weight is known value by value.
    mse = choice.calibration.method is CalibrationMethod.MSE
    limits = weight_limits(op, scheme, recipe)
    parameters = limits.parameters(rows, scheme, 0, CalibrationMethod.MSE if mse else CalibrationMethod.MINMAX)
    return finished(rows, limits.quantize(rows, parameters, scheme, axis), parameters, scheme, axis)


def finished(
    rows: Array, integers: Array, parameters: AffineParameters, scheme: TensorScheme, axis: int | None
) -> QuantizedWeight:
    """Integers with what they stand for, and by how much that misses the weight."""
    left = dequantize(integers, parameters, scheme, axis)
    return QuantizedWeight(integers=integers, scale=parameters.scale, error=left - rows)


def weight_limits(op: QuantizableOp, scheme: TensorScheme, recipe: Recipe) -> WeightLimits:
    """Which integers the weight may become."""
    assert op.weight is not None
    order = summed_columns(op, np.arange(op.weight.size).reshape(op.rows.shape))
    at_risk = order is not None and len(order) > 1 and scheme.dtype is QuantizedType.S8
    if recipe.reduce_range or not recipe.bound_pairs or not at_risk:
        return WeightLimits(reduce_range=recipe.reduce_range)
    return WeightLimits(order=order)


def summed_columns(op: QuantizableOp, rows: Array) -> Array | None:
    """Rows of a weight in the order in which a kernel sums them up, shape (summed, outputs).

    None for a depthwise convolution, whose products are summed in 32 bits.
    """
    if op.depthwise:
        return None
    if op.kind in CONVOLUTIONS:
        # Kernels read pictures channels last: neighbours are channels of one position.
        return rows.transpose(*range(2, rows.ndim), 1, 0).reshape(-1, rows.shape[0])
    if rows.ndim > 2:  # a stack of matrices as it is read: (..., inputs, outputs) or transposed
        rows = np.swapaxes(rows, -1, -2) if op.transposed else rows
        return np.moveaxis(rows, -2, 0).reshape(rows.shape[-2], -1)
    return np.asarray(rows.T)
