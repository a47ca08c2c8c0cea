"""The grids of a candidate, for training that rounds as its kernels do."""

from __future__ import annotations

from dataclasses import dataclass

from autotune.adapter import ActivationGrid, Array, FakeQuantizedOp, FakeQuantizedWeight
from autotune.adapters.openvino.model import OpenVinoModel
from autotune.adapters.openvino.ops import QuantizableOp, quantizable_ops
from autotune.adapters.openvino.quantize import ActivationGrids
from autotune.adapters.openvino.weights import WeightGrid, weight_grid
from autotune.algorithms.affine import AffineParameters, integer_range
from autotune.calibration import CalibrationStatistics
from autotune.config import CalibrationMethod, Precision, QuantizationConfig, TensorScheme


@dataclass(frozen=True, kw_only=True)
class RoundedRows:
    """Rounds a weight as the grid of an op does, with scales that follow the weight.

    Attributes:
        grid: Scheme and limits of the op's weight.
    """

    grid: WeightGrid

    def __call__(self, weight: Array) -> Array:
        """The values that the integers of a weight stand for: float32."""
        grid = self.grid
        parameters = grid.limits.parameters(weight, grid.scheme, 0, CalibrationMethod.MINMAX)
        axis = 0 if parameters.scale.ndim else None
        return grid.limits.fake_quantize(weight, parameters, grid.scheme, axis)


def fake_quantization(
    model: OpenVinoModel, config: QuantizationConfig, statistics: CalibrationStatistics
) -> dict[str, FakeQuantizedOp]:
    """By int8 op: what it reads. Outputs are not quantized by themselves here, but where an int8 op reads them.

    Raises:
        ApplyError: A tensor has no statistics.
    """
    chosen = [op for op in quantizable_ops(model.graph)[0] if config[op.name].precision is Precision.INT8]
    activations = ActivationGrids(statistics, {})
    for op in chosen:
        activations.choose(op, config[op.name])
    return {
        op.name: FakeQuantizedOp(
            inputs={place: _grid(*activations.chosen(op, place)) for place in op.activations},
            weight=None if op.weight is None else _weight(op, config),
        )
        for op in chosen
    }


def _weight(op: QuantizableOp, config: QuantizationConfig) -> FakeQuantizedWeight:
    grid = weight_grid(op, config[op.name], config.recipe, trained=True)
    return FakeQuantizedWeight(position=1, values=grid.rows, rounded=RoundedRows(grid=grid))


def _grid(parameters: AffineParameters, scheme: TensorScheme) -> ActivationGrid:
    smallest, largest = integer_range(scheme)
    return ActivationGrid(
        scale=float(parameters.scale), zero_point=int(parameters.zero_point), smallest=smallest, largest=largest
    )
