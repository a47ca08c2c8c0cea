"""Names of nodes: each has one of its own, and fusions do not take the user's away."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from autotune.adapters.onnxruntime.graph import Graph, subgraphs

_WITH_WEIGHTS = frozenset({"Conv", "ConvTranspose", "GRU", "Gather", "Gemm", "LSTM", "MatMul", "RNN"})
"""Ops after which a fused one is named: those that a user restricts."""


def name_nodes(proto: onnx.ModelProto) -> None:
    """Give every node a name of its own: configs name ops by it."""
    taken: set[str] = set()
    for node in proto.graph.node:
        name = node.name or f"{node.op_type}_{node.output[0] if node.output else ''}"
        node.name = _free(name, taken)


def restore_names(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Name what ONNX Runtime fused after the node of the user's that does its work.

    Args:
        before: The graph that was fused, its nodes under the user's names.
        after: What it became; changed in place.
    """
    theirs = {node.name for node in before.graph.node} | set(_inner_names(before.graph))
    kept = {node.name for node in after.graph.node} & theirs
    graph = Graph(before)
    for node in after.graph.node:
        if node.name in theirs:
            continue
        name = _principal(node, graph) or _prefix(node.name, theirs)
        if name is not None and name not in kept:
            node.name = name
            kept.add(name)


def _principal(node: onnx.NodeProto, graph: Graph) -> str | None:
    """Of the nodes that compute what a fused node writes from what it reads, the one with the weight, or the last."""
    ends = set(node.input) | set(graph.initializers)
    found: dict[str, onnx.NodeProto] = {}
    open_tensors = [name for name in node.output if name]
    while open_tensors:
        tensor = open_tensors.pop()
        producer = graph.producers.get(tensor)
        if producer is None or producer.name in found:
            continue
        found[producer.name] = producer
        open_tensors += [name for name in producer.input if name and name not in ends]
    if not found:
        return None
    weighted = [name for name, each in found.items() if each.op_type in _WITH_WEIGHTS]
    same = [name for name in weighted if found[name].op_type == node.op_type]
    return next(iter(same or weighted or found))


def _prefix(name: str, theirs: set[str]) -> str | None:
    """The user's name that ONNX Runtime's begins with."""
    parts = name.split("/")
    candidates = ("/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))
    return next((each for each in candidates if each in theirs), None)


def _inner_names(graph: onnx.GraphProto) -> list[str]:
    return [
        name
        for node in graph.node
        for inner in subgraphs(node)
        for name in (*(each.name for each in inner.node if each.name), *_inner_names(inner))
    ]


_WRITTEN = (
    "_DequantizeLinear",
    "_DequantizeLinear_Input",
    "_DequantizeLinear_Output",
    "_QuantizeLinear",
    "_QuantizeLinear_Input",
    "_QuantizeLinear_Output",
    "_dequantized",
    "_quantized",
    "_quantized_scale",
    "_quantized_zero_point",
    "_scale",
    "_zero_point",
    "/DynamicQuantizeLinear",
    "/MatMulInteger",
    "/integers",
    "/scale",
    "/zero_point",
    "/duplicated",
)
"""Ends of the names that quantizers write: ONNX Runtime's and ours."""


def make_room(proto: onnx.ModelProto) -> None:
    """Rename what a quantizer wrote into the user's model, so that the next one may take the same names.

    Inputs and outputs keep theirs, and so do ops, which have none of these.

    Args:
        proto: Its nodes have names of their own; changed in place.
    """
    fixed = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    graph = proto.graph
    written = {name for node in graph.node for name in node.output} | {tensor.name for tensor in graph.initializer}
    names = {node.name for node in graph.node}
    taken = written | names | fixed
    renamed = {name: _given(name, taken) for name in sorted(written - fixed) if name.endswith(_WRITTEN)}
    for node in graph.node:
        if node.name.endswith(_WRITTEN):
            node.name = _given(node.name, taken)
    _rename(graph, renamed)
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)


def _given(name: str, taken: set[str]) -> str:
    return _free(f"{name}.given", taken)


def _rename(graph: onnx.GraphProto, renamed: Mapping[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        for inner in subgraphs(node):
            own = {name for each in inner.node for name in each.output}
            own |= {value.name for value in (*inner.input, *inner.initializer)}
            visible = {name: to for name, to in renamed.items() if name not in own}
            _rename(inner, visible)
            for value in inner.output:
                value.name = visible.get(value.name, value.name)


def rename_reads(graph: onnx.GraphProto, renamed: Mapping[str, str]) -> None:
    """Let all nodes read other tensors, those in the graphs inside of nodes included; who writes them stays.

    Args:
        graph: Changed in place.
        renamed: The new name by the old one.
    """
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        for inner in subgraphs(node):
            own = {name for each in inner.node for name in each.output}
            own |= {value.name for value in (*inner.input, *inner.initializer)}
            rename_reads(inner, {name: to for name, to in renamed.items() if name not in own})


def _free(name: str, taken: set[str]) -> str:
    unique, count = name, 1
    while unique in taken:
        count += 1
        unique = f"{name}_{count}"
    taken.add(unique)
    return unique
