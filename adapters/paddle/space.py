"""The choices of each op in Paddle on this host."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from autotune.adapters.paddle.ops import QuantizableOp
from autotune.adapters.paddle.scales import SIGNED, UNSIGNED
from autotune.adapters.paddle.tensors import Tensors
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
from autotune.notes import lines_on_ranges
from autotune.space import FP32_SPACE, OpSpace, PrecisionSpace, RecipeSpace, TuningSpace

_PER_CHANNEL = TensorScheme(dtype=QuantizedType.S8, symmetric=True, granularity=Granularity.PER_CHANNEL)


def tuning_space(ops: Sequence[QuantizableOp], tensors: Tensors, host: Host) -> TuningSpace:
    """The space of a prepared model.

    Paddle leaves little to choose: activations behind a Relu are u8, all others s8, both without a zero point, and
    weights have a scale per channel.

    Args:
        ops: The ops that can be int8; those whose sum would be clipped at zero stay in fp32.
        tensors: The tensors of its program.
        host: The machine that will run it.
    """
    if not ops:
        return TuningSpace(ops=(), recipe=RecipeSpace())
    return TuningSpace(
        ops=tuple(_op_space(op, unsigned=tensors.unsigned(op.source), clipped=is_clipped(op, tensors)) for op in ops),
        recipe=RecipeSpace(
            reduce_range=(False, True) if host.saturates_u8s8 else (False,),
            bound_pairs=(True, False) if host.saturates_u8s8 else (False,),
            equalization=(True, False),
            bias_correction=(BiasCorrection.FAST, BiasCorrection.FULL, BiasCorrection.NONE),
            weight_rounding=(WeightRounding.NEAREST, WeightRounding.GPTQ),
        ),
    )


def is_clipped(op: QuantizableOp, tensors: Tensors) -> bool:
    """Whether Paddle would write an op's sum in a type that has no negative values, which it has."""
    residual = tensors.residual(op)
    return residual is not None and residual.clipped


def _op_space(op: QuantizableOp, *, unsigned: bool, clipped: bool) -> OpSpace:
    if clipped:
        return OpSpace(name=op.name, op_type=op.kind, precisions=(FP32_SPACE,))
    int8 = PrecisionSpace(
        precision=Precision.INT8,
        activations=(UNSIGNED if unsigned else SIGNED,),
        weights=(_PER_CHANNEL,),
        algorithms=CALIBRATION_ALGORITHMS,
    )
    return OpSpace(name=op.name, op_type=op.kind, precisions=(int8, FP32_SPACE))


def without_integers(space: TuningSpace, names: Sequence[str]) -> TuningSpace:
    """The space in which the named ops stay in fp32."""
    kept = tuple(op.without({Precision.INT8}) if op.name in names else op for op in space.ops)
    return dataclasses.replace(space, ops=kept)


def beyond_integers(
    ops: Sequence[QuantizableOp], tensors: Tensors, statistics: CalibrationStatistics
) -> tuple[list[str], list[str]]:
    """Ops whose data rule integers out, and a line for each reason: infinities, and tensors that no data reached."""
    infinite, unseen = [], []
    for op in ops:
        around = tensors.read_or_summed(op)
        if not statistics.unbounded.isdisjoint(around):
            infinite.append(op.name)
        elif any(name not in statistics.tensors for name in around):
            unseen.append(op.name)
    return [*infinite, *unseen], lines_on_ranges(infinite, unseen)
