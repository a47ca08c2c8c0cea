"""Ops that calibration shows to be beyond integers: around masks with infinities, and tensors that no data reached."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnxruntime.choices.ops import quantizable_ops
from autotune.calibration import CalibrationStatistics
from autotune.config import Precision
from autotune.notes import listed
from autotune.space import FP32_SPACE, OpSpace, TuningSpace

_RANGED = frozenset({Precision.INT8, Precision.INT8_DYNAMIC, Precision.FP16})
"""Precisions that end before infinity, or need a range of what the op reads: one with infinity in it has no steps."""

_CALIBRATED = frozenset({Precision.INT8, Precision.FP16})
"""Precisions for which calibration says whether values fit."""


def bounded_space(
    space: TuningSpace, graph: Graph, statistics: CalibrationStatistics
) -> tuple[TuningSpace, Sequence[str]]:
    """The space without ranges for tensors that have none.

    Args:
        space: What the model's ops may become.
        graph: The prepared model's.
        statistics: Of its calibration.

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
            kept = _without(op_space, _RANGED)
            infinite.extend([op.name] if kept != op_space else [])
        elif op.static and any(name not in statistics.tensors for name in around):
            kept = _without(op_space, _CALIBRATED)
            unseen.extend([op.name] if kept != op_space else [])
        ops.append(kept)
    notes = []
    if infinite:
        notes.append(f"{listed(infinite)}: no integers, since values around it are infinite or NaN, as in masks")
    if unseen:
        notes.append(f"{listed(unseen)}: no range from calibration, since its tensors were empty in all batches")
    return dataclasses.replace(space, ops=tuple(ops)), notes


def _without(op: OpSpace, ruled_out: frozenset[Precision]) -> OpSpace:
    left = tuple(within for within in op.precisions if within.precision not in ruled_out)
    return dataclasses.replace(op, precisions=left or (FP32_SPACE,))
