"""Pairs of convolutions between which channels can be scaled without changing what the model computes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autotune.adapter import Array
from autotune.algorithms.graph import Clip, Connections, Layer
from autotune.notes import listed


@dataclass(frozen=True, kw_only=True)
class ConvPair:
    """Two convolutions with nothing but a Relu or Clip between them.

    Attributes:
        first: Writes ``written``.
        second: Reads ``read``.
        written: The tensor that the first one writes.
        read: The tensor that the second one reads: ``written`` itself, or what the activation makes of it.
        activation: The activation between the two; None where there is none.
    """

    first: Layer
    second: Layer
    written: str
    read: str
    activation: Clip | None

    @property
    def cap(self) -> float:
        """Upper bound of the activation, infinity for Relu; infinity where there is none."""
        return math.inf if self.activation is None else self.activation.high

    @property
    def groups(self) -> int:
        """Groups of the second convolution."""
        return self.second.groups

    @property
    def padded(self) -> bool:
        """Whether the second convolution sees zeros that the first one did not write."""
        return self.second.convolution is not None and self.second.convolution.padded


def find_pairs(
    connections: Connections, layers: Sequence[Layer], int8: Collection[str], tied: Collection[str] = ()
) -> tuple[list[ConvPair], list[str]]:
    """The pairs among the given layers, in graph order, and a line for each reason why others are none.

    Args:
        connections: Connections of the fp32 model.
        layers: The model's layers whose weights may be changed.
        int8: Names of those that become int8. A tensor between two convolutions is quantized as soon as one of them is
            int8; a pair of which none is gains nothing.
        tied: Tensors that are scaled with others already, so that they are no pair's.
    """
    convs = {layer.output: layer for layer in layers if layer.convolution is not None}
    pairs: list[ConvPair] = []
    refused: dict[str, list[str]] = {}
    for second in convs.values():
        if second.source in tied:
            continue
        found = _pair(connections, convs, second)
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


def _pair(connections: Connections, convs: Mapping[str, Layer], second: Layer) -> ConvPair | str:
    """The pair that ends in ``second``; else the reason, empty where none is worth a note."""
    read = written = second.source
    node = connections.writers.get(read)
    if node is None:
        return ""
    activation = None
    if isinstance(node, Clip):
        if node.low != 0.0:
            return "the Clip before it does not start at zero, or its bounds are computed at run time"
        activation, written = node, node.reads[0]
    first = convs.get(written)
    if first is None:
        return ""
    if not (connections.read_once(read) and connections.read_once(written)):
        return "another op reads what the convolution before it writes"
    for layer in (first, second):
        for name in (layer.weight, layer.bias):
            if name is not None and not connections.read_once(name):
                return f"{name!r} is shared between ops"
    return ConvPair(first=first, second=second, written=written, read=read, activation=activation)


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
