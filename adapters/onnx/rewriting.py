"""Replace single nodes of a candidate by others that compute the same."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from autotune.adapters.onnx.graph import Graph, outer_reads

CONTRIB_DOMAIN = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""


def replace_nodes(proto: onnx.ModelProto, replacements: Mapping[str, Sequence[onnx.NodeProto]]) -> None:
    """Put other nodes in the place of some, and drop the constants that nobody reads any more.

    Args:
        proto: Model whose nodes have unique names; changed in place.
        replacements: By the name of the node that goes, the nodes that come, in topological order.
    """
    replaced = {name for node in proto.graph.node if node.name in replacements for name in node.input}
    nodes = [new for node in proto.graph.node for new in replacements.get(node.name, (node,))]
    set_nodes(proto, nodes)
    drop_unread(proto, replaced)


def set_nodes(proto: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Give the graph these nodes, some of which may be its own, instead of those that it has."""
    # Copies: protobuf frees the messages of a list that is cleared.
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)


def add_constant(proto: onnx.ModelProto, name: str, values: npt.ArrayLike) -> str:
    """Add a constant to the graph, and return its name."""
    proto.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return name


def set_constants(proto: onnx.ModelProto, constants: Mapping[str, npt.NDArray[Any]]) -> None:
    """Give constants of the graph other values, by name; external data comes into the message."""
    for tensor in proto.graph.initializer:
        if tensor.name in constants:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(constants[tensor.name]), tensor.name))


def sort_nodes(proto: onnx.ModelProto) -> None:
    """Put every node after those that write what it reads; otherwise the order stays.

    ONNX Runtime's own sorting does not know of what the graphs inside of ``If``, ``Loop`` and ``Scan`` read.
    """
    nodes = list(proto.graph.node)
    producers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    order: dict[int, None] = {}
    for first in range(len(nodes)):
        if first in order:
            continue
        path = [(first, _writers(nodes[first], producers))]
        on_path = {first}
        while path:
            index, before = path[-1]
            # A name that a graph inside defines for itself may be that of a tensor outside, written later.
            missing = next((each for each in before if each not in order and each not in on_path), None)
            if missing is None:
                order[index] = None
                on_path.remove(index)
                path.pop()
            else:
                path.append((missing, _writers(nodes[missing], producers)))
                on_path.add(missing)
    set_nodes(proto, [nodes[index] for index in order])


def _writers(node: onnx.NodeProto, producers: Mapping[str, int]) -> Iterator[int]:
    """The positions of the nodes that write what a node reads."""
    return (producers[name] for name in (*node.input, *outer_reads(node)) if name in producers)


def drop_unread(proto: onnx.ModelProto, candidates: Collection[str]) -> None:
    """Drop those of the named constants that no node reads, or in whose place a node writes a tensor."""
    graph = Graph(proto)
    read = (set(graph.readers) | graph.read_by_subgraphs | graph.outputs) - set(graph.producers)
    for index in reversed(range(len(proto.graph.initializer))):
        name = proto.graph.initializer[index].name
        if name in candidates and name not in read:
            del proto.graph.initializer[index]


def require_contrib_domain(proto: onnx.ModelProto) -> None:
    """Declare ONNX Runtime's own operators, if they are not yet."""
    if not any(opset.domain == CONTRIB_DOMAIN for opset in proto.opset_import):
        proto.opset_import.append(onnx.helper.make_opsetid(CONTRIB_DOMAIN, 1))
