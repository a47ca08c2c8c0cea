"""Keep files from growing: constants that preparation computed are written as what they were computed from.

ONNX Runtime folds what depends on constants alone, so that a table of zeros, or a weight that was stored in half
precision, becomes a constant as large as its values. Quantization wants it so, and a file does not: there it is
computed again, when the model is opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx
from onnx import numpy_helper

from autotune.adapters.onnx.graph import Graph, is_external, outer_reads, subgraphs

_WORTH_BYTES = 256
"""Bytes by which a constant must exceed its origin, since nodes and names take room too."""

_RANDOM = frozenset({"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform"})


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The nodes that compute a constant.

    Attributes:
        nodes: The nodes in topological order; the last one writes the constant.
        constants: Constants that they read.
        digest: Digest of the constant's values: a recipe may have changed them since.
    """

    nodes: tuple[onnx.NodeProto, ...]
    constants: tuple[onnx.TensorProto, ...]
    digest: str


def find_origins(before: onnx.ModelProto, after: onnx.ModelProto) -> dict[str, Origin]:
    """By name: the constants of a folded graph that are larger than what they were computed from.

    Args:
        before: The graph that was folded.
        after: The graph after the change.
    """
    graph = Graph(before)
    fed = {value.name for value in before.graph.input}
    there = {tensor.name for tensor in after.graph.initializer}
    found = {}
    for tensor in after.graph.initializer:
        if tensor.name not in graph.producers or tensor.ByteSize() < _WORTH_BYTES or is_external(tensor):
            continue
        nodes = _closure(graph, fed, tensor.name)
        if nodes is None:
            continue
        names = dict.fromkeys(name for node in nodes for name in node.input if name in graph.initializers)
        constants = [graph.initializers[name] for name in names]
        price = sum(node.ByteSize() for node in nodes)
        price += sum(each.ByteSize() for each in constants if each.name not in there)
        if price + _WORTH_BYTES < tensor.ByteSize():
            found[str(tensor.name)] = Origin(nodes=tuple(nodes), constants=tuple(constants), digest=_digest(tensor))
    return found


def keep_branches(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Take the graphs inside of nodes back as they were where folding made them larger: nothing in them is quantized.

    Args:
        before: The graph that was folded.
        after: The graph after the change; changed in place.
    """
    originals = {node.name: node for node in before.graph.node if any(True for _ in subgraphs(node))}
    constants = {tensor.name: tensor for tensor in before.graph.initializer}
    constants |= {node.output[0]: value for node in before.graph.node for value in _constant_value(node)}
    for node in after.graph.node:
        original = originals.get(node.name)
        if original is None or original.op_type != node.op_type or original.ByteSize() >= node.ByteSize():
            continue
        there = {tensor.name for tensor in after.graph.initializer} | {value.name for value in after.graph.input}
        there |= {name for each in after.graph.node for name in each.output}
        needed = set(outer_reads(original)) - _inner_names(original)
        missing = {name for name in needed if name and name not in there}
        brought = sum(constants[name].ByteSize() for name in missing if name in constants)
        if missing <= set(constants) and original.ByteSize() + brought < node.ByteSize():
            del node.attribute[:]
            node.attribute.extend(original.attribute)
            after.graph.initializer.extend(constants[name] for name in sorted(missing))


def _constant_value(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    """The tensor of a Constant node, under the name by which it is read."""
    for attribute in node.attribute:
        if node.op_type == "Constant" and attribute.type == onnx.AttributeProto.TENSOR:
            tensor = onnx.TensorProto()
            tensor.CopyFrom(attribute.t)
            tensor.name = node.output[0]
            yield tensor


def _inner_names(node: onnx.NodeProto) -> set[str]:
    """The names that the graphs inside of a node define."""
    names: set[str] = set()
    for inner in subgraphs(node):
        names |= {value.name for value in (*inner.input, *inner.initializer)}
        for each in inner.node:
            names |= set(each.output) | _inner_names(each)
    return names


def _closure(graph: Graph, fed: set[str], tensor: str) -> list[onnx.NodeProto] | None:
    """The nodes that compute a tensor from constants, and from shapes of the model's inputs; None where more does."""
    order: dict[int, onnx.NodeProto] = {}
    stack = [(tensor, False)]
    while stack:
        name, entered = stack.pop()
        if name in graph.initializers or not name:
            continue
        node = graph.producers.get(name)
        if node is None or node.op_type in _RANDOM or any(True for _ in outer_reads(node)):
            return None
        if entered:
            order.setdefault(id(node), node)
        elif id(node) not in order:
            stack.append((name, True))
            if node.op_type != "Shape" or node.input[0] not in fed:
                stack.extend((each, False) for each in node.input)
    return list(order.values())


def unfolded(proto: onnx.ModelProto, origins: Mapping[str, Origin]) -> onnx.ModelProto:
    """The graph with constants computed from their origins; ``proto`` stays as it is."""
    chosen = {
        tensor.name: origins[tensor.name]
        for tensor in proto.graph.initializer
        if tensor.name in origins and _digest(tensor) == origins[tensor.name].digest
    }
    if not chosen:
        return proto
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    kept = [tensor for tensor in proto.graph.initializer if tensor.name not in chosen]
    taken = {name for node in proto.graph.node for name in (node.name, *node.output)}
    taken |= {tensor.name for tensor in kept} | {value.name for value in proto.graph.input}
    constants = {tensor.name: tensor for tensor in kept}
    nodes: list[onnx.NodeProto] = []
    for name, origin in chosen.items():
        _bring_back(name, origin, constants, taken, nodes)
    del result.graph.initializer[:], result.graph.node[:]
    result.graph.initializer.extend(constants.values())
    result.graph.node.extend((*nodes, *proto.graph.node))
    return result


def _bring_back(
    target: str,
    origin: Origin,
    constants: dict[str, onnx.TensorProto],
    taken: set[str],
    nodes: list[onnx.NodeProto],
) -> None:
    """Add an origin's nodes and constants, under names of their own where others have theirs."""
    renamed = {}
    for tensor in origin.constants:
        same = constants.get(tensor.name)
        if same is not None and _digest(same) == _digest(tensor):
            continue
        own = onnx.TensorProto.FromString(tensor.SerializeToString())
        renamed[tensor.name] = own.name = _free(tensor.name, taken)
        constants[own.name] = own
    for node in origin.nodes:
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        copy.name = _free(node.name, taken)
        copy.input[:] = [renamed.get(name, name) for name in node.input]
        for index, name in enumerate(node.output):
            if name and name != target:
                renamed[name] = copy.output[index] = _free(name, taken)
        nodes.append(copy)


def _free(name: str, taken: set[str]) -> str:
    unique = next(each for each in _numbered(name) if each not in taken)
    taken.add(unique)
    return unique


def _numbered(name: str) -> Iterator[str]:
    yield name
    count = 1
    while True:
        count += 1
        yield f"{name}_{count}"


def _digest(tensor: onnx.TensorProto) -> str:
    digest = hashlib.sha256(f"{tensor.data_type} {list(tensor.dims)}".encode())
    if tensor.data_type == onnx.TensorProto.STRING:
        digest.update(repr(list(tensor.string_data)).encode())
    else:
        digest.update(tensor.raw_data or numpy_helper.to_array(tensor).tobytes())
    return digest.hexdigest()
