"""What each op may become in OpenVINO on this host."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from autotune.adapters.openvino.ops import CONVOLUTIONS, QuantizableOp, listed, tensor_name
from autotune.calibration import CalibrationStatistics
from autotune.config import (
    KL,
    LEAST_ERROR,
    MINMAX,
    MSE,
    BiasCorrection,
    CalibrationAlgorithm,
    CalibrationMethod,
    Granularity,
    Precision,
    QuantizedType,
    TensorScheme,
)
from autotune.host import Host
from autotune.space import FP32_SPACE, OpSpace, PrecisionSpace, RecipeSpace, TuningSpace

_ALGORITHMS = (
    LEAST_ERROR,
    KL,
    MINMAX,
    *(CalibrationAlgorithm(CalibrationMethod.PERCENTILE, percent) for percent in (99.999, 99.99, 99.9)),
    MSE,
)

_ACTIVATIONS = (
    TensorScheme(dtype=QuantizedType.U8),
    # Of the others, OpenVINO makes one of these two: it is the range that says which integers are used.
    TensorScheme(dtype=QuantizedType.S8, symmetric=True),
)

_PER_TENSOR = TensorScheme(dtype=QuantizedType.S8, symmetric=True)
_PER_CHANNEL = dataclasses.replace(_PER_TENSOR, granularity=Granularity.PER_CHANNEL)


def tuning_space(ops: Sequence[QuantizableOp], host: Host) -> TuningSpace:
    """The space of a prepared model.

    Args:
        ops: Those that can be int8.
        host: The machine that will run it.
    """
    convolutions = any(op.kind in CONVOLUTIONS for op in ops)
    return TuningSpace(
        ops=tuple(_op_space(op) for op in ops),
        recipe=RecipeSpace(
            reduce_range=(False, True) if host.saturates_u8s8 else (False,),
            bound_pairs=(True, False) if host.saturates_u8s8 else (False,),
            bias_correction=(BiasCorrection.FAST, BiasCorrection.NONE) if convolutions else (BiasCorrection.NONE,),
        ),
    )


def _op_space(op: QuantizableOp) -> OpSpace:
    weights: tuple[TensorScheme, ...] = ()
    if op.weight is not None:
        weights = (_PER_CHANNEL, _PER_TENSOR) if op.has_channels else (_PER_TENSOR,)
    int8 = PrecisionSpace(precision=Precision.INT8, activations=_ACTIVATIONS, weights=weights, algorithms=_ALGORITHMS)
    return OpSpace(name=op.name, op_type=op.kind, precisions=(int8, FP32_SPACE))


def without(space: TuningSpace, names: Sequence[str]) -> TuningSpace:
    """The space in which the named ops stay fp32."""
    ruled_out = set(names)
    ops = (dataclasses.replace(op, precisions=(FP32_SPACE,)) if op.name in ruled_out else op for op in space.ops)
    return dataclasses.replace(space, ops=tuple(ops))


def beyond_integers(ops: Sequence[QuantizableOp], statistics: CalibrationStatistics) -> tuple[list[str], list[str]]:
    """Ops whose data rule integers out, and a line for each reason: infinities, and tensors that no data reached."""
    infinite, unseen = [], []
    for op in ops:
        around = [tensor_name(op.node.input_value(place)) for place in op.activations]
        if not statistics.unbounded.isdisjoint(around):
            infinite.append(op.name)
        elif any(name not in statistics.tensors for name in around):
            unseen.append(op.name)
    notes = []
    if infinite:
        notes.append(f"{listed(infinite)}: no integers, since values around it are infinite or NaN, as in masks")
    if unseen:
        notes.append(f"{listed(unseen)}: no range from calibration, since its tensors were empty in all batches")
    return [*infinite, *unseen], notes
