"""The graph as the recipes' algorithms see it: nodes that can be run one at a time, and constants that can be changed.

See :class:`autotune.algorithms.graph.LayerGraph`. TensorFlow lays pictures out with channels last, the algorithms have
them along axis 1: arrays of four axes are transposed on the way in and out.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from autotune.adapter import Array
from autotune.adapters.tensorflow.graph import Graph, free_shape_of
from autotune.adapters.tensorflow.ops import CONV, DENSE, DEPTHWISE, QuantizableOp, quantizable_ops
from autotune.adapters.tensorflow.session import new_interpreter
from autotune.adapters.tensorflow.single import single_op
from autotune.adapters.tensorflow.unfuse import Unfused, tensor_key
from autotune.algorithms.graph import Clip, Convolution, Layer, Node, Sum, Values

_CLIPS = {"RELU": (0.0, math.inf), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}
_LAYERS = frozenset({CONV, DEPTHWISE, DENSE})
_SAME = 0


class TensorFlowGraph:
    """See :class:`autotune.algorithms.graph.LayerGraph`.

    Args:
        content: Bytes of the fp32 model.
        bounds: By key of the tensor that a Clip writes: the upper end of each channel in place of its own.
    """

    def __init__(self, content: bytes, bounds: Mapping[str, Array] | None = None) -> None:
        self._unfused = Unfused(content)
        self._graph = self._unfused.graph
        self._bounds = bounds or {}
        ops = {id(self._unfused.operators[op.place]): op for op in quantizable_ops(Graph(content))}
        self._operators: dict[str, Any] = {}
        self._ready: dict[str, Any] = {}
        self._layers: list[QuantizableOp] = []
        self.outputs: Collection[str] = {self._unfused.keys[place] for place in self._graph.outputs}
        self.nodes: Sequence[Node] = tuple(
            self._node(operator, ops.get(id(operator))) for operator in self._graph.operators
        )

    @cached_property
    def constants(self) -> Mapping[str, Array]:
        """Weights and biases that the algorithms may change; other constants stay inside of their nodes."""
        found: dict[str, Array] = {}
        for op in self._layers:
            for place in (op.weight, op.bias):
                if place is not None:
                    values = self._graph.constant(place)
                    assert values is not None
                    found[tensor_key(place)] = op.rows(values) if place == op.weight else values.reshape(-1)
        return found

    def run(
        self, node: Node, values: Mapping[str, Values], constants: Mapping[str, Array] | None = None
    ) -> Mapping[str, Values]:
        """See :meth:`autotune.algorithms.graph.LayerGraph.run`."""
        if isinstance(node, Clip):
            return {node.writes[0]: [self._clipped(node, chunk) for chunk in values[node.reads[0]]]}
        operator = self._operators[node.name]
        given = {name: value for name, value in (constants or {}).items() if name in node.reads}
        ready = None if given else self._ready.get(node.name)
        if ready is None:
            ready = _Ready(single_op(self._graph, operator, self._stored(node, given)))
        if not given:
            self._ready[node.name] = ready
        reads = [name for name in node.reads if name not in self.constants]
        written: dict[str, Values] = {name: [] for name in node.writes}
        for chunk in range(len(values[reads[0]])):
            outputs = ready([channels_last(values[name][chunk]) for name in reads])
            for name, value in zip(node.writes, outputs, strict=True):
                written[name].append(channels_first(value))
        return written

    def _clipped(self, node: Clip, chunk: Array) -> Array:
        high: Any = node.high
        if node.writes[0] in self._bounds:
            high = np.asarray(self._bounds[node.writes[0]], np.float32).reshape(1, -1, *[1] * (chunk.ndim - 2))
        return np.asarray(np.clip(chunk, np.float32(node.low), high), np.float32)

    def _stored(self, node: Node, constants: Mapping[str, Array]) -> dict[int, Array]:
        """Constants by their place, laid out as the file has them."""
        op = next((each for each in self._layers if each.name == node.name), None)
        found: dict[int, Array] = {}
        for name, value in constants.items():
            place = self._unfused.places[name]
            own = op is not None and place == op.weight
            found[place] = np.asarray(op.as_stored(value) if own and op is not None else value, np.float32)
        return found

    def _node(self, operator: Any, op: QuantizableOp | None) -> Node:
        kind = self._graph.kind(operator)
        keys = self._unfused.keys
        writes = tuple(keys[int(place)] for place in operator.outputs)
        reads = tuple(
            dict.fromkeys(
                keys[int(place)] for place in operator.inputs if place >= 0 and self._graph.constant(int(place)) is None
            )
        )
        told: dict[str, Any] = {
            "name": f"{writes[0] if writes else id(operator)}/node",
            "reads": reads,
            "writes": writes,
        }
        if op is not None and op.kind in _LAYERS and self._has_channels(op):
            return self._layer(operator, op, told)
        self._operators[told["name"]] = operator
        if kind in _CLIPS:
            low, high = _CLIPS[kind]
            return Clip(**told, low=low, high=high)
        if kind == "ADD" and len(reads) == len(operator.inputs):
            return Sum(**told)
        return Node(**told)

    def _layer(self, operator: Any, op: QuantizableOp, told: dict[str, Any]) -> Layer:
        assert op.weight is not None
        self._operators[op.name] = operator
        self._layers.append(op)
        names = [tensor_key(place) for place in (op.weight, op.bias) if place is not None]
        return Layer(
            name=op.name,
            reads=(*told["reads"], *names),
            writes=told["writes"],
            source=told["reads"][0],
            weight=names[0],
            axis=0,
            bias=names[1] if op.bias is not None else None,
            convolution=self._convolution(operator, op) if op.convolves else None,
        )

    def _has_channels(self, op: QuantizableOp) -> bool:
        """Whether channels lie where the algorithms look for them: a dense op may read a picture as one row."""
        rank = len(self._graph.tensors[op.activations[0]].shape)
        return len(op.activations) == 1 and (rank == 4 if op.convolves else rank != 4)

    def _convolution(self, operator: Any, op: QuantizableOp) -> Convolution:
        assert op.weight is not None
        options = operator.builtinOptions
        weight = self._graph.tensors[op.weight].shape
        source = free_shape_of(self._graph.tensors[op.activations[0]])
        strides = int(options.strideH), int(options.strideW)
        dilations = int(options.dilationHFactor), int(options.dilationWFactor)
        kernel = int(weight[1]), int(weight[2])
        channels = int(self._graph.tensors[op.activations[0]].shape[3])
        return Convolution(
            groups=channels if op.kind == DEPTHWISE else channels // int(weight[3]),
            strides=strides,
            dilations=dilations,
            pads=_pads(source[1:3], kernel, strides, dilations) if options.padding == _SAME else (0, 0, 0, 0),
        )


class _Ready:
    """A model of one op, with memory for inputs of the shape that it has last seen."""

    def __init__(self, content: bytes) -> None:
        self._interpreter = new_interpreter(content, 1)
        self._shapes: list[tuple[int, ...]] = []

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        shapes = [array.shape for array in arrays]
        inputs = self._interpreter.get_input_details()
        if shapes != self._shapes:
            for detail, shape in zip(inputs, shapes, strict=True):
                self._interpreter.resize_tensor_input(detail["index"], list(shape))
            self._interpreter.allocate_tensors()
            self._shapes = shapes
        for detail, array in zip(inputs, arrays, strict=True):
            self._interpreter.set_tensor(detail["index"], np.asarray(array, order="C"))
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(each["index"]) for each in self._interpreter.get_output_details()]


def channels_first(value: Array) -> Array:
    """A picture (N, height, width, C) as (N, C, height, width); other arrays as they are."""
    return value.transpose(0, 3, 1, 2) if value.ndim == 4 else value


def channels_last(value: Array) -> Array:
    """The reverse of :func:`channels_first`."""
    return value.transpose(0, 2, 3, 1) if value.ndim == 4 else value


def _pads(
    sizes: Sequence[int | None], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[int, ...] | None:
    """TensorFlow's padding SAME: zeros before and after, of which there is one more after; None for a free size."""
    before, after = [], []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        if size is None:
            return None
        total = max((math.ceil(size / stride) - 1) * stride + (width - 1) * dilation + 1 - size, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return (*before, *after)
