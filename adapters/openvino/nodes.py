"""The nodes of a graph as the recipes' algorithms know them; several nodes of OpenVINO may make up one of theirs.

A convolution or product goes with the Add of its bias, a Maximum with the Minimum behind it (the ONNX reader makes both
of a Clip), and a Multiply by a vector with the Add of one (it makes both of a LayerNormalization's scale and bias).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
        node: What the algorithms see.
        parts: The nodes of the graph in order; the last one writes what ``node`` writes.
        constants: Values of the constants that the algorithms may look at, by name.
        op: The op whose weight and bias these are; None where they are vectors, or where there are none.
        vectors: By name: the inputs of ``parts`` that read the vectors.
    """

    node: Node
    parts: tuple[ov.Node, ...]
    constants: Mapping[str, Array]
    op: QuantizableOp | None = None
    vectors: Mapping[str, Any]

    @property
    def inputs(self) -> list[Any]:
        """The inputs of ``parts`` that other nodes write, or the caller of the model."""
        return _inputs(self.parts)

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


def graph_nodes(graph: ov.Model, ops: Sequence[QuantizableOp]) -> Iterator[GraphNode]:
    """The nodes that depend on inputs of the model, in an order in which they can run.

    Args:
        graph: Of the model.
        ops: Its ops with a constant weight that has output channels.
    """
    by_node = {op.node.get_name(): op for op in ops}
    layers = {op.name for op in ops}
    taken: set[str] = set()
    for node in graph.get_ordered_ops():
        if node.get_type_name() in _NOT_RUN or node.get_name() in taken or _is_fixed(node):
            continue
        op = by_node.get(node.get_name())
        found = _layer(op) if op is not None else _clip(node, layers) or _vector_node(node, layers)
        taken |= {part.get_name() for part in found.parts}
        yield found


def _layer(op: QuantizableOp) -> GraphNode:
    bias = Bias(op)
    parts = (op.node,) if bias.values is None or bias.add is None else (op.node, bias.add)
    biases = {} if bias.values is None else {bias_name(op): bias.values}
    read = _tensors(parts)
    layer = Layer(
        name=op.name,
        reads=(*read, weight_name(op), *biases),
        writes=_written(parts[-1]),
        source=read[0],
        weight=weight_name(op),
        axis=0,
        bias=next(iter(biases), None),
        convolution=convolution_of(op) if op.convolves else None,
    )
    return GraphNode(node=layer, parts=parts, constants={weight_name(op): op.rows, **biases}, op=op, vectors={})


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


def _clip(node: ov.Node, layers: Collection[str]) -> GraphNode | None:
    """An activation between two ends, and all such that follow it; None where this is something else."""
    low, high = -math.inf, math.inf
    parts: list[ov.Node] = []
    following: ov.Node | None = node
    while following is not None and (ends := _ends(following)) is not None:
        both = max(low, ends[0]), min(high, ends[1])
        if both[0] > both[1]:
            break  # one end alone counts, the one that is applied last
        (low, high), parts = both, [*parts, following]
        following = _only_reader(following)
    if not parts:
        return None
    told = _told(parts, layers)
    return GraphNode(node=Clip(**told, low=low, high=high), parts=tuple(parts), constants={}, vectors={})


def _ends(node: ov.Node) -> tuple[float, float] | None:
    """Between which values a node cuts what it reads; None where it does something else."""
    kind = node.get_type_name()
    if node.get_output_element_type(0) != ov.Type.f32:
        return None
    if kind == "Relu":
        return 0.0, math.inf
    if kind == "Clamp":
        options = node.get_attributes()
        return float(options["min"]), float(options["max"])
    place = _constant_place(node) if kind in ("Maximum", "Minimum") else None
    value = None if place is None else constant_value(node.input_value(place).get_node())
    if value is None or value.size != 1 or value.ndim > _rank(node):
        return None
    end = float(value.reshape(()))
    return (end, math.inf) if kind == "Maximum" else (-math.inf, end)


def _vector_node(node: ov.Node, layers: Collection[str]) -> GraphNode:
    """A sum, a node that vectors of its own can divide, or any other one."""
    kind = node.get_type_name()
    if kind == "Multiply" and (vectors := _vectors(node)):
        add = _only_reader(node)
        added = _vectors(add) if add is not None and add.get_type_name() == "Add" else {}
        parts = [node] if add is None or not added else [node, add]
        told = _told(parts, layers, vectors := {**vectors, **added})
        values = {name: value.reshape(-1) for name, value in _values(vectors).items()}
        made: Node = Scaled(**told, vectors=tuple(vectors))
        return GraphNode(node=made, parts=tuple(parts), constants=values, vectors=vectors)
    place = _constant_place(node) if kind == "Add" else None
    addend = {} if place is None else {f"{_named(node)}/addend": node.input(place)}
    values = _values(addend)
    if kind != "Add" or len(values) < len(addend):
        return GraphNode(node=Node(**_told([node], layers)), parts=(node,), constants={}, vectors={})
    told = _told([node], layers, addend)
    return GraphNode(node=Sum(**told), parts=(node,), constants=values, vectors=addend)


def _vectors(node: ov.Node) -> dict[str, Any]:
    """The input of a node that is a constant vector along the last axis of what it writes, by a name; else none."""
    place, rank = _constant_place(node), _rank(node)
    value = None if place is None or rank == 0 else constant_value(node.input_value(place).get_node())
    if value is None or place is None or value.dtype.kind != "f" or value.ndim > rank:
        return {}
    along = value.size > 1 and value.size == value.shape[-1]
    return {f"{_named(node)}/vector": node.input(place)} if along else {}


def _values(ports: Mapping[str, Any]) -> dict[str, Array]:
    """What inputs read, by name; left out where that is computed of constants."""
    read = {name: constant_value(port.get_source_output().get_node()) for name, port in ports.items()}
    return {name: np.asarray(value) for name, value in read.items() if value is not None}


def _constant_place(node: ov.Node) -> int | None:
    """Which of two inputs is constant; None where none is."""
    return next((place for place in (0, 1) if _is_fixed(node.input_value(place).get_node())), None)


def _only_reader(node: ov.Node) -> ov.Node | None:
    """The node that alone reads what another one writes; None where several do. An output of the model is a reader."""
    readers = list(node.output(0).get_target_inputs())
    return readers[0].get_node() if len(readers) == 1 else None


def _rank(node: ov.Node) -> int:
    """Number of axes of what a node writes; 0 where that is not known."""
    rank = node.get_output_partial_shape(0).rank
    return 0 if rank.is_dynamic else int(rank.get_length())


def _told(parts: Sequence[ov.Node], layers: Collection[str], constants: Collection[str] = ()) -> dict[str, Any]:
    """Name, reads and writes. The Add at the end of a Gemm bears the op's own name, where its bias is a product."""
    writes = _written(parts[-1])
    name = f"{writes[0]}/node" if writes[0] in layers else writes[0]
    return {"name": name, "reads": (*_tensors(parts), *constants), "writes": writes}


def _named(node: ov.Node) -> str:
    return str(node.get_friendly_name())


def _written(node: ov.Node) -> tuple[str, ...]:
    return tuple(tensor_name(port) for port in node.outputs())


def _tensors(parts: Sequence[ov.Node]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(tensor_name(port.get_source_output()) for port in _inputs(parts)))


def _inputs(parts: Sequence[ov.Node]) -> list[Any]:
    inner = {part.get_name() for part in parts}
    sources = [(port, port.get_source_output().get_node()) for part in parts for port in part.inputs()]
    return [port for port, source in sources if source.get_name() not in inner and not _is_fixed(source)]


def _is_fixed(node: ov.Node) -> bool:
    """Whether nothing but constants goes into a node."""
    if node.get_type_name() == "Constant":
        return True
    reads = node.input_values()
    return bool(reads) and all(_is_fixed(port.get_node()) for port in reads)
