"""Weights and biases of int8 ops, by the algorithms that all adapters share.

The file keeps fp32 weights. MXNet makes integers of them when a model is first run: the largest magnitude of each
output channel becomes 127. Weights that stand on a grid already come out as they were where each channel holds one of
127, which is seen to here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autotune.adapter import Array
from autotune.adapters.mxnet.channels import Channels
from autotune.algorithms import AffineParameters, WeightLimits
from autotune.algorithms.corrections import QuantizedGraph, corrected_constants, quantized_layers
from autotune.algorithms.graph import Layer
from autotune.algorithms.grids import WeightGrid, grid_of
from autotune.batch import axes_of
from autotune.config import QuantizationConfig, QuantizedType

_LARGEST = 127


def corrected_weights(
    channels: Channels,
    config: QuantizationConfig,
    chosen: Sequence[str],
    tensors: Mapping[str, tuple[AffineParameters, QuantizedType]],
) -> tuple[dict[str, Array], list[str]]:
    """Weights on their grids and corrected biases by name, and a line for what was left undone.

    Args:
        channels: The fp32 model with channels as the recipe wants them.
        config: The candidate's config.
        chosen: Names of its int8 ops.
        tensors: By tensor that is quantized: scale, zero point and type.
    """
    graph = channels.reference.layers
    layers = {node.name: node for node in graph.nodes if isinstance(node, Layer) and node.name in chosen}
    grids = {
        name: grid_of(graph.constants[layer.weight], config[name], WeightLimits()) for name, layer in layers.items()
    }
    quantized = QuantizedGraph(
        graph=graph, layers=quantized_layers(graph, grids), tensors=tensors, ranges=channels.ranges
    )
    found, notes = corrected_constants(quantized, config.recipe, channels.statistics, axes_of(channels.model))
    weights = {layer.weight: grids[name] for name, layer in layers.items()}
    rounded = {name: _kept(grid, found.get(name, grid.nearest)) for name, grid in weights.items()}
    return {**found, **rounded}, notes


def _kept(grid: WeightGrid, rounded: Array) -> Array:
    """A weight on its grid whose channels have a largest magnitude of 127 steps, so that MXNet finds the same grid."""
    integers = grid.integers(rounded)
    flat = integers.reshape(len(integers), -1)
    channels = np.arange(len(flat))
    places = np.abs(flat.astype(np.int16)).argmax(axis=1)
    largest = flat[channels, places]
    flat[channels, places] = np.sign(largest) * _LARGEST
    scale = np.asarray(grid.parameters.scale).reshape(-1, *[1] * (integers.ndim - 1))
    return np.asarray(integers * scale, np.float32)
