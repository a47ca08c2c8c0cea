"""The grids of a candidate, for training that rounds as its kernels do."""

from __future__ import annotations

from autotune.adapter import FakeQuantizedOp, FakeQuantizedWeight
from autotune.adapters.pytorch.grids import Grids
from autotune.adapters.pytorch.model import PytorchModel
from autotune.adapters.pytorch.ops import argument_names, nodes_by_name
from autotune.adapters.pytorch.recipes import prepare_channels
from autotune.algorithms.grids import RoundedWeight, WeightGrid, activation_grid
from autotune.calibration import CalibrationStatistics
from autotune.config import Precision, QuantizationConfig


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
        names = zip(op.activations, argument_names(nodes[op.node], op.activations), strict=True)
        read = {place: name for place, name in names if name in rounded}
        weight = grids.static.get(op.name)
        found[op.name] = FakeQuantizedOp(
            inputs={place: activation_grid(grids.activations[name], scheme) for place, name in read.items()},
            weight=None if weight is None else _weight(weight),
        )
    return found


def _weight(grid: WeightGrid) -> FakeQuantizedWeight:
    return FakeQuantizedWeight(position=1, values=grid.values, rounded=RoundedWeight(grid=grid))
