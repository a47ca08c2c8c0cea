"""The choices of each op in MXNet on this host."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from autotune.adapters.mxnet.graph import POOLING, QuantizableOp
from autotune.calibration import CalibrationStatistics
from autotune.config import (
    CALIBRATION_ALGORITHMS,
    BiasCorrection,
    Granularity,
    Precision,
    QuantizedType,
    TensorScheme,
    WeightRounding,
)
from autotune.host import Host
from autotune.notes import lines_on_ranges, listed
from autotune.space import FP32_SPACE, OpSpace, PrecisionSpace, RecipeSpace, TuningSpace

ACTIVATIONS = TensorScheme(dtype=QuantizedType.S8, symmetric=True)
"""The type of an activation that has negative values; one that has none becomes u8, by MXNet's own rule."""

UNSIGNED = TensorScheme(dtype=QuantizedType.U8)

_PER_CHANNEL = TensorScheme(dtype=QuantizedType.S8, symmetric=True, granularity=Granularity.PER_CHANNEL)


def tuning_space(ops: Sequence[QuantizableOp], host: Host) -> TuningSpace:
    """The space of a model.

    MXNet leaves little to choose: it takes u8 for what has no negative values and s8 for the rest, without a zero
    point, and has one granularity of weights for all ops of a model, which is per channel here.

    Args:
        ops: The ops that can be int8.
        host: The machine that will run it.
    """
    if not ops:
        return TuningSpace(ops=(), recipe=RecipeSpace())
    int8 = PrecisionSpace(
        precision=Precision.INT8,
        activations=(ACTIVATIONS,),
        weights=(_PER_CHANNEL,),
        algorithms=CALIBRATION_ALGORITHMS,
    )
    return TuningSpace(
        ops=tuple(
            OpSpace(
                name=op.name,
                op_type=op.kind,
                precisions=(dataclasses.replace(int8, weights=()) if op.kind == POOLING else int8, FP32_SPACE),
            )
            for op in ops
        ),
        recipe=RecipeSpace(
            reduce_range=(False, True) if host.saturates_u8s8 else (False,),
            equalization=(True, False),
            # All of MobileNetV2 in int8 loses 0.3 % with full correction, 1.7 % with the fast one.
            bias_correction=(BiasCorrection.FULL, BiasCorrection.FAST, BiasCorrection.NONE),
            weight_rounding=(WeightRounding.NEAREST, WeightRounding.GPTQ),
        ),
    )


def without_integers(space: TuningSpace, names: Sequence[str]) -> TuningSpace:
    """The space in which the named ops stay in fp32."""
    kept = tuple(op.without({Precision.INT8}) if op.name in names else op for op in space.ops)
    return dataclasses.replace(space, ops=kept)


def has_negatives(name: str, statistics: CalibrationStatistics) -> bool:
    """Whether calibration saw negative values of a tensor, which MXNet makes s8 then."""
    found = statistics.tensors.get(name)
    return found is not None and found.minimum < 0


def is_clipped(op: QuantizableOp, statistics: CalibrationStatistics) -> bool:
    """Whether an op in int8 would add u8 to what has negative values: MXNet writes the sum as u8, cut at zero."""
    return op.summed is not None and not has_negatives(op.summed, statistics) and has_negatives(op.output, statistics)


def beyond_integers(ops: Sequence[QuantizableOp], statistics: CalibrationStatistics) -> tuple[list[str], list[str]]:
    """Ops whose data rule integers out, and a line for each reason.

    These are infinities, tensors that no data reached, and sums that MXNet would cut at zero.
    """
    infinite, unseen, clipped = [], [], []
    for op in ops:
        if not statistics.unbounded.isdisjoint(op.tensors):
            infinite.append(op.name)
        elif any(name not in statistics.tensors for name in op.tensors):
            unseen.append(op.name)
        elif is_clipped(op, statistics):
            clipped.append(op.name)
    lines = lines_on_ranges(infinite, unseen)
    if clipped:
        lines.append(f"{listed(clipped)}: no int8, since MXNet would cut the sum that is fused into them at zero")
    return [*infinite, *unseen, *clipped], lines
