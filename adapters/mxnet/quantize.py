"""Make the candidate that a config describes: how each op is quantized stands in :func:`apply_config`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from autotune.adapter import Array
from autotune.adapters.mxnet.framework import FAILURES, dense, mx, quantization, reason
from autotune.adapters.mxnet.graph import BACKEND, POOLING, Graph, QuantizableOp, graph_of
from autotune.adapters.mxnet.model import MxnetModel
from autotune.adapters.mxnet.space import ACTIVATIONS, has_negatives, is_clipped
from autotune.algorithms import activation_range
from autotune.calibration import CalibrationStatistics
from autotune.config import OpConfig, Precision, QuantizationConfig, QuantizedType, TensorScheme
from autotune.errors import ApplyError
from autotune.notes import listed
from autotune.options import require_declared

_UNSIGNED = TensorScheme(dtype=QuantizedType.U8)
_HALVED = 255 / 127
"""How much wider the range of a u8 tensor is whose integers are to stay below 128."""


def apply_config(model: MxnetModel, config: QuantizationConfig, statistics: CalibrationStatistics) -> MxnetModel:
    """The candidate that ``config`` describes; ``model`` stays as it is.

    oneDNN's subgraph backend fuses what one kernel computes. All fused nodes but those of the chosen ops are excluded
    from MXNet's quantization pass, the rest gets the ranges that the config's algorithms find in the statistics. MXNet
    quantizes the weights itself, per channel, when the model is first run.

    Raises:
        ApplyError: The config names an op that cannot be quantized, a tensor has no statistics, or MXNet refuses.
    """
    require_declared(config.recipe.options, ())
    _require_offered(model.ops, config, statistics)
    if not config.ops:
        return model
    chosen = [op for op in model.ops if op.name in config.ops]
    fused = model.graph.fused
    try:
        symbol, layers = quantization._quantize_symbol(
            fused.symbol,
            mx.cpu(),
            excluded_symbols=fused.others({op.node for op in chosen}),
            excluded_operators=[],
            offline_params=[name for name in fused.variables() if name in model.arguments],
            quantized_dtype="auto",
            quantize_mode="full",  # what is not excluded, and nothing else
            quantize_granularity="channel-wise",
        )
        ranges = _ranges(layers, chosen, config, statistics)
        symbol = quantization._calibrate_quantized_sym(symbol, ranges)
        given = {name: dense(array) for name, array in model.arguments.items()}
        arguments = quantization._quantize_params(symbol, given, ranges)
        graph = graph_of(symbol.get_backend_symbol(BACKEND))
    except FAILURES as error:
        raise ApplyError(f"MXNet refuses to quantize the model: {reason(error)}") from error
    names = set(graph.variables())
    return dataclasses.replace(
        model,
        text=graph.text,
        arguments={name: value.asnumpy() for name, value in arguments.items() if name in names},
        asked=tuple(op.name for op in chosen),
        at_risk=() if config.recipe.reduce_range else _at_risk(chosen, ranges, fused, model.arguments),
        told=(*model.told, *proof(graph, [op.name for op in chosen])),
    )


def proof(graph: Graph, asked: Sequence[str]) -> list[str]:
    """A line for the ops that MXNet computes otherwise than they are asked for, by the quantized symbol itself."""
    integers = graph.integer_ops()
    known = {op.name for op in graph.ops}
    stayed = [name for name in asked if name not in integers and name in known]
    uncalled = [name for name in integers if name not in asked]
    lines = []
    if stayed:
        lines.append(f"{listed(stayed)}: MXNet computes them in fp32 all the same")
    if uncalled:
        lines.append(f"{listed(uncalled)}: MXNet computes them in int8 too, though nobody chose it")
    return lines


def _require_offered(
    ops: Sequence[QuantizableOp], config: QuantizationConfig, statistics: CalibrationStatistics
) -> None:
    unknown = sorted(set(config.ops) - {op.name for op in ops})
    if unknown:
        raise ApplyError(f"A config may name ops of the model's space only, but names {', '.join(unknown[:3])}")
    for name, choice in config.ops.items():
        if choice.precision is not Precision.INT8:
            raise ApplyError(f"In MXNet an op computes in int8 or fp32, but {name!r} is to be in {choice.precision}")

    clipped = [op.name for op in ops if op.name in config.ops and is_clipped(op, statistics)]
    if clipped:
        raise ApplyError(
            "An int8 op must not add what has no negative values to what has, since MXNet cuts the sum at zero, but "
            f"{clipped[0]!r} does. Leave it in fp32"
        )


def _ranges(
    layers: Sequence[str],
    chosen: Sequence[QuantizableOp],
    config: QuantizationConfig,
    statistics: CalibrationStatistics,
) -> dict[str, tuple[float, float]]:
    """By tensor: its range, by the algorithm of the first op that reads it, or else of the one that writes it."""
    choices: dict[str, OpConfig] = {}
    for op in chosen:
        for name in (op.source, op.summed):
            if name is not None:
                choices.setdefault(name, config[op.name])
    for op in chosen:
        choices.setdefault(op.output, config[op.name])
    # MXNet writes such a sum over what is added, in its type: s8 has no room for the upper half of u8.
    halved = {op.output for op in chosen if op.summed is not None and has_negatives(op.summed, statistics)}
    found = {}
    for name in layers:
        if name not in choices:
            continue  # the pass lists some that no int8 op reads or writes
        tensor = statistics.tensors.get(name)
        if tensor is None:
            raise ApplyError(
                f"An int8 op needs statistics of {name!r}, which it reads or writes, and there are none. Calibrate it"
            )
        calibration = choices[name].calibration
        assert calibration is not None
        scheme = _UNSIGNED if tensor.minimum >= 0 else ACTIVATIONS
        low, high = activation_range(tensor, calibration, scheme)
        if scheme is _UNSIGNED:
            narrow = config.recipe.reduce_range or name in halved
            found[name] = (0.0, float(high) * (_HALVED if narrow else 1.0))
        else:
            largest = max(abs(float(low)), abs(float(high)))
            found[name] = (-largest, largest)
    return found


def _at_risk(
    chosen: Sequence[QuantizableOp],
    ranges: Mapping[str, tuple[float, float]],
    fused: Graph,
    arguments: Mapping[str, Array],
) -> tuple[str, ...]:
    """Ops that multiply u8 by s8 weights of 8 bits and sum pairs in 16 bits where there is no VNNI.

    Depthwise convolutions sum in 32 bits; for s8 activations oneDNN halves the weights where it has to.
    """
    weights = {node["name"]: fused.nodes[node["inputs"][1][0]]["name"] for node in fused.nodes if node["inputs"][1:]}
    found = []
    for op in chosen:
        if op.kind == POOLING:
            continue  # it sums in 32 bits
        weight = arguments.get(weights.get(op.node, ""))
        columns = 2 if weight is None else int(np.prod(weight.shape[1:2]))
        if ranges.get(op.source, (-1.0, 1.0))[0] >= 0 and columns > 1:
            found.append(op.name)
    return tuple(found)
