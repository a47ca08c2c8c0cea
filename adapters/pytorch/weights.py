"""Constant weights as integers: their scales, and what keeps two products within 16 bits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autotune.adapter import Array
from autotune.adapters.pytorch.ops import QuantizableOp
from autotune.algorithms import AffineParameters, WeightLimits
from autotune.algorithms.saturation import weight_limits
from autotune.config import CalibrationMethod, OpConfig, Recipe, TensorScheme


@dataclass(frozen=True, kw_only=True)
class WeightGrid:
    """The values that a weight may take.

    Attributes:
        values: The weight, shape (outputs, inputs / groups, kernel...) or (outputs, inputs).
        scheme: How it is quantized.
        limits: The integers that are allowed.
        parameters: Scales of shape () or (outputs,), and zero points.
    """

    values: Array
    scheme: TensorScheme
    limits: WeightLimits
    parameters: AffineParameters

    @cached_property
    def nearest(self) -> Array:
        """The weight with each value rounded to the nearest integer of its grid, as float32."""
        return self.limits.fake_quantize(self.values, self.parameters, self.scheme, self._axis)

    def integers(self, rounded: Array) -> Array:
        """The integers of a weight on the grid: int8."""
        return self.limits.quantize(rounded, self.parameters, self.scheme, self._axis)

    @property
    def scales(self) -> Array:
        """A scale for each output channel, shape (outputs,): Inductor's kernels ask for one each."""
        return np.broadcast_to(self.parameters.scale, (len(self.values),)).astype(np.float32)

    @property
    def _axis(self) -> int | None:
        return 0 if self.parameters.scale.ndim else None


def weight_grid(
    op: QuantizableOp, values: Array, choice: OpConfig, recipe: Recipe, *, trained: bool = False
) -> WeightGrid:
    """The grid of an int8 op's weight.

    Args:
        op: The op.
        values: Its weight.
        choice: The op's choice in the config.
        recipe: The candidate's recipe.
        trained: Whether weights were trained on a grid that follows their largest magnitude.
    """
    assert choice.weight is not None
    # Percentiles and KL divergence speak of distributions; a weight is known value by value.
    mse = choice.calibration is not None and choice.calibration.method is CalibrationMethod.MSE and not trained
    order = summed_columns(op, np.arange(values.size).reshape(values.shape)) if recipe.bound_pairs else None
    limits = weight_limits(order, choice.weight, recipe)
    method = CalibrationMethod.MSE if mse else CalibrationMethod.MINMAX
    parameters = limits.parameters(values, choice.weight, 0, method)
    return WeightGrid(values=values, scheme=choice.weight, limits=limits, parameters=parameters)


def summed_columns(op: QuantizableOp, values: Array) -> Array | None:
    """The weight in the order in which a kernel sums it up, shape (summed, outputs).

    None for a depthwise convolution, whose products are summed in 32 bits.
    """
    if not op.convolves:
        return np.asarray(values.T)
    if values.shape[1] == 1:
        return None
    # Kernels read pictures channels last: neighbours are channels of one position.
    return values.transpose(*range(2, values.ndim), 1, 0).reshape(-1, values.shape[0])
