"""Pairs of convolutions between which channels can be scaled without changing what the model computes."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from autotune.adapter import Array
from autotune.adapters.onnx.graph import Graph, attributes
from autotune.adapters.onnxruntime.choices.ops import QuantizableOp
from autotune.notes import listed


@dataclass(frozen=True, kw_only=True)
class ConvPair:
    """Two convolutions with nothing but a Relu or Clip between them.

    Attributes:
        first: Writes ``written``.
        second: Reads ``read``.
        written: What the first one writes.
        read: What the second one reads: ``written`` itself, or what the activation makes of it.
        activation: Name of the activation's node; None where there is none.
        cap: What the activation lets through at most, infinity for Relu; infinity where there is none.
        groups: Of the second convolution.
    """

    first: QuantizableOp
    second: QuantizableOp
    written: str
    read: str
    activation: str | None
    cap: float
    groups: int

    @property
    def depthwise(self) -> bool:
        """Whether each filter of the second convolution reads one channel."""
        return self.groups > 1 and int(self.channels_per_group) == 1

    @property
    def channels_per_group(self) -> int:
        """How many channels each filter of the second convolution reads."""
        return self._channels // self.groups

    @property
    def padded(self) -> bool:
        """Whether the second convolution sees zeros that the first one did not write."""
        options = attributes(self.second.node)
        pads, automatic = options.get("pads", ()), options.get("auto_pad", b"NOTSET")
        return any(pads if isinstance(pads, list | tuple) else ()) or automatic in (b"SAME_UPPER", b"SAME_LOWER")

    _channels: int = 0


def find_pairs(
    graph: Graph, ops: Sequence[QuantizableOp], int8: Collection[str], tied: Collection[str] = ()
) -> tuple[list[ConvPair], list[str]]:
    """The pairs among the given ops, in graph order, and a line for each reason why others are none.

    Args:
        graph: Of the fp32 model.
        ops: Its quantizable ops.
        int8: Names of those that become int8. What lies between two convolutions is quantized as soon as one of them
            is int8; a pair of which none is gains nothing.
        tied: Tensors that are scaled with others already, so that they are no pair's.
    """
    convs = {op.output: op for op in ops if op.node.op_type == "Conv"}
    pairs: list[ConvPair] = []
    refused: dict[str, list[str]] = {}
    for second in convs.values():
        if second.activations[0] in tied:
            continue
        found = _pair(graph, convs, second)
        if isinstance(found, ConvPair) and not {found.first.name, found.second.name} & set(int8):
            continue
        if isinstance(found, ConvPair):
            pairs.append(found)
        elif found:
            refused.setdefault(found, []).append(second.name)
    notes = [
        f"Equalization leaves the input of {listed(names)} as it is: {reason}" for reason, names in refused.items()
    ]
    return pairs, notes


def _pair(graph: Graph, convs: dict[str, QuantizableOp], second: QuantizableOp) -> ConvPair | str:
    """The pair that ends in ``second``; else why not, empty where there is nothing to tell."""
    read = written = second.activations[0]
    node = graph.producers.get(read)
    if node is None:
        return ""
    activation, cap = None, math.inf
    if node.op_type in ("Relu", "Clip"):
        bounds = activation_bounds(graph, node.op_type, read)
        if bounds is None or bounds[0] != 0.0:
            return "the Clip before it does not start at zero, or its bounds are computed at run time"
        activation, cap, written = str(node.name), bounds[1], str(node.input[0])
    first = convs.get(written)
    if first is None:
        return ""
    if not (graph.read_once(read) and graph.read_once(written)):
        return "another op reads what the convolution before it writes"
    for op in (first, second):
        for name in (op.weight, op.bias):
            if name is not None and not graph.read_once(name):
                return f"{name!r} is shared between ops"
    assert first.weight is not None
    groups = attributes(second.node).get("group", 1)
    assert isinstance(groups, int)
    return ConvPair(
        first=first,
        second=second,
        written=written,
        read=read,
        activation=activation,
        cap=cap,
        groups=groups,
        _channels=int(graph.initializers[first.weight].dims[0]),
    )


def activation_bounds(graph: Graph, op_type: str, tensor: str) -> tuple[float, float] | None:
    """What the Relu or Clip that writes ``tensor`` lets through; None where it is computed at run time."""
    if op_type == "Relu":
        return 0.0, math.inf
    node = graph.producers[tensor]
    options = attributes(node)
    bounds = [float(str(options.get("min", -math.inf))), float(str(options.get("max", math.inf)))]
    for index, name in enumerate(node.input[1:3]):
        if name:
            value = graph.constant(name)
            if value is None or value.size != 1:
                return None
            bounds[index] = float(value.item())
    return bounds[0], bounds[1]


def scale_outputs(weight: Array, scale: Array) -> Array:
    """A convolution's weight whose output channels are multiplied by ``scale``, shape (C,)."""
    return np.asarray(weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), weight.dtype)


def scale_inputs(weight: Array, scale: Array, groups: int) -> Array:
    """A convolution's weight whose input channels are multiplied by ``scale``, shape (C,)."""
    outputs, inputs = weight.shape[:2]
    split = weight.reshape(groups, outputs // groups, inputs, -1)
    return np.asarray((split * scale.reshape(groups, 1, inputs, 1)).reshape(weight.shape), weight.dtype)


def input_magnitudes(weight: Array, groups: int) -> Array:
    """The largest magnitude among the weights that read each input channel, shape (C,)."""
    outputs, inputs = weight.shape[:2]
    magnitudes = np.abs(weight).reshape(groups, outputs // groups, inputs, -1)
    return np.asarray(magnitudes.max(axis=(1, 3)).reshape(-1))
