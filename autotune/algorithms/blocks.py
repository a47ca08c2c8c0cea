"""Grids for weights in blocks: every few values of a row share a scale and a zero point.

Three ways to choose them and to round, in order of their price:

*RTN*: the grid spans a block from its smallest to its largest value, and every value is rounded to the nearest.

*HQQ*: rounding, and solving for the grid in closed form, take turns. H. Badri and A. Shaji, "Half-Quadratic
Quantization of Large Machine Learning Models" (2023), who solve for the zero point alone and let it become a fraction.
Here it is rounded and the scale solved for as well, since ONNX Runtime's CPU kernel takes fractions at a twentieth of
the speed with 4 bits, and not at all with 8 (``benchmarks/weight_kernels.py``). Two more changes, each of which
lessened the squared error of normal and of Student's t weights: the norm is the quadratic one, with which their
shrinkage step falls away, and it starts from several shares of the block's range. A block keeps the best grid that it
met, RTN's included.

*GPTQ* (arXiv 2210.17323): values are rounded one input after the other, each making up for the errors of those before
it, :mod:`.gptq`, on the grid of HQQ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from autotune.adapter import Array
from autotune.algorithms.gptq import LARGEST_INPUTS, matmul_moments, round_by_gptq
from autotune.algorithms.graph import Connections, Layer, LayerGraph, Values
from autotune.config import WeightOnly
from autotune.notes import listed

_SHARES = (1.0, 1.05, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""Shares of a block's range from which HQQ starts; the first is RTN's."""

_TURNS = 3
"""Refinements from each of these starts; more of them change nothing."""

_AT_ONCE = 1 << 22
"""Values that are worked on together: what is needed besides them stays small."""


@dataclass(frozen=True, kw_only=True)
class BlockGrid:
    """Which values a matrix can take: ``scale * (integer - zero_point)``.

    Attributes:
        scales: float32, (rows, blocks).
        zero_points: uint8, (rows, blocks).
        bits: 4 or 8.
        block: Values of a row that share a scale.
    """

    scales: Array
    zero_points: Array
    bits: int
    block: int


def block_grid(rows: Array, bits: int, block: int, algorithm: WeightOnly) -> BlockGrid:
    """The grid on which ``algorithm`` rounds a matrix.

    Args:
        rows: float32, (rows, values).
        bits: 4 or 8.
        block: Values of a row that share a scale.
        algorithm: GPTQ's grid is that of HQQ.
    """
    blocks = _in_blocks(rows, block)
    scales, zero_points = np.empty(blocks.shape[:2], np.float32), np.empty(blocks.shape[:2], np.uint8)
    step = max(1, _AT_ONCE // max(1, blocks[0].size))
    for start in range(0, len(blocks), step):
        part = slice(start, start + step)
        scale, zero_point = _whole_range(blocks[part], bits)
        if algorithm is not WeightOnly.RTN:
            scale, zero_point = _half_quadratic(blocks[part], scale, zero_point, bits)
        scales[part], zero_points[part] = scale, zero_point
    return BlockGrid(scales=scales, zero_points=zero_points, bits=bits, block=block)


def round_to_grid(rows: Array, grid: BlockGrid) -> Array:
    """The integers nearest to a matrix: uint8, (rows, blocks, block); the last block is filled up with zeros."""
    blocks = _in_blocks(rows, grid.block)
    integers = np.rint(blocks / grid.scales[..., None]) + grid.zero_points[..., None]
    return np.asarray(np.clip(integers, 0, 2**grid.bits - 1), np.uint8)


def values_of(integers: Array, grid: BlockGrid, count: int) -> Array:
    """The values that integers stand for: float32, (rows, count)."""
    values = (integers.astype(np.float32) - grid.zero_points[..., None]) * grid.scales[..., None]
    return np.asarray(values.reshape(len(values), -1)[:, :count], np.float32)


def _in_blocks(rows: Array, block: int) -> Array:
    count = -(-rows.shape[1] // block)
    padded = np.zeros((len(rows), count * block), np.float32)
    padded[:, : rows.shape[1]] = rows
    return padded.reshape(len(rows), count, block)


def _whole_range(blocks: Array, bits: int) -> tuple[Array, Array]:
    """Scales and zero points that leave out no value; zero is among the values of the grid."""
    largest = np.float32(2**bits - 1)
    low, high = np.minimum(blocks.min(axis=2), 0.0), np.maximum(blocks.max(axis=2), 0.0)
    scales = np.where(high > low, (high - low) / largest, np.float32(1.0)).astype(np.float32)
    return scales, np.clip(np.rint(-low / scales), 0, largest).astype(np.float32)


def _half_quadratic(blocks: Array, whole: Array, zero: Array, bits: int) -> tuple[Array, Array]:
    largest = np.float32(2**bits - 1)
    best = whole, zero
    least = np.full(whole.shape, np.inf, np.float32)
    for share in _SHARES:
        scale, zero_point = whole * np.float32(share), zero
        for _ in range(_TURNS):
            integers = np.clip(np.rint(blocks / scale[..., None]) + zero_point[..., None], 0, largest)
            error = blocks - (integers - zero_point[..., None]) * scale[..., None]
            squared = np.square(error).sum(axis=2)
            better = squared < least
            best = np.where(better, scale, best[0]), np.where(better, zero_point, best[1])
            least = np.where(better, squared, least)
            scale, zero_point = _fitted(blocks, integers, scale, largest)
    return best


def _fitted(blocks: Array, integers: Array, scale: Array, largest: np.float32) -> tuple[Array, Array]:
    """Scales and zero points of least squares for given integers, the zero point rounded first."""
    mean = (integers - blocks / scale[..., None]).mean(axis=2)
    zero_point = np.clip(np.rint(mean), 0, largest).astype(np.float32)
    centred = integers - zero_point[..., None]
    power = np.square(centred).sum(axis=2)
    fitted = (centred * blocks).sum(axis=2) / np.where(power > 0, power, 1.0)
    return np.where((power > 0) & (fitted > 0), fitted, scale).astype(np.float32), zero_point


@dataclass(frozen=True, kw_only=True)
class BlockLayer:
    """Rounds the matrix of one layer by GPTQ; a :class:`~autotune.algorithms.layerwise.Correction`.

    Attributes:
        layer: The layer, a matrix product.
        grid: Grid of the layer's matrix, whose rows are the layer's outputs.
        constants: Constants of the layer's graph.
    """

    layer: Layer
    grid: BlockGrid
    constants: Mapping[str, Array]

    @property
    def source(self) -> str:
        """The tensor that is multiplied by the matrix."""
        return self.layer.source

    def weights(self, source: Values) -> Mapping[str, Array]:
        """The matrix on its grid."""
        weight = np.asarray(self.constants[self.layer.weight], np.float32)
        rows = np.ascontiguousarray(weight if self.layer.axis == 0 else weight.T)
        scales, zero_points = (
            np.repeat(each, self.grid.block, axis=1)[None, :, : rows.shape[1]]
            for each in (self.grid.scales, self.grid.zero_points)
        )
        integers = 0, 2**self.grid.bits - 1
        rounded = round_by_gptq(rows[None], scales, zero_points, matmul_moments(source), integers)[0]
        return {self.layer.weight: rounded if self.layer.axis == 0 else np.ascontiguousarray(rounded.T)}

    def bias(self, outputs: Values, target: Values) -> tuple[Mapping[str, Array], Array | None]:  # noqa: ARG002
        """No bias is changed."""
        return {}, None


def gptq_blocks(graph: LayerGraph, grids: Mapping[str, BlockGrid]) -> tuple[dict[str, BlockLayer], list[str]]:
    """The layers that GPTQ rounds, by name, and a note for each that is rounded to nearest instead.

    Args:
        graph: Graph of the fp32 model.
        grids: By layer, matrix products with a matrix each; other ops have no inputs to round for, and are passed over.
    """
    connections = Connections(graph.nodes, graph.outputs)
    layers, left = {}, []
    for node in graph.nodes:
        if not isinstance(node, Layer) or node.name not in grids:
            continue
        inputs = graph.constants[node.weight].shape[1 - int(node.axis or 0)]
        if not connections.read_once(node.weight) or inputs > LARGEST_INPUTS:
            left.append(node.name)
        else:
            layers[node.name] = BlockLayer(layer=node, grid=grids[node.name], constants=graph.constants)
    if not left:
        return layers, []
    return layers, [
        f"GPTQ leaves the weights of {listed(left)} to HQQ: other ops read them too, or an output has more than "
        f"{LARGEST_INPUTS} inputs"
    ]
