"""The graph as the recipes' algorithms see it: nodes that can be run one at a time.

See :class:`autotune.algorithms.graph.LayerGraph`. A node that writes a number or several tensors is part of those that
read it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import fx

from autotune.adapter import Array
from autotune.adapters.pytorch.graph import ATEN, array, constant, constant_of, is_tensor, tensor
from autotune.adapters.pytorch.ops import ADD, QuantizableOp, nodes_by_name
from autotune.algorithms.graph import Clip, Convolution, Layer, Node, Scaled, Sum, Values

_HARDTANH = ATEN.hardtanh.default
_RELU = ATEN.relu.default
_RELU6 = ATEN.relu6.default
_CLAMP = (ATEN.clamp.default, _HARDTANH, ATEN.clamp_min.default, ATEN.clamp_max.default)

CLIPS = (_RELU, _RELU6, *_CLAMP)
"""Activations that cut."""


class PytorchGraph:
    """See :class:`autotune.algorithms.graph.LayerGraph`.

    Args:
        module: A flat graph in fp32.
        ops: Those that can be quantized.
    """

    def __init__(self, module: fx.GraphModule, ops: Sequence[QuantizableOp]) -> None:
        self._module = module
        self._ops = {op.node: op for op in ops}
        self._fx = nodes_by_name(module)
        (output,) = (node for node in module.graph.nodes if node.op == "output")
        self.outputs: Collection[str] = {node.name for node in output.args[0]}
        self._parts: dict[str, tuple[fx.Node, ...]] = {}
        self.nodes: Sequence[Node] = [
            self._described(node) for node in module.graph.nodes if node.op == "call_function" and is_tensor(node)
        ]

    @cached_property
    def constants(self) -> Mapping[str, Array]:
        """Parameters and buffers by their names."""
        names = {str(node.target) for node in self._module.graph.nodes if node.op == "get_attr"}
        return {name: array(constant(self._module, name)) for name in sorted(names)}

    def run(
        self, node: Node, values: Mapping[str, Values], constants: Mapping[str, Array] | None = None
    ) -> Mapping[str, Values]:
        """See :meth:`autotune.algorithms.graph.LayerGraph.run`."""
        parts = self._parts[node.writes[0]]
        given = {name: tensor(value) for name, value in (constants or {}).items() if name in node.reads}
        reads = [name for name in node.reads if name not in self.constants]
        chunks = len(values[reads[0]]) if reads else len(next(iter(values.values())))
        found: Values = []
        for chunk in range(chunks):
            environment: dict[str, Any] = {name: tensor(values[name][chunk]) for name in reads}
            with torch.no_grad():
                for part in parts:
                    environment[part.name] = self._computed(part, environment, given)
            found.append(array(environment[parts[-1].name]).copy())
        return {node.writes[0]: found}

    def _computed(self, part: fx.Node, environment: Mapping[str, Any], given: Mapping[str, torch.Tensor]) -> Any:
        if part.op == "get_attr":
            name = str(part.target)
            return given[name] if name in given else constant(self._module, name)
        args, kwargs = fx.map_arg((part.args, part.kwargs), lambda node: environment[node.name])
        assert callable(part.target)
        return part.target(*args, **kwargs)

    def _described(self, node: fx.Node) -> Node:
        parts, tensors = _parts(node)
        self._parts[node.name] = parts
        constants = [str(part.target) for part in parts if part.op == "get_attr"]
        reads, writes = tuple(dict.fromkeys((*tensors, *constants))), (node.name,)
        op = self._ops.get(node.name)
        name = node.name if op is None else op.name
        if op is not None and op.weight is not None:
            return self._layer(op, node, reads)
        if node.target is ADD and len(tensors) == 2 and not constants and not node.kwargs:
            return Sum(name=name, reads=reads, writes=writes)
        if (ends := _clip(node)) is not None:
            low, high = ends
            return Clip(name=name, reads=reads, writes=writes, low=low, high=high)
        if node.target is ATEN.layer_norm.default and len(node.args[1]) == 1:
            vectors = tuple(str(each.target) for each in node.args[2:4] if constant_of(self._module, each) is not None)
            if len(vectors) == len([each for each in node.args[2:4] if each is not None]) > 0:
                return Scaled(name=name, reads=reads, writes=writes, vectors=vectors)
        return Node(name=name, reads=reads, writes=writes)

    def _layer(self, op: QuantizableOp, node: fx.Node, reads: tuple[str, ...]) -> Layer:
        source, bias = node.args[0], node.args[2] if len(node.args) > 2 else None
        assert isinstance(source, fx.Node)
        assert op.weight is not None
        values = constant_of(self._module, bias)
        return Layer(
            name=op.name,
            reads=reads,
            writes=(node.name,),
            source=source.name,
            weight=op.weight,
            axis=0,
            bias=str(bias.target) if values is not None and isinstance(bias, fx.Node) else None,
            convolution=convolution_of(node) if op.convolves else None,
        )


def convolution_of(node: fx.Node) -> Convolution:
    """How a convolution goes over what it reads."""
    axes = node.args[1].meta["val"].ndim - 2
    given = dict(enumerate(node.args))
    strides, pads, dilations = (_each(given.get(place, default), axes) for place, default in ((3, 1), (4, 0), (5, 1)))
    groups = given.get(6, 1)
    assert isinstance(groups, int)
    return Convolution(groups=groups, strides=strides, dilations=dilations, pads=(*pads, *pads))


def _each(value: Any, axes: int) -> tuple[int, ...]:
    """One number for each spatial axis; a single one stands for all."""
    values = [value] if isinstance(value, int) else list(value)
    return tuple(values * axes) if len(values) == 1 else tuple(values)


def _clip(node: fx.Node) -> tuple[float, float] | None:
    """The ends of an activation that cuts; NaN where one is computed. None for any other node."""
    if node.target is _RELU:
        return 0.0, math.inf
    if node.target is _RELU6:
        return 0.0, 6.0
    if node.target not in _CLAMP or not isinstance(node.args[0], fx.Node):
        return None
    default = (-1.0, 1.0) if node.target is _HARDTANH else (-math.inf, math.inf)
    given: list[Any] = list(node.args[1:3])
    low, high = given + list(default[len(given) :])
    if node.target is ATEN.clamp_max.default:
        low, high = -math.inf, node.args[1]
    ends = [default[place] if end is None else end for place, end in enumerate((low, high))]
    if any(isinstance(end, fx.Node) for end in ends):
        return math.nan, math.nan
    return float(ends[0]), float(ends[1])


def _parts(node: fx.Node) -> tuple[tuple[fx.Node, ...], list[str]]:
    """A node behind all that writes no tensor and that it needs, in order, and the tensors that these read."""
    parts: dict[fx.Node, None] = {}
    tensors: dict[str, None] = {}

    def visit(each: fx.Node) -> None:
        for read in each.all_input_nodes:
            if read.op == "get_attr":
                parts.setdefault(read)
            elif read.op == "placeholder" or is_tensor(read):
                tensors.setdefault(read.name)
            elif read not in parts:
                visit(read)
        parts.setdefault(each)

    visit(node)
    return tuple(parts), list(tensors)
