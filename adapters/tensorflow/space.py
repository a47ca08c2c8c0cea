"""The choices of each op in LiteRT on this host."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from autotune.adapters.tensorflow.ops import CONV, DENSE, DEPTHWISE, QuantizableOp
from autotune.adapters.tensorflow.unfuse import tensor_key
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
from autotune.notes import lines_on_ranges
from autotune.space import FP32_SPACE, OpSpace, PrecisionSpace, RecipeSpace, TuningSpace

_ACTIVATIONS = (
    TensorScheme(dtype=QuantizedType.S8),
    TensorScheme(dtype=QuantizedType.S8, symmetric=True),
)

_PER_TENSOR = TensorScheme(dtype=QuantizedType.S8, symmetric=True)
_PER_CHANNEL = dataclasses.replace(_PER_TENSOR, granularity=Granularity.PER_CHANNEL)
_WEIGHTS = (_PER_CHANNEL, _PER_TENSOR)

_DYNAMIC = frozenset({CONV, DENSE})
"""Kinds of ops with a kernel in XNNPACK that finds the range of what it reads in every call."""

_WEIGHT_ONLY = frozenset({CONV, DENSE, DEPTHWISE})


def offered(op: QuantizableOp) -> tuple[Precision, ...]:
    """The precisions of an op, the preferred one first."""
    if op.weight is None:
        return Precision.INT8, Precision.FP32
    found = [Precision.INT8]
    found += [Precision.INT8_DYNAMIC] if op.kind in _DYNAMIC else []
    found += [Precision.INT8_WEIGHT] if op.kind in _WEIGHT_ONLY else []
    return (*found, Precision.FP32)


def tuning_space(ops: Sequence[QuantizableOp]) -> TuningSpace:
    """The space of an fp32 model.

    XNNPACK adds products of 8 bits in 32, with and without VNNI, so that no op saturates and all 8 bits are used.
    """
    convolutions = any(op.convolves for op in ops)
    weights = any(op.weight is not None for op in ops)
    return TuningSpace(
        ops=tuple(_op_space(op) for op in ops),
        recipe=RecipeSpace(
            equalization=(True, False) if convolutions else (False,),
            bias_correction=(BiasCorrection.FAST, BiasCorrection.FULL, BiasCorrection.NONE)
            if weights
            else (BiasCorrection.NONE,),
            weight_rounding=(WeightRounding.NEAREST, WeightRounding.GPTQ) if weights else (WeightRounding.NEAREST,),
        ),
    )


def _op_space(op: QuantizableOp) -> OpSpace:
    weights = _WEIGHTS if op.weight is not None else ()
    spaces = {
        Precision.INT8: PrecisionSpace(
            precision=Precision.INT8, activations=_ACTIVATIONS, weights=weights, algorithms=CALIBRATION_ALGORITHMS
        ),
        Precision.INT8_DYNAMIC: PrecisionSpace(precision=Precision.INT8_DYNAMIC, weights=weights),
        Precision.INT8_WEIGHT: PrecisionSpace(precision=Precision.INT8_WEIGHT, weights=weights),
        Precision.FP32: FP32_SPACE,
    }
    return OpSpace(name=op.name, op_type=op.kind, precisions=tuple(spaces[each] for each in offered(op)))


def without(space: TuningSpace, names: Sequence[str], precision: Precision) -> TuningSpace:
    """The space in which the named ops cannot have a precision."""
    return dataclasses.replace(
        space, ops=tuple(op.without({precision}) if op.name in names else op for op in space.ops)
    )


def beyond_integers(ops: Sequence[QuantizableOp], statistics: CalibrationStatistics) -> tuple[list[str], list[str]]:
    """Ops whose data rule integers out, and a line for each reason: infinities, and tensors that no data reached."""
    infinite, unseen = [], []
    for op in ops:
        around = [tensor_key(place) for place in (*op.activations, *op.outputs)]
        if not statistics.unbounded.isdisjoint(around):
            infinite.append(op.name)
        elif any(key not in statistics.tensors for key in around):
            unseen.append(op.name)
    return [*infinite, *unseen], lines_on_ranges(infinite, unseen)
