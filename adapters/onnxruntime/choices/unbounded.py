"""Ops that calibration shows to be beyond integers: around masks with infinities, and tensors that no data reached."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnxruntime.choices.ops import quantizable_ops
from autotune.calibration import CalibrationStatistics
from autotune.config import Precision
from autotune.notes import lines_on_ranges
from autotune.space import TuningSpace

_RANGED = frozenset({Precision.INT8, Precision.INT8_DYNAMIC, Precision.FP16})
"""Precisions that end before infinity, or need a range of what the op reads: one with infinity in it has no steps."""

_CALIBRATED = frozenset({Precision.INT8, Precision.FP16})
"""Precisions for which calibration says whether values fit."""


def bounded_space(
    space: TuningSpace, graph: Graph, statistics: CalibrationStatistics
) -> tuple[TuningSpace, Sequence[str]]:
    """The space without ranges for tensors that have none.

    Args:
        space: The choices of the model's ops.
        graph: The prepared model's.
        statistics: The model's calibration statistics.

    Returns:
        The space, and a line on each kind of op that stays as it is, and why.
    """
    infinite: list[str] = []
    unseen: list[str] = []
    by_name = {op.name: op for op in quantizable_ops(graph)[0]}
    ops = []
    for op_space in space.ops:
        op = by_name[op_space.name]
        around = (*op.activations, op.output)
        kept = op_space
        if not statistics.unbounded.isdisjoint(around):
            kept = op_space.without(_RANGED)
            infinite.extend([op.name] if kept != op_space else [])
        elif op.static and any(name not in statistics.tensors for name in around):
            kept = op_space.without(_CALIBRATED)
            unseen.extend([op.name] if kept != op_space else [])
        ops.append(kept)
    return dataclasses.replace(space, ops=tuple(ops)), lines_on_ranges(infinite, unseen)
