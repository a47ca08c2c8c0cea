"""The choices of each op in PyTorch on this host."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import fx

from autotune.adapters.pytorch.graph import constant
from autotune.adapters.pytorch.layers import PytorchGraph
from autotune.adapters.pytorch.ops import QuantizableOp, argument_names, nodes_by_name
from autotune.algorithms.graph import Connections
from autotune.algorithms.smoothquant import smoothing_sites
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

_ACTIVATIONS = (TensorScheme(dtype=QuantizedType.U8),)
"""Inductor's patterns match u8 activations with any zero point."""

_PER_TENSOR = TensorScheme(dtype=QuantizedType.S8, symmetric=True)
_PER_CHANNEL = dataclasses.replace(_PER_TENSOR, granularity=Granularity.PER_CHANNEL)
_WEIGHTS = (_PER_CHANNEL, _PER_TENSOR)

_SMALL_MATRIX = 1 << 19
"""An LSTM whose matrices are all smaller prefers fp32: calling the integer kernel at each step takes longer than it
saves. Measured with 256 units (262,144 values: 0.47 to 0.87 of fp32's speed) and 512 (1,048,576: 1.86 to 2.13)."""


def computes_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 itself; elsewhere PyTorch does so in fp32, with conversions around it."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def tuning_space(graph: fx.GraphModule, ops: Sequence[QuantizableOp], host: Host) -> TuningSpace:
    """The space of an fp32 model.

    Args:
        graph: The model.
        ops: Those that can be int8.
        host: The machine that will run it.
    """
    convolutions = any(op.convolves for op in ops)
    weights = any(op.weight is not None for op in ops)
    layers = PytorchGraph(graph, ops)
    smoothing = bool(smoothing_sites(Connections(layers.nodes, layers.outputs)))
    return TuningSpace(
        ops=tuple(_op_space(op, graph) for op in ops),
        recipe=RecipeSpace(
            reduce_range=(False, True) if host.saturates_u8s8 else (False,),
            bound_pairs=(True, False) if host.saturates_u8s8 else (False,),
            equalization=(True, False) if convolutions else (False,),
            bias_correction=(BiasCorrection.FAST, BiasCorrection.FULL, BiasCorrection.NONE)
            if weights
            else (BiasCorrection.NONE,),
            weight_rounding=(WeightRounding.NEAREST, WeightRounding.GPTQ) if weights else (WeightRounding.NEAREST,),
            smooth_quant=tuple(SmoothQuant) if smoothing else (SmoothQuant.NONE,),
        ),
    )


def _op_space(op: QuantizableOp, graph: fx.GraphModule) -> OpSpace:
    if op.recurs:
        dynamic = PrecisionSpace(precision=Precision.INT8_DYNAMIC, weights=_WEIGHTS)
        most = max(constant(graph, name).numel() for name in op.matrices)
        # oneDNN computes an LSTM in fp32 as a whole; Inductor writes the steps of a GRU out in fp32 too.
        small = op.kind == "LSTM" and most < _SMALL_MATRIX
        order = (FP32_SPACE, dynamic) if small else (dynamic, FP32_SPACE)
        return OpSpace(name=op.name, op_type=op.kind, precisions=order)
    static = PrecisionSpace(
        precision=Precision.INT8,
        activations=_ACTIVATIONS,
        weights=_WEIGHTS if op.weight is not None else (),
        algorithms=CALIBRATION_ALGORITHMS,
    )
    found = [static]
    if op.kind == "Linear":
        found.append(PrecisionSpace(precision=Precision.INT8_DYNAMIC, weights=_WEIGHTS))
    if op.weight is not None and computes_bf16():
        found.append(PrecisionSpace(precision=Precision.BF16))
    return OpSpace(name=op.name, op_type=op.kind, precisions=(*found, FP32_SPACE))


def calibrated_space(
    space: TuningSpace, graph: fx.GraphModule, ops: Sequence[QuantizableOp], statistics: CalibrationStatistics
) -> tuple[TuningSpace, list[str]]:
    """The space without static int8 where the data rules it out, and a line for each reason."""
    nodes = nodes_by_name(graph)
    infinite, unseen = [], []
    for op in ops:
        around = argument_names(nodes[op.node], op.activations)
        if not statistics.unbounded.isdisjoint(around):
            infinite.append(op.name)
        elif any(name not in statistics.tensors for name in around):
            unseen.append(op.name)
    out = {*infinite, *unseen}
    kept = tuple(op.without({Precision.INT8}) if op.name in out else op for op in space.ops)
    return dataclasses.replace(space, ops=kept), lines_on_ranges(infinite, unseen)
