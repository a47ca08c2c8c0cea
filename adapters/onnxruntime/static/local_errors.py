"""How exact the tensors around each int8 op are, from calibration alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnxruntime.choices.ops import QuantizableOp
from autotune.adapters.onnxruntime.static.placement import Placement
from autotune.algorithms import AffineParameters, noise_to_signal, representable
from autotune.calibration import CalibrationStatistics


def errors_by_op(
    model: OnnxModel,
    placement: Placement,
    activations: Mapping[str, AffineParameters],
    statistics: CalibrationStatistics,
) -> dict[str, float]:
    """By int8 op: noise to signal of what it reads and writes, weights included, added up."""
    tensors = {name: _noise(name, placement, activations, statistics) for name in activations}
    graph = Graph(model.proto)
    found = {}
    for op in placement.ops:
        around = dict.fromkeys((*op.activations, op.output))
        found[op.name] = sum(tensors.get(name, 0.0) for name in around) + _weight_noise(op, graph, model)
    return found


def _noise(
    name: str, placement: Placement, activations: Mapping[str, AffineParameters], statistics: CalibrationStatistics
) -> float:
    observed = statistics.tensors.get(name)
    if observed is None:
        return 0.0
    return noise_to_signal(observed, *representable(activations[name], placement.groups[name].dtype))


def _weight_noise(op: QuantizableOp, graph: Graph, model: OnnxModel) -> float:
    """Noise-to-signal ratio of symmetric 8-bit weights with a scale for each output channel."""
    if op.weight is None:
        return 0.0
    weight = np.asarray(model.tensor(graph.initializers[op.weight]), np.float64)
    energy = float(np.square(weight).sum())
    rows = np.abs(np.moveaxis(weight, op.weight_axis or 0, 0)).reshape(weight.shape[op.weight_axis or 0], -1)
    steps = rows.max(axis=1, initial=0.0) / 127
    return float(np.square(steps).sum()) * rows.shape[1] / 12 / energy if energy > 0 else 0.0
