"""The nodes of a program as the recipes' algorithms know them; several ops of Paddle may make up one of theirs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotune.adapter import Array
from autotune.adapters.paddle import program as programs
from autotune.adapters.paddle.ops import QuantizableOp, readers_of
from autotune.algorithms.graph import Clip, Convolution, Layer, Node, Scaled, Sum


@dataclass(frozen=True, kw_only=True, eq=False)
class GraphNode:
    """A node of the algorithms, and the ops that it stands for.

    Attributes:
        node: The node as the algorithms see it.
        parts: Its ops in order, those that compute from constants alone included.
        tensors: The tensors that it reads, without constants.
    """

    node: Node
    parts: tuple[Any, ...]
    tensors: tuple[str, ...]


def graph_nodes(program: Any, constants: Mapping[str, Array], ops: Sequence[QuantizableOp]) -> list[GraphNode]:
    """The nodes that depend on inputs of the model, in an order in which they can run.

    Args:
        program: A prepared program.
        constants: Its constants.
        ops: Its ops that can be int8; each has a bias.
    """
    known = {op.weight: op for op in ops}
    readers = readers_of(program)
    fixed: dict[str, tuple[Any, ...]] = {}  # by tensor that depends on constants alone: the ops that compute it
    nodes: list[GraphNode] = []
    done: set[int] = set()
    computing = programs.ops(program)
    for place, op in enumerate(computing):
        if place in done:
            continue
        reads = [name for name in dict.fromkeys(programs.all_read(op)) if name not in constants]
        before = tuple(each for name in reads for each in fixed.get(name, ()))
        live = tuple(name for name in reads if name not in fixed)
        if not live:
            fixed.update(dict.fromkeys(programs.all_written(op), (*before, op)))
            continue
        found = known.get(programs.read(op, "Filter"))
        if found is not None and found.bias:
            add = next(each for each in range(place, len(computing)) if found.output in _written(computing[each]))
            done.add(add)
            nodes.append(_layer(op, computing[add], found))
            continue
        writes = tuple(name for name in programs.all_written(op) if readers.get(name)) or tuple(_written(op)[:1])
        node = _node(op, live, writes, constants)
        nodes.append(GraphNode(node=node, parts=(*before, op), tensors=live))
    return nodes


def _written(op: Any) -> list[str]:
    return programs.all_written(op)


def _layer(op: Any, add: Any, found: QuantizableOp) -> GraphNode:
    layer = Layer(
        name=found.name,
        reads=(found.source, found.weight, found.bias),
        writes=(found.output,),
        source=found.source,
        weight=found.weight,
        axis=0,
        bias=found.bias,
        convolution=_convolution(op),
    )
    return GraphNode(node=layer, parts=(op, add), tensors=(found.source,))


def _convolution(op: Any) -> Convolution:
    pads = list(programs.attribute(op, "paddings", [0, 0]))
    algorithm = programs.attribute(op, "padding_algorithm", "EXPLICIT")
    if algorithm == "VALID":
        pads = [0, 0]
    if len(pads) == 2:
        around: tuple[int, ...] | None = (pads[0], pads[1], pads[0], pads[1])
    else:
        around = (pads[0], pads[2], pads[1], pads[3])
    return Convolution(
        groups=int(programs.attribute(op, "groups", 1)),
        strides=tuple(programs.attribute(op, "strides", [1, 1])),
        dilations=tuple(programs.attribute(op, "dilations", [1, 1])),
        pads=None if algorithm == "SAME" else around,
    )


def _node(op: Any, reads: tuple[str, ...], writes: tuple[str, ...], constants: Mapping[str, Array]) -> Node:
    """An activation between two ends, a sum, a node that vectors scale, or one that is only run."""
    name = f"{writes[0]}/node"
    ends = _ends(op)
    if ends is not None and len(reads) == 1:
        return Clip(name=name, reads=reads, writes=writes, low=ends[0], high=ends[1])
    if op.type == "elementwise_add" and len(reads) == 2:
        return Sum(name=name, reads=reads, writes=writes)
    vectors = tuple(each for slot in ("Scale", "Bias") if (each := programs.read(op, slot)) in constants)
    if op.type == "layer_norm" and vectors and all(constants[each].size > 1 for each in vectors):
        return Scaled(name=name, reads=(*reads, *vectors), writes=(programs.written(op, "Y"),), vectors=vectors)
    return Node(name=name, reads=reads, writes=writes)


def _ends(op: Any) -> tuple[float, float] | None:
    """Between which values an op cuts what it reads; None where it does something else."""
    if op.type == "relu":
        return 0.0, math.inf
    if op.type == "relu6":
        return 0.0, float(np.float32(programs.attribute(op, "threshold", 6.0)))
    if op.type == "clip" and not programs.read(op, "Min") and not programs.read(op, "Max"):
        return float(programs.attribute(op, "min", -math.inf)), float(programs.attribute(op, "max", math.inf))
    return None
