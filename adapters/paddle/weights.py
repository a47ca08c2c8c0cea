"""Constant weights as integers.

Paddle stores integers with a threshold per output channel, turns them into real values when it makes a predictor, and
chooses the scale anew: the largest magnitude of each channel becomes 127. The integers come out as they were where
each channel holds one of 127, which is seen to here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autotune.adapter import Array
from autotune.algorithms import AffineParameters, WeightLimits
from autotune.config import CalibrationMethod, OpConfig, TensorScheme

LARGEST = 127


@dataclass(frozen=True, kw_only=True)
class WeightGrid:
    """The values that a weight may take.

    Attributes:
        rows: The weight, shape (outputs, inputs / groups, height, width).
        scheme: How it is quantized: symmetric, per channel.
        parameters: Scales of shape (outputs,), and zero points, all zero.
    """

    rows: Array
    scheme: TensorScheme
    parameters: AffineParameters

    @cached_property
    def nearest(self) -> Array:
        """The weight with each value rounded to the nearest integer and dequantized: float32."""
        return WeightLimits().fake_quantize(self.rows, self.parameters, self.scheme, 0)

    def integers(self, rounded: Array) -> Array:
        """The integers of a weight on the grid, one of each channel's largest with a magnitude of 127: int8."""
        found = WeightLimits().quantize(rounded, self.parameters, self.scheme, 0)
        flat = found.reshape(len(found), -1)
        channels = np.arange(len(flat))
        places = np.abs(flat.astype(np.int16)).argmax(axis=1)
        largest = flat[channels, places]
        flat[channels, places] = np.where(largest == 0, 0, np.where(largest < 0, -LARGEST, LARGEST))
        return flat.reshape(found.shape)


def weight_grid(weight: Array, choice: OpConfig, *, trained: bool = False) -> WeightGrid:
    """The grid of an int8 op's weight.

    Args:
        weight: The weight.
        choice: How it is quantized.
        trained: Whether weights were trained on a grid that follows their largest magnitude.
    """
    assert choice.weight is not None
    assert choice.calibration is not None
    # Percentiles and KL divergence speak of distributions; a weight is known value by value.
    mse = choice.calibration.method is CalibrationMethod.MSE and not trained
    method = CalibrationMethod.MSE if mse else CalibrationMethod.MINMAX
    return WeightGrid(
        rows=weight, scheme=choice.weight, parameters=WeightLimits().parameters(weight, choice.weight, 0, method)
    )


def summed_columns(integers: Array) -> Array:
    """Integers of a weight in the order in which a kernel sums them up, shape (summed, outputs)."""
    # Kernels read pictures channels last: neighbours are channels of one position.
    return integers.transpose(2, 3, 1, 0).reshape(-1, len(integers))
