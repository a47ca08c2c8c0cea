"""The grids of a candidate, for training that rounds as its kernels do."""

from __future__ import annotations

from dataclasses import dataclass

from autotune.adapter import ActivationGrid, Array, FakeQuantizedOp, FakeQuantizedWeight
from autotune.adapters.pytorch.grids import Grids
from autotune.adapters.pytorch.model import PytorchModel
from autotune.adapters.pytorch.ops import argument_names, nodes_by_name
from autotune.adapters.pytorch.recipes import prepare_channels
from autotune.adapters.pytorch.weights import WeightGrid
from autotune.algorithms import AffineParameters
from autotune.algorithms.affine import integer_range
from autotune.calibration import CalibrationStatistics
from autotune.config import CalibrationMethod, Precision, QuantizationConfig, TensorScheme


@dataclass(frozen=True, kw_only=True)
class RoundedChannels:
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
    model: PytorchModel, config: QuantizationConfig, statistics: CalibrationStatistics
) -> dict[str, FakeQuantizedOp]:
    """By static int8 op: what it reads. No op rounds its output; the int8 ops that read it do.

    Raises:
        ApplyError: A tensor has no statistics.
    """
    prepared = prepare_channels(model, config, statistics)
    nodes = nodes_by_name(prepared.graph)
    chosen = [op for op in model.ops if config[op.name].precision is Precision.INT8]
    grids = Grids(model, prepared, config)
    for op in chosen:
        grids.choose(op)
    found = {}
    for op in chosen:
        scheme = config[op.name].activation
        assert scheme is not None
        rounded = grids.quantized_reads(op)
        names = dict(zip(op.activations, argument_names(nodes[op.node], op.activations), strict=True))
        weight = grids.static.get(op.name)
        found[op.name] = FakeQuantizedOp(
            inputs={place: _grid(grids.activations[name], scheme) for place, name in names.items() if name in rounded},
            weight=None if weight is None else _weight(weight),
        )
    return found


def _weight(grid: WeightGrid) -> FakeQuantizedWeight:
    return FakeQuantizedWeight(position=1, values=grid.values, rounded=RoundedChannels(grid=grid))


def _grid(parameters: AffineParameters, scheme: TensorScheme) -> ActivationGrid:
    smallest, largest = integer_range(scheme)
    return ActivationGrid(
        scale=float(parameters.scale), zero_point=int(parameters.zero_point), smallest=smallest, largest=largest
    )
