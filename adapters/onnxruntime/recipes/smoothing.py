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
import onnx
from onnx import numpy_helper

from autotune.adapter import Array
from autotune.adapters.onnx.graph import Graph, attributes, is_standard
from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnxruntime.choices.ops import QuantizableOp, quantizable_ops
from autotune.calibration import CalibrationStatistics, ChannelMoments, TensorStatistics
from autotune.config import Precision, QuantizationConfig, SmoothQuant

_ALPHAS = tuple(np.linspace(0.0, 1.0, 11))
"""What ``auto`` picks from."""

_LARGEST = 1e4
"""Factors stay within this and its inverse, so that float32 keeps its precision."""

_DYNAMIC_OR_STATIC = (Precision.INT8, Precision.INT8_DYNAMIC)


@dataclass(frozen=True, kw_only=True)
class Site:
    """A tensor that can be smoothed.

    Attributes:
        tensor: Its name.
        constants: Of the node that writes it: those that are divided along with it, each a vector.
        ops: All that read it, MatMul and Gemm with constant matrices.
    """

    tensor: str
    constants: tuple[str, ...]
    ops: tuple[QuantizableOp, ...]


@dataclass(frozen=True, kw_only=True)
class Smoothed:
    """What smoothing makes of a model.

    Attributes:
        model: Computes in fp32 what the original computes.
        statistics: Of it: extremes and channel moments of the smoothed tensors.
        ranges: In which to quantize these, where that is static.
    """

    model: OnnxModel
    statistics: CalibrationStatistics
    ranges: Mapping[str, tuple[float, float]]


def smoothing_sites(graph: Graph, ops: list[QuantizableOp]) -> list[Site]:
    """The tensors that only MatMuls with constant matrices read, and whose writer can take the division."""
    by_node = {op.name: op for op in ops}
    sites = []
    for node in graph.nodes:
        constants = _vectors(node, graph)
        readers = graph.readers.get(node.output[0], []) if node.output else []
        if not constants or not readers or node.output[0] in graph.outputs | graph.read_by_subgraphs:
            continue
        found = [by_node[reader.name] for reader in readers if reader.name in by_node]
        if len(found) == len(readers) and all(_is_matmul(op, node.output[0], graph) for op in found):
            sites.append(Site(tensor=node.output[0], constants=constants, ops=tuple(found)))
    return sites


def smooth(model: OnnxModel, config: QuantizationConfig, statistics: CalibrationStatistics) -> Smoothed:
    """Smooth every site of which an int8 op reads; ``model`` stays as it is."""
    graph = Graph(model.proto)
    tensors = dict(statistics.tensors)
    constants: dict[str, Array] = {}
    ranges: dict[str, tuple[float, float]] = {}
    unknown = []
    for site in smoothing_sites(graph, quantizable_ops(graph)[0]):
        if not any(config[op.name].precision in _DYNAMIC_OR_STATIC for op in site.ops):
            continue
        observed = statistics.tensors.get(site.tensor)
        weights = [_rows(model.tensor(graph.initializers[str(op.weight)]), op) for op in site.ops]
        if observed is None or observed.channels is None or observed.channels.mean.size != weights[0].shape[0]:
            unknown.append(site.tensor)
            continue
        factor = _factor(observed.channels, weights, config.recipe.smooth_quant)
        for name in site.constants:
            constants[name] = model.tensor(graph.initializers[name]) / factor
        for op, rows in zip(site.ops, weights, strict=True):
            constants[str(op.weight)] = _unrows(rows * factor[:, None], op)
        tensors[site.tensor] = moved = _divided(observed, observed.channels, factor)
        ranges[site.tensor] = (min(moved.minimum, 0.0), max(moved.maximum, 0.0))
    notes = [f"SmoothQuant leaves {name!r} as it is: its channels were not observed" for name in unknown]
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for tensor in proto.graph.initializer:
        if tensor.name in constants:
            values = np.ascontiguousarray(constants[tensor.name], np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return Smoothed(
        model=dataclasses.replace(model, proto=proto, notes=(*model.notes, *notes)),
        statistics=dataclasses.replace(statistics, tensors=tensors),
        ranges=ranges,
    )


def _vectors(node: onnx.NodeProto, graph: Graph) -> tuple[str, ...]:
    """The constants by which a node can divide its last axis; empty where it cannot."""
    if not is_standard(node):
        return ()
    rank = graph.rank(node.output[0]) if node.output else None
    if node.op_type == "LayerNormalization" and rank:
        names = tuple(name for name in node.input[1:] if name)
        usable = attributes(node).get("axis", -1) in (-1, rank - 1) and len(node.output) == 1
    elif node.op_type == "Mul" and rank:
        names = tuple(name for name in node.input if name in graph.initializers)
        usable = len(names) == 1
    else:
        return ()
    own = all(name in graph.initializers and graph.read_once(name) and graph.rank(name) == 1 for name in names)
    wide = all(graph.initializers[name].dims[0] > 1 for name in names) if own else False
    return names if usable and own and wide else ()


def _is_matmul(op: QuantizableOp, tensor: str, graph: Graph) -> bool:
    """Whether an op multiplies the tensor by a matrix of its own."""
    return (
        op.node.op_type in ("MatMul", "Gemm")
        and op.activations == (tensor,)
        and op.weight is not None
        and op.weight_axis is not None
        and graph.read_once(op.weight)
    )


def _rows(weight: Array, op: QuantizableOp) -> Array:
    """A weight as (inputs, outputs)."""
    return np.asarray(weight if op.weight_axis == 1 else weight.T, np.float32)


def _unrows(rows: Array, op: QuantizableOp) -> Array:
    return rows if op.weight_axis == 1 else rows.T


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
