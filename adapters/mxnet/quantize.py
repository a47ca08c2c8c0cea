"""Make the candidate that a config describes: how each op is quantized stands in :func:`apply_config`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from autotune.adapter import Array
from autotune.adapters.mxnet.channels import prepare_channels
from autotune.adapters.mxnet.framework import FAILURES, dense, mx, quantization, reason
from autotune.adapters.mxnet.graph import BACKEND, POOLING, Graph, QuantizableOp, graph_of
from autotune.adapters.mxnet.model import MxnetModel
from autotune.adapters.mxnet.ranges import Ranges
from autotune.adapters.mxnet.space import is_clipped
from autotune.adapters.mxnet.weights import corrected_weights
from autotune.calibration import CalibrationStatistics
from autotune.config import Precision, QuantizationConfig
from autotune.errors import ApplyError
from autotune.notes import listed
from autotune.options import require_declared


def apply_config(model: MxnetModel, config: QuantizationConfig, statistics: CalibrationStatistics) -> MxnetModel:
    """The candidate that ``config`` describes; ``model`` stays as it is.

    oneDNN's subgraph backend fuses what one kernel computes. All fused nodes but those of the chosen ops are excluded
    from MXNet's quantization pass, the rest gets the ranges that the config's algorithms find in the statistics.
    Weights are put on the grid on which MXNet quantizes them, per channel, when the model is first run.

    Raises:
        ApplyError: The config names an op that cannot be quantized, a tensor has no statistics, or MXNet refuses.
    """
    require_declared(config.recipe.options, ())
    _require_offered(model.ops, config, statistics)
    if not config.ops:
        return model
    names = set(config.ops)
    read = {op.source for op in model.ops if op.name in names} | {op.summed for op in model.ops if op.name in names}
    channels = prepare_channels(
        model.prepared, config, statistics, quantized={name for name in read if name is not None}
    )
    fused = channels.model.graph.fused
    chosen = [op for op in fused.ops if op.name in names]
    ranges = Ranges(fused, chosen, config, statistics, channels)
    weights, notes = corrected_weights(channels, config, [op.name for op in chosen], ranges.tensors())
    given = {**channels.model.arguments, **weights}
    try:
        graph, arguments = _quantized(fused, chosen, ranges, given)
    except FAILURES as error:
        raise ApplyError(f"MXNet refuses to quantize the model: {reason(error)}") from error
    return dataclasses.replace(
        channels.model,
        text=graph.text,
        arguments=arguments,
        asked=tuple(op.name for op in chosen),
        at_risk=() if config.recipe.reduce_range else _at_risk(chosen, ranges, fused, given),
        told=(*model.told, *channels.notes, *notes, *proof(graph, [op.name for op in chosen])),
    )


def _quantized(
    fused: Graph, chosen: Sequence[QuantizableOp], ranges: Ranges, given: Mapping[str, Array]
) -> tuple[Graph, dict[str, Array]]:
    """The quantized symbol, and its parameters."""
    symbol, layers = quantization._quantize_symbol(
        fused.symbol,
        mx.cpu(),
        excluded_symbols=fused.others({op.node for op in chosen}),
        excluded_operators=[],
        offline_params=[name for name in fused.variables() if name in given],
        quantized_dtype="auto",
        quantize_mode="full",  # what is not excluded, and nothing else
        quantize_granularity="channel-wise",
    )
    found = ranges.of_layers(layers)
    symbol = quantization._calibrate_quantized_sym(symbol, found)
    arguments = quantization._quantize_params(symbol, {name: dense(array) for name, array in given.items()}, found)
    graph = graph_of(symbol.get_backend_symbol(BACKEND))
    names = set(graph.variables())
    return graph, {name: value.asnumpy() for name, value in arguments.items() if name in names}


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


def _at_risk(
    chosen: Sequence[QuantizableOp],
    ranges: Ranges,
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
        if ranges.unsigned(op.source) and columns > 1:
            found.append(op.name)
    return tuple(found)
