"""The grids of a candidate, for training that rounds as its kernels do."""

from __future__ import annotations

from autotune.adapter import FakeQuantizedOp, FakeQuantizedWeight
from autotune.adapters.openvino.model import OpenVinoModel
from autotune.adapters.openvino.ops import QuantizableOp, quantizable_ops
from autotune.adapters.openvino.quantize import ActivationGrids
from autotune.adapters.openvino.weights import weight_grid
from autotune.algorithms.grids import RoundedWeight, activation_grid
from autotune.calibration import CalibrationStatistics
from autotune.config import Precision, QuantizationConfig


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
            inputs={place: activation_grid(*activations.chosen(op, place)) for place in op.activations},
            weight=None if op.weight is None else _weight(op, config),
        )
        for op in chosen
    }


def _weight(op: QuantizableOp, config: QuantizationConfig) -> FakeQuantizedWeight:
    grid = weight_grid(op, config[op.name], config.recipe, trained=True)
    return FakeQuantizedWeight(position=1, values=grid.values, rounded=RoundedWeight(grid=grid))
