"""The choices of each op in OpenVINO on this host."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from autotune.adapters.openvino.ops import QuantizableOp, tensor_name
from autotune.calibration import CalibrationStatistics
from autotune.config import (
    CALIBRATION_ALGORITHMS,
    BiasCorrection,
    Granularity,
    Precision,
    QuantizedType,
    SmoothQuant,
    TensorScheme,
    WeightRounding,
)
from autotune.host import Host
from autotune.notes import lines_on_ranges
from autotune.space import FP32_SPACE, OpSpace, PrecisionSpace, RecipeSpace, TuningSpace

_ACTIVATIONS = (
    TensorScheme(dtype=QuantizedType.U8),
    # OpenVINO turns the other schemes into one of these two: the range says which integers are used.
    TensorScheme(dtype=QuantizedType.S8, symmetric=True),
)

_PER_TENSOR = TensorScheme(dtype=QuantizedType.S8, symmetric=True)
_PER_CHANNEL = dataclasses.replace(_PER_TENSOR, granularity=Granularity.PER_CHANNEL)


_HALF = {"bf16": Precision.BF16, "f16": Precision.FP16}


def tuning_space(
    ops: Sequence[QuantizableOp], host: Host, half_types: Sequence[str] = (), *, smoothing: bool = False
) -> TuningSpace:
    """The space of a prepared model.

    Args:
        ops: The ops that can be int8.
        host: The machine that will run it.
        half_types: Types besides fp32 that OpenVINO computes in there, as it calls them. One model has one of them, so
            that the first is offered: with bf16 in the processor's matrix unit, ResNet-20 ran at 3.5 times fp32's
            speed, with fp16 beside it at 0.6.
        smoothing: Whether SmoothQuant has something to act on.
    """
    half = tuple(PrecisionSpace(precision=_HALF[name]) for name in half_types[:1])
    weights = any(op.has_channels for op in ops)
    convolutions = any(op.convolves for op in ops)
    return TuningSpace(
        ops=tuple(_op_space(op, half) for op in ops),
        recipe=RecipeSpace(
            reduce_range=(False, True) if host.saturates_u8s8 else (False,),
            bound_pairs=(True, False) if host.saturates_u8s8 else (False,),
            equalization=(True, False) if convolutions else (False,),
            bias_correction=(BiasCorrection.FAST, BiasCorrection.FULL, BiasCorrection.NONE)
            if convolutions
            else (BiasCorrection.NONE,),
            weight_rounding=(WeightRounding.NEAREST, WeightRounding.GPTQ) if weights else (WeightRounding.NEAREST,),
            smooth_quant=tuple(SmoothQuant) if smoothing else (SmoothQuant.NONE,),
        ),
    )


def _op_space(op: QuantizableOp, half: tuple[PrecisionSpace, ...]) -> OpSpace:
    weights: tuple[TensorScheme, ...] = ()
    if op.weight is not None:
        weights = (_PER_CHANNEL, _PER_TENSOR) if op.has_channels else (_PER_TENSOR,)
    int8 = PrecisionSpace(
        precision=Precision.INT8, activations=_ACTIVATIONS, weights=weights, algorithms=CALIBRATION_ALGORITHMS
    )
    return OpSpace(name=op.name, op_type=op.kind, precisions=(int8, *half, FP32_SPACE))


def without(space: TuningSpace, names: Sequence[str], precision: Precision) -> TuningSpace:
    """The space in which the named ops cannot have a precision."""
    return dataclasses.replace(
        space, ops=tuple(op.without({precision}) if op.name in names else op for op in space.ops)
    )


def beyond_integers(ops: Sequence[QuantizableOp], statistics: CalibrationStatistics) -> tuple[list[str], list[str]]:
    """Ops whose data rule integers out, and a line for each reason: infinities, and tensors that no data reached."""
    infinite, unseen = [], []
    for op in ops:
        around = [tensor_name(op.node.input_value(place)) for place in op.activations]
        if not statistics.unbounded.isdisjoint(around):
            infinite.append(op.name)
        elif any(name not in statistics.tensors for name in around):
            unseen.append(op.name)
    return [*infinite, *unseen], lines_on_ranges(infinite, unseen)
