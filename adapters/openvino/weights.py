"""Constant weights as integers: their scales, and what keeps two products within 16 bits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autotune.adapter import Array
from autotune.adapters.openvino.ops import QuantizableOp
from autotune.algorithms import AffineParameters, WeightLimits
from autotune.algorithms.saturation import weight_limits
from autotune.config import CalibrationMethod, OpConfig, Recipe, TensorScheme


@dataclass(frozen=True, kw_only=True)
class WeightGrid:
    """The values that a weight may take.

    Attributes:
        rows: The weight, in the shape of :attr:`.ops.QuantizableOp.rows`.
        scheme: How it is quantized.
        limits: The integers that are allowed.
        parameters: Scales of shape () or (outputs,), and zero points.
    """

    rows: Array
    scheme: TensorScheme
    limits: WeightLimits
    parameters: AffineParameters

    @cached_property
    def nearest(self) -> Array:
        """The weight with each value rounded to the nearest integer and dequantized: float32."""
        return self.limits.fake_quantize(self.rows, self.parameters, self.scheme, self._axis)

    def integers(self, rounded: Array) -> Array:
        """The integers of a weight on the grid: int8."""
        return self.limits.quantize(rounded, self.parameters, self.scheme, self._axis)

    @property
    def _axis(self) -> int | None:
        return 0 if self.parameters.scale.ndim else None


def weight_grid(op: QuantizableOp, choice: OpConfig, recipe: Recipe, *, trained: bool = False) -> WeightGrid:
    """The grid of an int8 op's weight.

    Args:
        op: The op.
        choice: How it is quantized.
        recipe: The candidate's recipe.
        trained: Whether weights were trained on a grid that follows their largest magnitude.
    """
    assert choice.weight is not None
    assert choice.calibration is not None
    # Percentiles and KL divergence speak of distributions; a weight is known value by value.
    mse = choice.calibration.method is CalibrationMethod.MSE and not trained
    order = summed_columns(op, np.arange(op.rows.size).reshape(op.rows.shape)) if recipe.bound_pairs else None
    limits = weight_limits(order, choice.weight, recipe)
    parameters = limits.parameters(
        op.rows, choice.weight, 0, CalibrationMethod.MSE if mse else CalibrationMethod.MINMAX
    )
    return WeightGrid(rows=op.rows, scheme=choice.weight, limits=limits, parameters=parameters)


def summed_columns(op: QuantizableOp, rows: Array) -> Array | None:
    """Rows of a weight in the order in which a kernel sums them up, shape (summed, outputs).

    None for a depthwise convolution, whose products are summed in 32 bits.
    """
    if op.depthwise:
        return None
    if op.convolves:
        # Kernels read pictures channels last: neighbours are channels of one position.
        return rows.transpose(*range(2, rows.ndim), 1, 0).reshape(-1, rows.shape[0])
    if rows.ndim > 2:  # a stack of matrices as it is read: (..., inputs, outputs) or transposed
        rows = np.swapaxes(rows, -1, -2) if op.transposed else rows
        return np.moveaxis(rows, -2, 0).reshape(rows.shape[-2], -1)
    return np.asarray(rows.T)
