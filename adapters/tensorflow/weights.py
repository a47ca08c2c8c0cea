"""Constant weights as integers: their scales, and the values that they may take."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from autotune.adapter import Array
from autotune.adapters.tensorflow.graph import Graph
from autotune.adapters.tensorflow.ops import QuantizableOp
from autotune.algorithms import AffineParameters, WeightLimits
from autotune.config import CalibrationMethod, OpConfig, Recipe, TensorScheme


@dataclass(frozen=True, kw_only=True)
class WeightGrid:
    """The values that a weight may take.

    Attributes:
        rows: The weight, in the shape of :meth:`.ops.QuantizableOp.rows`.
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


def weight_grid(
    graph: Graph, op: QuantizableOp, choice: OpConfig, recipe: Recipe, *, trained: bool = False
) -> WeightGrid:
    """The grid of a static int8 op's weight. XNNPACK's kernels add products in 32 bits, so that none can saturate.

    Args:
        graph: The graph that holds the weight.
        op: The op.
        choice: How it is quantized.
        recipe: The candidate's recipe.
        trained: Whether weights were trained on a grid that follows their largest magnitude.
    """
    assert op.weight is not None
    assert choice.weight is not None
    assert choice.calibration is not None
    # Percentiles and KL divergence speak of distributions; a weight is known value by value.
    mse = choice.calibration.method is CalibrationMethod.MSE and not trained
    weight = graph.constant(op.weight)
    assert weight is not None
    rows = op.rows(weight)
    limits = WeightLimits(reduce_range=recipe.reduce_range)
    parameters = limits.parameters(rows, choice.weight, 0, CalibrationMethod.MSE if mse else CalibrationMethod.MINMAX)
    return WeightGrid(rows=rows, scheme=choice.weight, limits=limits, parameters=parameters)
