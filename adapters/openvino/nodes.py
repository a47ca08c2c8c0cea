"""The nodes of a graph as the recipes' algorithms know them; several nodes of OpenVINO may make up one of theirs.

A convolution or product goes with the Add of its bias, a Maximum with the Minimum behind it (the ONNX reader makes both
of a Clip), and a Multiply by a vector with the Add of one (it makes both of a LayerNormalization's scale and bias).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as opset

from autotune.adapter import Array
from autotune.adapters.openvino.biases import Bias, bias_name, weight_name
from autotune.adapters.openvino.ops import QuantizableOp, constant_value, tensor_name
from autotune.algorithms.graph import Clip, Convolution, Layer, Node, Scaled, Sum

_NOT_RUN = frozenset({"Constant", "Parameter", "Result"})


@dataclass(frozen=True, kw_only=True, eq=False)
class GraphNode:
    """A node of the algorithms, and the nodes of the graph that it stands for.

    Attributes:
        node: The node as the algorithms see it.
        inputs: The inputs that other nodes write, or the caller of the model.
        last: The node of the graph that writes what ``node`` writes.
        parts: Names of all nodes of the graph that it stands for.
        constants: Values of the constants that the algorithms may look at, by name.
        op: The op whose weight and bias these are; None where they are vectors, or where there are none.
        vectors: By name: the inputs that read the vectors.
    """

    node: Node
    inputs: tuple[Any, ...]
    last: ov.Node
    parts: frozenset[str]
    constants: Mapping[str, Array]
    op: QuantizableOp | None = None
    vectors: Mapping[str, Any] = field(default_factory=dict)

    def replace(self, constants: Mapping[str, Array]) -> None:
        """Let the graph read other values of the constants; those of other nodes are passed over."""
        op = self.op
        if op is not None and weight_name(op) in constants:
            weight = opset.constant(np.ascontiguousarray(op.as_read(constants[weight_name(op)]), np.float32))
            weight.set_friendly_name(weight_name(op))
            op.node.input(1).replace_source_output(weight.output(0))
        if op is not None and bias_name(op) in constants:
            Bias(op).replace(constants[bias_name(op)])
        for name, port in self.vectors.items():
            if name in constants:
                shape = list(port.get_source_output().get_shape())
                vector = opset.constant(np.asarray(constants[name], np.float32).reshape(shape))
                port.replace_source_output(vector.output(0))


def graph_nodes(graph: ov.Model, ops: Sequence[QuantizableOp]) -> list[GraphNode]:
    """The nodes that depend on inputs of the model, in an order in which they can run.

    Args:
        graph: Graph of the model.
        ops: Its ops with a constant weight that has output channels.
    """
    return _Nodes(graph, ops).found()


class _Nodes:
    """Takes the nodes of a graph together.

    Args:
        graph: Graph of the model.
        ops: Its ops with a constant weight that has output channels.
    """

    def __init__(self, graph: ov.Model, ops: Sequence[QuantizableOp]) -> None:
        self._ordered = graph.get_ordered_ops()
        self._ops = {op.node.get_name(): op for op in ops}
        self._names = {op.name for op in ops}
        self._fixed: set[str] = set()  # nodes into which nothing but constants goes
        for node in self._ordered:
            reads = node.input_values()
            if node.get_type_name() == "Constant" or (reads and all(self._is_fixed(port) for port in reads)):
                self._fixed.add(node.get_name())

    def found(self) -> list[GraphNode]:
        """All of them."""
        taken: set[str] = set()
        nodes = []
        for node in self._ordered:
            if node.get_type_name() in _NOT_RUN or node.get_name() in taken | self._fixed:
                continue
            op = self._ops.get(node.get_name())
            made = self._layer(op) if op is not None else self._clip(node) or self._scaled(node) or self._other(node)
            taken |= made.parts
            nodes.append(made)
        return nodes

    def _layer(self, op: QuantizableOp) -> GraphNode:
        bias = Bias(op)
        parts = [op.node] if bias.values is None or bias.add is None else [op.node, bias.add]
        biases = {} if bias.values is None else {bias_name(op): bias.values}
        constants = {weight_name(op): op.rows, **biases}
        told = self._told(parts, constants)
        layer = Layer(
            **{**told, "name": op.name},
            source=told["reads"][0],
            weight=weight_name(op),
            axis=0,
            bias=next(iter(biases), None),
            convolution=convolution_of(op) if op.convolves else None,
        )
        return self._made(layer, parts, constants, op=op)

    def _clip(self, node: ov.Node) -> GraphNode | None:
        """An activation between two ends, and all such that follow it; None where this is something else."""
        low, high = -math.inf, math.inf
        parts: list[ov.Node] = []
        following: ov.Node | None = node
        while following is not None and (ends := self._ends(following)) is not None:
            both = max(low, ends[0]), min(high, ends[1])
            if both[0] > both[1]:
                break  # one end alone counts, the one that is applied last
            (low, high), parts = both, [*parts, following]
            following = _only_reader(following)
        return self._made(Clip(**self._told(parts), low=low, high=high), parts) if parts else None

    def _ends(self, node: ov.Node) -> tuple[float, float] | None:
        """Between which values a node cuts what it reads; None where it does something else."""
        kind = node.get_type_name()
        if kind not in ("Relu", "Clamp", "Maximum", "Minimum") or node.get_output_element_type(0) != ov.Type.f32:
            return None
        if kind == "Relu":
            return 0.0, math.inf
        if kind == "Clamp":
            options = node.get_attributes()
            return float(options["min"]), float(options["max"])
        place = self._constant_place(node)
        value = None if place is None else constant_value(node.input_value(place).get_node())
        if value is None or value.size != 1 or value.ndim > _rank(node):
            return None
        end = float(value.reshape(()))
        return (end, math.inf) if kind == "Maximum" else (-math.inf, end)

    def _scaled(self, node: ov.Node) -> GraphNode | None:
        """A product with a vector, and the Add of one that follows it; None where this is something else."""
        vectors = self._vector(node, "Multiply")
        if not vectors:
            return None
        add = _only_reader(node)
        added = {} if add is None else self._vector(add, "Add")
        parts = [node] if add is None or not added else [node, add]
        vectors |= added
        values = {name: value.reshape(-1) for name, value in _values(vectors).items()}
        return self._made(Scaled(**self._told(parts, vectors), vectors=tuple(vectors)), parts, values, vectors=vectors)

    def _vector(self, node: ov.Node, kind: str) -> dict[str, Any]:
        """The input of a node of this kind that is a vector along the last axis of what it writes, by a name."""
        place, rank = self._constant_place(node) if node.get_type_name() == kind else None, _rank(node)
        value = None if place is None or rank == 0 else constant_value(node.input_value(place).get_node())
        if value is None or place is None or value.dtype.kind != "f" or value.ndim > rank:
            return {}
        along = value.size > 1 and value.size == value.shape[-1]
        return {f"{node.get_friendly_name()}/vector": node.input(place)} if along else {}

    def _other(self, node: ov.Node) -> GraphNode:
        """A sum or a node that is only run."""
        summed = node.get_type_name() == "Add"
        place = self._constant_place(node) if summed else None
        addend = {} if place is None else {f"{node.get_friendly_name()}/addend": node.input(place)}
        values = _values(addend)
        if not summed or len(values) < len(addend):
            return self._made(Node(**self._told([node])), [node])
        return self._made(Sum(**self._told([node], addend)), [node], values, vectors=addend)

    def _made(
        self,
        node: Node,
        parts: Sequence[ov.Node],
        constants: Mapping[str, Array] | None = None,
        *,
        op: QuantizableOp | None = None,
        vectors: Mapping[str, Any] | None = None,
    ) -> GraphNode:
        return GraphNode(
            node=node,
            inputs=self._inputs(parts),
            last=parts[-1],
            parts=frozenset(part.get_name() for part in parts),
            constants=constants or {},
            op=op,
            vectors=vectors or {},
        )

    def _told(self, parts: Sequence[ov.Node], constants: Collection[str] = ()) -> dict[str, Any]:
        """Name, reads and writes. The Add at the end of a Gemm bears the op's own name, where its bias is a product."""
        writes = tuple(tensor_name(port) for port in parts[-1].outputs())
        read = dict.fromkeys(tensor_name(port.get_source_output()) for port in self._inputs(parts))
        name = f"{writes[0]}/node" if writes[0] in self._names else writes[0]
        return {"name": name, "reads": (*read, *constants), "writes": writes}

    def _inputs(self, parts: Sequence[ov.Node]) -> tuple[Any, ...]:
        inner = {part.get_name() for part in parts}
        ports = [(port, port.get_source_output()) for part in parts for port in part.inputs()]
        return tuple(
            port for port, source in ports if not self._is_fixed(source) and source.get_node().get_name() not in inner
        )

    def _constant_place(self, node: ov.Node) -> int | None:
        """Which of two inputs is constant; None where none is."""
        return next((place for place in (0, 1) if self._is_fixed(node.input_value(place))), None)

    def _is_fixed(self, port: Any) -> bool:
        return port.get_node().get_name() in self._fixed


def convolution_of(op: QuantizableOp) -> Convolution:
    """How a convolution goes over what it reads."""
    options = op.node.get_attributes()
    chosen_at_run_time = options["auto_pad"].startswith("same")
    return Convolution(
        groups=op.groups,
        strides=tuple(options["strides"]),
        dilations=tuple(options["dilations"]),
        pads=None if chosen_at_run_time else (*options["pads_begin"], *options["pads_end"]),
    )


def _values(ports: Mapping[str, Any]) -> dict[str, Array]:
    """Constants that inputs read, by name of the input; computed ones are left out."""
    read = {name: constant_value(port.get_source_output().get_node()) for name, port in ports.items()}
    return {name: np.asarray(value) for name, value in read.items() if value is not None}


def _only_reader(node: ov.Node) -> ov.Node | None:
    """The node that alone reads what another one writes; None where several do. An output of the model is a reader."""
    readers = list(node.output(0).get_target_inputs())
    return readers[0].get_node() if len(readers) == 1 else None


def _rank(node: ov.Node) -> int:
    """Number of axes of what a node writes; 0 where that is not known."""
    rank = node.get_output_partial_shape(0).rank
    return 0 if rank.is_dynamic else int(rank.get_length())
