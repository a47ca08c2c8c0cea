"""SmoothQuant: outliers of activations move into the weights that read them.

Xiao et al., 2022, arXiv 2211.10438. In front of MatMuls with constant matrices, channel ``j`` is divided by
``s_j = max|x_j|^alpha / max|w_j|^(1 - alpha)`` and the matrices' rows are multiplied by it; the division is folded into
the LayerNormalization, or the Mul with a vector, that writes the tensor. In real numbers nothing changes; in float32
little does.

``auto`` picks alpha for each tensor: the one with the least estimate of the MatMuls' squared error, in which an
activation's rounding has the step of its tensor and a weight's the step of its column. Costs no pass over data: the
statistics per channel are enough.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from autotune.adapter import Array
from autotune.algorithms.graph import Connections, Layer, LayerGraph, Scaled
from autotune.calibration import CalibrationStatistics, ChannelMoments, TensorStatistics
from autotune.config import Precision, QuantizationConfig, SmoothQuant

_ALPHAS = tuple(np.linspace(0.0, 1.0, 11))
"""Values that ``auto`` picks from."""

_LARGEST = 1e4
"""Factors stay within this and its inverse, so that float32 keeps its precision."""

_DYNAMIC_OR_STATIC = (Precision.INT8, Precision.INT8_DYNAMIC)


@dataclass(frozen=True, kw_only=True)
class Site:
    """A tensor that can be smoothed.

    Attributes:
        tensor: Name of the tensor.
        constants: Constants of the node that writes it: those that are divided along with it, each a vector.
        layers: All layers that read it, MatMuls with constant matrices.
    """

    tensor: str
    constants: tuple[str, ...]
    layers: tuple[Layer, ...]


@dataclass(frozen=True, kw_only=True)
class Smoothed:
    """Changes to a graph that smooth it and leave its outputs as they are.

    Attributes:
        constants: Weights and vectors by name, in place of the graph's own, float32, each of the same shape.
        statistics: Statistics of the smoothed graph: extremes and channel moments of the smoothed tensors.
        ranges: ``(low, high)`` in which to quantize these, where that is static.
        notes: Tensors that were left as they are and why, a line each.
    """

    constants: Mapping[str, Array]
    statistics: CalibrationStatistics
    ranges: Mapping[str, tuple[float, float]]
    notes: tuple[str, ...]


def smoothing_sites(connections: Connections) -> list[Site]:
    """The tensors that only MatMuls with constant matrices read, and whose writer can take the division."""
    sites = []
    for node in connections.nodes:
        if not isinstance(node, Scaled) or not all(connections.read_once(name) for name in node.vectors):
            continue
        tensor = node.writes[0]
        readers = connections.readers.get(tensor, [])
        layers = tuple(each for each in readers if isinstance(each, Layer) and _multiplies(each, tensor, connections))
        if layers and len(layers) == len(readers) and tensor not in connections.outputs:
            sites.append(Site(tensor=tensor, constants=node.vectors, layers=layers))
    return sites


def smooth(graph: LayerGraph, config: QuantizationConfig, statistics: CalibrationStatistics) -> Smoothed:
    """Smooth every site of which an int8 op reads; no node is run.

    Args:
        graph: Graph of the fp32 model.
        config: The config, which says which ops become int8, and by its recipe how alpha is chosen.
        statistics: Statistics with channel moments of the tensors along their last axis.
    """
    tensors = dict(statistics.tensors)
    constants: dict[str, Array] = {}
    ranges: dict[str, tuple[float, float]] = {}
    unknown = []
    for site in smoothing_sites(Connections(graph.nodes, graph.outputs)):
        if not any(config[layer.name].precision in _DYNAMIC_OR_STATIC for layer in site.layers):
            continue
        observed = statistics.tensors.get(site.tensor)
        weights = [_rows(graph.constants[layer.weight], layer) for layer in site.layers]
        if observed is None or observed.channels is None or observed.channels.mean.size != weights[0].shape[0]:
            unknown.append(site.tensor)
            continue
        factor = _factor(observed.channels, weights, config.recipe.smooth_quant)
        for name in site.constants:
            constants[name] = np.asarray(graph.constants[name] / factor, np.float32)
        for layer, rows in zip(site.layers, weights, strict=True):
            constants[layer.weight] = np.asarray(_unrows(rows * factor[:, None], layer), np.float32)
        tensors[site.tensor] = moved = _divided(observed, observed.channels, factor)
        ranges[site.tensor] = (min(moved.minimum, 0.0), max(moved.maximum, 0.0))
    return Smoothed(
        constants=constants,
        statistics=dataclasses.replace(statistics, tensors=tensors),
        ranges=ranges,
        notes=tuple(f"SmoothQuant leaves {name!r} as it is: its channels were not observed" for name in unknown),
    )


def _multiplies(layer: Layer, tensor: str, connections: Connections) -> bool:
    """Whether a layer multiplies the tensor by a matrix of its own."""
    return (
        layer.convolution is None
        and layer.source == tensor
        and layer.axis is not None
        and connections.read_once(layer.weight)
    )


def _rows(weight: Array, layer: Layer) -> Array:
    """A weight as (inputs, outputs)."""
    return np.asarray(weight if layer.axis == 1 else weight.T, np.float32)


def _unrows(rows: Array, layer: Layer) -> Array:
    return rows if layer.axis == 1 else rows.T


def _factor(channels: ChannelMoments, weights: list[Array], choice: SmoothQuant) -> Array:
    """``s``, float32, shape (C,)."""
    activation = np.maximum(np.abs(channels.minimum), np.abs(channels.maximum))
    weight = np.max([np.abs(rows).max(axis=1) for rows in weights], axis=0).astype(np.float64)
    if choice.alpha is not None:
        return _power(activation, weight, choice.alpha)
    factors = [_power(activation, weight, alpha) for alpha in _ALPHAS]
    errors = [_estimate(channels, activation, weights, factor) for factor in factors]
    return factors[int(np.argmin(errors))]


def _power(activation: Array, weight: Array, alpha: float) -> Array:
    """The paper's equation 4; channels that are always zero, or that nobody weighs, keep their scale."""
    usable = (activation > 0) & (weight > 0)
    safe = np.where(usable, activation, 1.0) ** alpha / np.where(usable, weight, 1.0) ** (1.0 - alpha)
    # A factor common to all channels changes nothing but the magnitudes: their geometric mean is taken out.
    safe = np.where(usable, safe / np.exp(np.log(safe[usable]).mean()) if usable.any() else 1.0, 1.0)
    return np.asarray(np.clip(safe, 1.0 / _LARGEST, _LARGEST), np.float32)


def _estimate(channels: ChannelMoments, activation: Array, weights: list[Array], factor: Array) -> float:
    """Squared error of the MatMuls, up to what all alphas share, relative to the squared outputs' share of weights."""
    step = float((activation / factor).max())
    energy = (channels.variance + channels.mean**2) / np.square(factor, dtype=np.float64)
    total = 0.0
    for rows in weights:
        scaled = np.asarray(rows * factor[:, None], np.float64)
        total += step**2 * float(np.square(scaled).sum())
        # 255 steps in an activation's range, 254 in a weight's, whose range is symmetric.
        total += float(np.square(2.0 * np.abs(scaled).max(axis=0)).sum() * energy.sum())
    return total


def _divided(observed: TensorStatistics, old: ChannelMoments, factor: Array) -> TensorStatistics:
    """Statistics of ``x / factor``; the histogram stays that of ``x``, which `ranges` makes up for."""
    scale = 1.0 / factor.astype(np.float64)
    minimum, maximum, mean = (scale * each for each in (old.minimum, old.maximum, old.mean))
    channels = ChannelMoments(old.axis, minimum, maximum, mean, scale * scale * old.variance)
    return dataclasses.replace(observed, minimum=float(minimum.min()), maximum=float(maximum.max()), channels=channels)
