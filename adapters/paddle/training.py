"""Training on the grids of a candidate: a copy of the user's layer whose convolutions round as the int8 kernels do.

Gradients pass rounding as if it were not there, the straight-through estimator of Bengio et al. (arXiv 1308.3432), and
stop where a tensor is cut off at the end of its range.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autotune.adapter import ActivationGrid, FakeQuantizedOp, FakeQuantizedWeight
from autotune.adapters.paddle.framework import paddle
from autotune.adapters.paddle.model import PaddleModel
from autotune.adapters.paddle.ops import quantizable_ops
from autotune.adapters.paddle.scales import Scales
from autotune.adapters.paddle.tensors import Tensors
from autotune.adapters.paddle.weights import largest_activations, weight_grid
from autotune.algorithms.grids import RoundedWeight, activation_grid
from autotune.calibration import CalibrationStatistics
from autotune.config import Precision, QuantizationConfig
from autotune.notes import listed


def grids(
    model: PaddleModel, config: QuantizationConfig, statistics: CalibrationStatistics
) -> dict[str, FakeQuantizedOp]:
    """By int8 op: what it reads.

    Raises:
        ApplyError: A tensor has no statistics.
    """
    program = model.program
    ops = quantizable_ops(program, model.constants, model.names)
    chosen = [op for op in ops if config[op.name].precision is Precision.INT8]
    weights = {op.name: (op, weight_grid(model.constants[op.weight], config[op.name], trained=True)) for op in chosen}
    largest = largest_activations(weights, config.recipe)
    scales = Scales(Tensors(program, model.constants), statistics, {}, largest=largest)
    for op in chosen:
        scales.choose(op, config[op.name])
    return {
        op.name: FakeQuantizedOp(
            inputs={0: activation_grid(scales.found[op.source].parameters, scales.found[op.source].scheme)},
            weight=FakeQuantizedWeight(position=1, values=grid.values, rounded=RoundedWeight(grid=grid)),
        )
        for op, grid in weights.values()
    }


def fake_quantized(source: Any, ops: Mapping[str, FakeQuantizedOp]) -> tuple[Any, Sequence[str]]:
    """A copy of a layer in training mode that rounds, and what a user should know.

    A weight is rounded before the batch normalization behind it is folded: scales are per output channel, so that the
    integers are the same.

    Args:
        source: The user's layer.
        ops: By name of an op: how it is quantized.
    """
    model = copy.deepcopy(source)
    parts = dict(model.named_sublayers(include_self=True))
    missing = []
    for name, op in ops.items():
        part = parts.get(name)
        if not isinstance(part, paddle.nn.Conv2D) or op.weight is None:
            missing.append(name)
            continue
        part.forward = types.MethodType(_Rounding(op.inputs.get(0), op.weight), part)
    model.train()
    for part in parts.values():
        if hasattr(part, "_use_global_stats"):  # ranges come from calibration, which saw these statistics
            part._use_global_stats = True
            part.training = False
    notes = []
    if missing:
        notes.append(
            f"Training does not see the rounding of {listed(missing)}, which are no paddle.nn.Conv2D of the layer"
        )
    return model, notes


class _Rounding:
    """The ``forward`` of a convolution that rounds.

    Args:
        grid: The values of what it reads; None where that is not rounded.
        weight: How its weight is rounded.
    """

    def __init__(self, grid: ActivationGrid | None, weight: FakeQuantizedWeight) -> None:
        self._grid = grid
        self._weight = weight

    def __call__(self, layer: Any, x: Any) -> Any:
        """The convolution of a rounded tensor with a rounded weight."""
        weight = layer.weight
        rounded = paddle.to_tensor(np.asarray(self._weight.rounded(weight.numpy()), np.float32))
        weight = weight + (rounded - weight).detach()
        read = x if self._grid is None else _rounded(x, self._grid)
        return paddle.nn.functional.conv2d(
            read,
            weight,
            bias=layer.bias,
            padding=layer._padding,
            stride=layer._stride,
            dilation=layer._dilation,
            groups=layer._groups,
            data_format=layer._data_format,
        )


def _rounded(x: Any, grid: ActivationGrid) -> Any:
    """A tensor on a grid; gradients stop where it is cut off."""
    low, high = ((end - grid.zero_point) * grid.scale for end in (grid.smallest, grid.largest))
    kept = paddle.clip(x, low, high)
    return kept + (paddle.round(kept / grid.scale) * grid.scale - kept).detach()
