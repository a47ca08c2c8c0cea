"""The values that weights and activations of a candidate may take, for quantizing them and for training on them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from autotune.adapter import ActivationGrid, Array
from autotune.algorithms.affine import AffineParameters, integer_range
from autotune.algorithms.saturation import WeightLimits
from autotune.config import CalibrationMethod, OpConfig, TensorScheme


@dataclass(frozen=True, kw_only=True)
class WeightGrid:
    """The values that a weight may take.

    Attributes:
        values: The weight, its output channels along the first axis.
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
        """The weight with each value rounded to the nearest integer and dequantized: float32."""
        return self.limits.fake_quantize(self.values, self.parameters, self.scheme, scale_axis(self.parameters))

    def integers(self, rounded: Array) -> Array:
        """The integers of a weight on the grid: int8."""
        return self.limits.quantize(rounded, self.parameters, self.scheme, scale_axis(self.parameters))


def grid_of(values: Array, choice: OpConfig, limits: WeightLimits, *, trained: bool = False) -> WeightGrid:
    """The grid of an op's weight.

    Args:
        values: The weight, its output channels along the first axis.
        choice: How the op is quantized.
        limits: The integers that are allowed.
        trained: Whether weights were trained on a grid that follows their largest magnitude.
    """
    assert choice.weight is not None
    # Percentiles and KL divergence speak of distributions; a weight is known value by value.
    mse = choice.calibration is not None and choice.calibration.method is CalibrationMethod.MSE and not trained
    method = CalibrationMethod.MSE if mse else CalibrationMethod.MINMAX
    parameters = limits.parameters(values, choice.weight, 0, method)
    return WeightGrid(values=values, scheme=choice.weight, limits=limits, parameters=parameters)


@dataclass(frozen=True, kw_only=True)
class RoundedWeight:
    """Rounds a weight that is being trained as a grid does, with scales that follow the weight.

    Attributes:
        grid: Scheme and limits of the op's weight.
    """

    grid: WeightGrid

    def __call__(self, weight: Array) -> Array:
        """The values that the integers of a weight stand for: float32."""
        limits, scheme = self.grid.limits, self.grid.scheme
        parameters = limits.parameters(weight, scheme, 0, CalibrationMethod.MINMAX)
        return limits.fake_quantize(weight, parameters, scheme, scale_axis(parameters))


def activation_grid(parameters: AffineParameters, scheme: TensorScheme) -> ActivationGrid:
    """The values of a tensor for training, from its scale and zero point, both of shape ()."""
    smallest, largest = integer_range(scheme)
    return ActivationGrid(
        scale=float(parameters.scale), zero_point=int(parameters.zero_point), smallest=smallest, largest=largest
    )


def scale_axis(parameters: AffineParameters) -> int | None:
    """The axis that scales of a weight lie along; None for one scale."""
    return 0 if parameters.scale.ndim else None
