"""Cross-layer equalization: scale channels between two convolutions to ranges that int8 serves better.

Follows M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv 1906.04721),
section 4.1. A factor ``a`` on an output channel of one convolution and its inverse on the weights that read the channel
change nothing, since Relu commutes with positive factors and Clip does once its bound is scaled too.

Two aims, by the scheme of the weights:

*   With a scale per tensor, the weights are what suffers: factors are the paper's, which give every channel the same
    range in the weights before and after, repeated along chains until they settle.
*   With a scale per channel, or in fp32, a factor on an output channel costs the weights nothing, and the activation
    between is what can be helped: its channels are brought to one range. If a depthwise convolution or one in fp32
    reads them, that is free, and amounts to a scale per channel where integer kernels have only one. If a dense one
    reads them in int8, its weights pay for it, so that factors go half of the way, as SmoothQuant's do (arXiv
    2211.10438).

Where a channel's range ends is chosen here as well, ``SPREAD`` or ``LINEAR_SPREAD`` deviations from its mean: one
outlier in a million no longer spends the levels of a whole tensor, let alone of a channel.

Tensors that Adds tie together are scaled as one, which the paper leaves out: :mod:`.streams`.

Costs no pass over data: the statistics per channel are enough.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from autotune.adapter import Array
from autotune.algorithms.equalization.absorption import absorb_bias
from autotune.algorithms.equalization.pairs import (
    ConvPair,
    find_pairs,
    input_magnitudes,
    scale_inputs,
    scale_outputs,
)
from autotune.algorithms.equalization.streams import Stream, find_streams
from autotune.algorithms.graph import Connections, Layer, LayerGraph
from autotune.calibration import CalibrationStatistics, ChannelMoments, TensorStatistics
from autotune.config import Granularity, Precision, QuantizationConfig

SPREAD = 20.0
"""Deviations from the mean at which the range of a channel that a Relu or Clip wrote ends at the latest. MobileNetV2's
logits have an SQNR of 22.3, 22.8, 22.9 and 23.0 dB with 10, 13, 16 and 20: such channels are zero most of the time, so
that their large values, which classes hang on, lie many deviations out."""

LINEAR_SPREAD = 8.0
"""The same for other channels: 22.3, 22.9 and 22.4 dB with 6, 8 and 10."""

_SHARE = 0.5
"""Share of the way, in logarithms, that channels read by a dense convolution go to one range."""

_LARGEST = 1e3
"""Factor. Channels that hardly ever leave zero need no more."""

_PASSES = 20
_SETTLED = 1e-3
"""How often chains are gone through at most, and the change of a factor that counts as none."""


@dataclass(frozen=True, kw_only=True)
class Equalized:
    """Changes to a graph that equalize its channels and leave its outputs as they are.

    Attributes:
        constants: Weights and biases by name, in place of the graph's own, each of the same shape.
        bounds: By the tensor that a Clip writes: the upper end of each channel in place of its own, float32, shape
            (C,). A quantized graph may do without: no range reaches beyond them.
        statistics: Statistics of the equalized graph, as far as scaling tells: extremes and channel moments.
        ranges: ``(low, high)`` in which to quantize the tensors whose channels were scaled.
        notes: Pairs that were left as they are and why, a line each.
    """

    constants: Mapping[str, Array]
    bounds: Mapping[str, Array]
    statistics: CalibrationStatistics
    ranges: Mapping[str, tuple[float, float]]
    notes: tuple[str, ...]


def equalize(
    graph: LayerGraph,
    config: QuantizationConfig,
    statistics: CalibrationStatistics,
    *,
    quantized: Collection[str] | None = None,
) -> Equalized:
    """Scale the channels between all convolutions that can be served; no node is run.

    Args:
        graph: Graph of the fp32 model.
        config: Says which ops become int8, and whether their weights have a scale per tensor or per channel.
        statistics: Statistics with channel moments of the tensors between convolutions.
        quantized: The tensors that become integers; channels of no other tensor are scaled, so that a bound in
            :attr:`Equalized.bounds` is that of a tensor whose range takes its place. None: all that int8 layers read or
            write.
    """
    connections = Connections(graph.nodes, graph.outputs)
    # Half precision may not hold channels that are scaled up.
    layers = [
        node
        for node in graph.nodes
        if isinstance(node, Layer) and config[node.name].precision in (Precision.INT8, Precision.FP32)
    ]
    int8 = {layer.name for layer in layers if config[layer.name].precision is Precision.INT8}
    streams, notes = find_streams(connections, graph.constants, layers, int8)
    streams = [stream for stream in streams if _serves_stream(stream, config, statistics)]
    if quantized is not None:
        streams = [stream for stream in streams if not set(quantized).isdisjoint(stream.tensors)]
    pairs, more = find_pairs(connections, layers, int8, tied={name for stream in streams for name in stream.tensors})
    pairs = [pair for pair in pairs if _channels(statistics, pair.read) is not None and _serves(pair, config)]
    pairs = [pair for pair in pairs if quantized is None or pair.read in quantized]
    served = [layer for pair in pairs for layer in (pair.first, pair.second)]
    served += [layer for stream in streams for layer in (*stream.writers, *stream.readers)]
    names = {name for layer in served for name in (layer.weight, layer.bias) if name}
    constants = {name: graph.constants[name] for name in names}
    factors = _factors(pairs, constants, config, statistics)
    tensors = dict(statistics.tensors)
    ranges: dict[str, tuple[float, float]] = {}
    bounds = {}
    for pair in pairs:
        caps = _scale_pair(pair, factors[pair.read], constants, tensors)
        ranges[pair.read] = _range(tensors[pair.read].channels, pair, caps)
        if not math.isinf(pair.cap):
            bounds[pair.read] = caps.astype(np.float32)
    for stream in streams:
        ranges.update(_scale_stream(stream, _of_stream(stream, config, statistics), constants, tensors))
    return Equalized(
        constants=constants,
        bounds=bounds,
        statistics=dataclasses.replace(statistics, tensors=tensors),
        ranges=ranges,
        notes=(*notes, *more),
    )


def _factors(
    pairs: list[ConvPair], constants: Mapping[str, Array], config: QuantizationConfig, statistics: CalibrationStatistics
) -> dict[str, Array]:
    """By the tensor between a pair: the factor of each of its channels, float32, shape (C,)."""
    factors: dict[str, Array] = {}
    by_weights = []
    for pair in pairs:
        channels = _channels(statistics, pair.read)
        if not _per_tensor(config, pair.first.name):
            factors[pair.read] = _by_activation(channels, pair, config)
        else:
            by_weights.append(pair)
    factors.update(_by_weights(by_weights, constants, statistics))
    return factors


def _by_activation(channels: ChannelMoments | None, pair: ConvPair, config: QuantizationConfig) -> Array:
    """Factors that bring the activation's channels to one range, all of the way where the weights do not mind."""
    low, high = _ends(channels, rectified=pair.activation is not None)
    reach = np.maximum(-low, high)
    depthwise = pair.groups > 1 and reach.size == pair.groups
    free = config[pair.second.name].weight is None or (depthwise and not _per_tensor(config, pair.second.name))
    return _within_bounds(_to_one_range(reach) ** (1.0 if free else _SHARE), channels, pair)


def _to_one_range(reach: Array) -> Array:
    """Factors that bring channels of these ranges to the largest of them, float64, shape (C,)."""
    top = float(reach.max(initial=0.0))
    if top == 0.0:
        return np.ones(reach.shape)
    return np.where(reach > 0.0, top / np.maximum(reach, top / _LARGEST), 1.0)


def _of_stream(stream: Stream, config: QuantizationConfig, statistics: CalibrationStatistics) -> Array:
    """Factors that bring the channels of all tensors of a stream to one range, float32, shape (C,)."""
    reach = np.zeros(stream.channels)
    for name in stream.tensors:
        low, high = _ends(_channels(statistics, name), rectified=name in stream.rectified)
        own = np.maximum(-low, high)
        reach = np.maximum(reach, own / max(float(own.max()), float(np.finfo(np.float32).tiny)))
    free = all(config[op.name].weight is None for op in stream.readers)
    return np.asarray(_to_one_range(reach) ** (1.0 if free else _SHARE), np.float32)


def _by_weights(
    pairs: list[ConvPair], constants: Mapping[str, Array], statistics: CalibrationStatistics
) -> dict[str, Array]:
    """Factors that give each channel one range in the weights before and after it."""
    weights = {layer.weight: constants[layer.weight] for pair in pairs for layer in (pair.first, pair.second)}
    factors = {pair.read: np.ones(constants[pair.first.weight].shape[0], np.float64) for pair in pairs}
    for _ in range(_PASSES):
        change = 0.0
        for pair in pairs:
            first_name, second_name = pair.first.weight, pair.second.weight
            first, second = weights[first_name], weights[second_name]
            before = np.abs(first).reshape(first.shape[0], -1).max(axis=1).astype(np.float64)
            after = input_magnitudes(second, pair.groups).astype(np.float64)
            both = (before > 0.0) & (after > 0.0)
            step = np.sqrt(np.divide(after, before, out=np.ones_like(before), where=both))
            total = np.clip(factors[pair.read] * step, 1.0 / _LARGEST, _LARGEST)
            total = _within_bounds(total, _channels(statistics, pair.read), pair).astype(np.float64)
            step, factors[pair.read] = total / factors[pair.read], total
            weights[first_name] = scale_outputs(first, step)
            weights[second_name] = scale_inputs(second, 1.0 / step, pair.groups)
            change = max(change, float(np.abs(step - 1.0).max()))
        if change < _SETTLED:
            break
    return {pair.read: _exact(factors[pair.read], _channels(statistics, pair.read), pair) for pair in pairs}


def _exact(factor: Array, channels: ChannelMoments | None, pair: ConvPair) -> Array:
    """The nearest powers of two: to scale by them rounds nothing, however many layers follow one another."""
    rounded = np.exp2(np.rint(np.log2(factor)))
    return np.asarray(np.exp2(np.ceil(np.log2(_within_bounds(rounded, channels, pair)) - 1e-6)), np.float32)


def _within_bounds(factor: Array, channels: ChannelMoments | None, pair: ConvPair) -> Array:
    """Raise the factors of channels that a Clip cuts until its bound lies beyond the range of all."""
    if math.isinf(pair.cap):
        return np.asarray(factor, np.float32)
    _, high = _ends(channels, rectified=True)
    assert channels is not None
    least = float((factor * high).max()) / pair.cap
    return np.asarray(np.where(_cut(channels, pair.cap), np.maximum(factor, least), factor), np.float32)


def _cut(channels: ChannelMoments, cap: float) -> Array:
    """Which channels reached the Clip's bound in calibration."""
    return np.asarray(channels.maximum >= cap * (1.0 - 1e-6))


def _ends(channels: ChannelMoments | None, *, rectified: bool) -> tuple[Array, Array]:
    """Where each channel's range ends, zero included, each of shape (C,); from zero on what a Relu or Clip wrote."""
    assert channels is not None
    deviation = (SPREAD if rectified else LINEAR_SPREAD) * np.sqrt(channels.variance)
    low = np.minimum(np.maximum(channels.minimum, channels.mean - deviation), 0.0)
    high = np.maximum(np.minimum(channels.maximum, channels.mean + deviation), 0.0)
    return (np.zeros_like(low) if rectified else low), high


def _range(channels: ChannelMoments | None, pair: ConvPair, caps: Array) -> tuple[float, float]:
    """Range in which to quantize the tensor between a pair; never beyond the bound of a channel that reached it."""
    low, high = _ends(channels, rectified=pair.activation is not None)
    assert channels is not None
    reached = caps[channels.maximum >= caps * (1.0 - 1e-5)]
    return float(low.min(initial=0.0)), float(min(high.max(initial=0.0), reached.min(initial=math.inf)))


def _scale_pair(
    pair: ConvPair, factor: Array, constants: dict[str, Array], tensors: dict[str, TensorStatistics]
) -> Array:
    """Scale the channels of a pair, and absorb what they have over; the bound of each channel then, shape (C,)."""
    first, second = pair.first, pair.second
    constants[first.weight] = scale_outputs(constants[first.weight], factor)
    constants[second.weight] = scale_inputs(constants[second.weight], 1.0 / factor, pair.groups)
    if first.bias is not None:
        constants[first.bias] = np.asarray(constants[first.bias] * factor, np.float32)
    for name in {pair.written, pair.read} & set(tensors):
        tensors[name] = _moved(tensors[name], factor)
    before = tensors.get(pair.written)
    shift = absorb_bias(constants, pair, None if before is None else before.channels)
    tensors[pair.read] = _moved(tensors[pair.read], np.ones_like(shift), shift)
    return np.asarray(pair.cap * factor - shift)


def _scale_stream(
    stream: Stream, factor: Array, constants: dict[str, Array], tensors: dict[str, TensorStatistics]
) -> dict[str, tuple[float, float]]:
    """Scale the channels of a stream; the ranges of its tensors then."""
    for layer in stream.writers:
        constants[layer.weight] = scale_outputs(constants[layer.weight], factor)
        if layer.bias is not None:
            constants[layer.bias] = np.asarray(constants[layer.bias] * factor, np.float32)
    for layer in stream.readers:
        weight = constants[layer.weight]
        constants[layer.weight] = scale_inputs(weight, 1.0 / factor, stream.channels // weight.shape[1])
    ranges = {}
    for name in stream.tensors:
        tensors[name] = _moved(tensors[name], factor)
        low, high = _ends(tensors[name].channels, rectified=name in stream.rectified)
        ranges[name] = float(low.min(initial=0.0)), float(high.max(initial=0.0))
    return ranges


def _moved(observed: TensorStatistics, factor: Array, shift: Array | float = 0.0) -> TensorStatistics:
    """Statistics of ``factor * x - shift``; the histogram stays that of ``x``, which `ranges` makes up for."""
    old = observed.channels
    if old is None:
        return observed
    scale = factor.astype(np.float64)
    minimum, maximum, mean = (scale * each - shift for each in (old.minimum, old.maximum, old.mean))
    channels = ChannelMoments(old.axis, minimum, maximum, mean, scale * scale * old.variance)
    return dataclasses.replace(observed, minimum=float(minimum.min()), maximum=float(maximum.max()), channels=channels)


def _channels(statistics: CalibrationStatistics, tensor: str) -> ChannelMoments | None:
    observed = statistics.tensors.get(tensor)
    return observed.channels if observed is not None and observed.channels and observed.channels.axis == 1 else None


def _per_tensor(config: QuantizationConfig, op: str) -> bool:
    """Whether an op's weights share one scale; those of an op in fp32 have none to share."""
    weight = config[op].weight
    return weight is not None and weight.granularity is Granularity.PER_TENSOR


def _serves(pair: ConvPair, config: QuantizationConfig) -> bool:
    """Whether factors can help: those for weights with one scale need such weights on both sides."""
    return not (_per_tensor(config, pair.first.name) and config[pair.second.name].weight is None)


def _serves_stream(stream: Stream, config: QuantizationConfig, statistics: CalibrationStatistics) -> bool:
    """Whether factors can help: weights with one scale would suffer more than the activations gain."""
    observed = all(_channels(statistics, name) is not None for name in stream.tensors)
    return observed and not any(_per_tensor(config, op.name) for op in (*stream.writers, *stream.readers))
