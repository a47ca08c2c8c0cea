"""A toy graph in NumPy: what an adapter has to implement so that the recipes' algorithms work on its models."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from autotune.adapter import Array, Feeds
from autotune.algorithms.graph import Clip, Convolution, Layer, Node, Scaled, Sum, Values
from autotune.batch import BatchAxes
from autotune.calibration import CalibrationStatistics, StatisticsCollector
from autotune.config import MINMAX, OpConfig, Precision, QuantizationConfig, Recipe, TensorScheme

AXES = BatchAxes(inputs={"x": 0}, outputs=(0,), resizable=True)


class NumpyGraph:
    """A :class:`~autotune.algorithms.graph.LayerGraph` that keeps count of the nodes it ran.

    Args:
        nodes: In order; the last one writes what the model returns.
        constants: By name.
        plain: Functions of nodes that are no layer, clip, sum or scaling, by name.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        constants: Mapping[str, Array],
        plain: Mapping[str, Callable[..., Array]] | None = None,
    ) -> None:
        self.nodes = tuple(nodes)
        self.constants = {name: np.asarray(array, np.float32) for name, array in constants.items()}
        self.outputs: Collection[str] = {nodes[-1].writes[0]}
        self.ran: list[str] = []
        self._plain = plain or {}

    def run(
        self, node: Node, values: Mapping[str, Values], constants: Mapping[str, Array] | None = None
    ) -> dict[str, Values]:
        self.ran.append(node.name)
        known = {**self.constants, **(constants or {})}
        chunks = len(next(iter(values.values())))
        written = []
        for chunk in range(chunks):
            inputs = [known[name] if name in known else values[name][chunk] for name in node.reads]
            written.append(np.asarray(self._compute(node, inputs), np.float32))
        return {node.writes[0]: written}

    def _compute(self, node: Node, inputs: Sequence[Array]) -> Array:
        if isinstance(node, Layer):
            bias = inputs[2] if node.bias else np.zeros(1, np.float32)
            if node.convolution is not None:
                return np.asarray(convolve(inputs[0], inputs[1], node.convolution) + bias.reshape(-1, 1, 1))
            return np.asarray(inputs[0] @ (inputs[1] if node.axis == 1 else inputs[1].T) + bias)
        if isinstance(node, Clip):
            return np.asarray(np.clip(inputs[0], node.low, node.high))
        if isinstance(node, Sum):
            return np.asarray(sum(inputs))
        if isinstance(node, Scaled):
            return np.asarray(inputs[0] * inputs[1])
        return self._plain[node.name](*inputs)

    def tensors(
        self,
        feeds: Feeds,
        constants: Mapping[str, Array] | None = None,
        bounds: Mapping[str, Array] | None = None,
        quantizers: Mapping[str, Callable[[Array], Array]] | None = None,
    ) -> dict[str, Array]:
        """All tensors of one call.

        Args:
            feeds: The call.
            constants: In place of the graph's own.
            bounds: Upper ends of channels in place of those of clips, by tensor.
            quantizers: Functions that change tensors as soon as they are written.
        """
        made = quantizers or {}
        found = {name: made.get(name, np.asarray)(array) for name, array in feeds.items()}
        for node in self.nodes:
            values = {name: [array] for name, array in found.items()}
            for name, (array,) in self.run(node, values, constants).items():
                kept = array
                if bounds is not None and name in bounds:
                    kept = np.clip(found[node.reads[0]], 0.0, bounds[name].reshape(-1, 1, 1))
                found[name] = made.get(name, np.asarray)(kept)
        return found

    def output(
        self,
        feeds: Feeds,
        constants: Mapping[str, Array] | None = None,
        bounds: Mapping[str, Array] | None = None,
        quantizers: Mapping[str, Callable[[Array], Array]] | None = None,
    ) -> Array:
        return self.tensors(feeds, constants, bounds, quantizers)[self.nodes[-1].writes[0]]

    def statistics(self, batches: Sequence[Feeds]) -> CalibrationStatistics:
        """Calibration statistics: every batch is an example too."""
        written = self.tensors(batches[0])
        collector = StatisticsCollector({name: 1 if array.ndim == 4 else -1 for name, array in written.items()}, seed=0)
        for feeds in batches:
            for name, array in self.tensors(feeds).items():
                collector.update(name, array)
        found = collector.finish(sum(len(feeds["x"]) for feeds in batches))
        return CalibrationStatistics(tensors=found.tensors, samples=found.samples, examples=tuple(batches))


def convolve(array: Array, weight: Array, convolution: Convolution) -> Array:
    """The convolution, in loops over groups and positions of the kernel."""
    assert convolution.pads is not None
    top, left, bottom, right = convolution.pads
    padded = np.pad(array, [(0, 0), (0, 0), (top, bottom), (left, right)]).astype(np.float64)
    (rows, columns), (down, across) = weight.shape[2:], convolution.dilations
    height = (padded.shape[2] - (rows - 1) * down - 1) // convolution.strides[0] + 1
    width = (padded.shape[3] - (columns - 1) * across - 1) // convolution.strides[1] + 1
    inputs = padded.reshape(len(array), convolution.groups, -1, *padded.shape[2:])
    filters = weight.reshape(convolution.groups, -1, *weight.shape[1:]).astype(np.float64)
    total = np.zeros((len(array), convolution.groups, filters.shape[1], height, width))
    for row in range(rows):
        for column in range(columns):
            seen = inputs[
                :,
                :,
                :,
                row * down : row * down + (height - 1) * convolution.strides[0] + 1 : convolution.strides[0],
                column * across : column * across + (width - 1) * convolution.strides[1] + 1 : convolution.strides[1],
            ]
            total += np.einsum("ngihw,goi->ngohw", seen, filters[..., row, column])
    return total.reshape(len(array), -1, height, width)


def conv(name: str, source: str, *, bias: bool = True, groups: int = 1, pads: int = 0) -> Layer:
    """A convolution that writes ``name`` with the constants ``name/w`` and ``name/b``."""
    constants = (f"{name}/w", f"{name}/b") if bias else (f"{name}/w",)
    return Layer(
        name=name,
        reads=(source, *constants),
        writes=(name,),
        source=source,
        weight=f"{name}/w",
        axis=0,
        bias=f"{name}/b" if bias else None,
        convolution=Convolution(groups=groups, strides=(1, 1), dilations=(1, 1), pads=(pads,) * 4),
    )


def product(name: str, source: str, *, axis: int = 1, bias: bool = False) -> Layer:
    """A matrix product that writes ``name`` with the constants ``name/w`` and ``name/b``."""
    constants = (f"{name}/w", f"{name}/b") if bias else (f"{name}/w",)
    return Layer(
        name=name,
        reads=(source, *constants),
        writes=(name,),
        source=source,
        weight=f"{name}/w",
        axis=axis,
        bias=f"{name}/b" if bias else None,
    )


def relu(name: str, source: str, high: float = np.inf) -> Clip:
    return Clip(name=name, reads=(source,), writes=(name,), low=0.0, high=high)


def add(name: str, *sources: str) -> Sum:
    return Sum(name=name, reads=sources, writes=(name,))


def int8(graph: NumpyGraph, scheme: TensorScheme, recipe: Recipe, fp32: Collection[str] = ()) -> QuantizationConfig:
    """A config with all layers in int8 but for some."""
    names = [node.name for node in graph.nodes if isinstance(node, Layer) and node.name not in fp32]
    activation = TensorScheme(dtype=scheme.dtype)
    choice = OpConfig(precision=Precision.INT8, activation=activation, weight=scheme, calibration=MINMAX)
    return QuantizationConfig(ops=dict.fromkeys(names, choice), recipe=recipe)
