"""Names of nodes: each has one of its own, and fusions do not take the user's away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from autotune.adapters.onnx.graph import subgraphs

_WITH_WEIGHTS = frozenset({"Conv", "ConvTranspose", "GRU", "Gather", "Gemm", "LSTM", "MatMul", "RNN"})
"""Ops after which a fused one is named: those that a user restricts."""


def name_nodes(proto: onnx.ModelProto) -> None:
    """Give every node a name of its own: configs name ops by it."""
    taken: set[str] = set()
    for node in proto.graph.node:
        node.name = _free(node.name or default_name(node), taken)


def restore_names(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Name what ONNX Runtime fused after the node of the user's that does its work, inlined branches included.

    Args:
        before: The graph that was fused, its nodes under the user's names.
        after: The graph after the change; its names are restored in place.
    """
    user = _UserGraph(before.graph)
    theirs = {node.name for node in before.graph.node}
    kept = {node.name for node in after.graph.node} & theirs
    for node in after.graph.node:
        if node.name in theirs:
            continue
        name = user.principal(node) or _prefix(node.name, theirs)
        if name is not None and name not in kept:
            node.name = name
            kept.add(name)


@dataclass(frozen=True)
class _UserNode:
    name: str
    op_type: str
    inputs: tuple[str, ...]


class _UserGraph:
    """Writers of tensors in the user's graph, branches of ``If`` included, under the names of ONNX Runtime's inlining.

    Args:
        graph: Its nodes have names.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._writers: dict[str, list[_UserNode]] = {}
        self._constants: set[str] = set()
        self._add(graph, "", {value.name: str(value.name) for value in graph.input})

    def principal(self, node: onnx.NodeProto) -> str | None:
        """The user's node that a fused node stands for: of those it covers, the one with the weight, or the last."""
        ends = set(node.input)
        writers = self._writers.get(node.output[0], [])
        for writer in writers:
            if writer.op_type == node.op_type:
                return writer.name
        for writer in writers:
            found, complete = self._covered(writer, ends)
            if complete:
                weighted = [each for each in found.values() if each.op_type in _WITH_WEIGHTS]
                same = [each for each in weighted if each.op_type == node.op_type]
                return next(iter(same or weighted or found.values())).name
        return writers[0].name if writers else None

    def _covered(self, last: _UserNode, ends: set[str]) -> tuple[dict[str, _UserNode], bool]:
        """The nodes before ``last`` up to ``ends``, and whether all paths lead there or to constants."""
        found, complete = {last.name: last}, True
        waiting = [name for name in last.inputs if name and name not in ends]
        while waiting:
            tensor = waiting.pop()
            writers = self._writers.get(tensor)
            if writers is None:
                complete &= tensor in self._constants
            elif writers[0].name not in found:
                found[writers[0].name] = writers[0]
                waiting += [name for name in writers[0].inputs if name and name not in ends]
        return found, complete

    def _add(self, graph: onnx.GraphProto, prefix: str, outer: Mapping[str, str]) -> None:
        names = dict(outer)
        names.update({name: f"{prefix}{name}" for node in graph.node for name in node.output})
        names.update({tensor.name: f"{prefix}{tensor.name}" for tensor in graph.initializer})
        self._constants.update(f"{prefix}{tensor.name}" for tensor in graph.initializer)
        for node in graph.node:
            name = node.name or default_name(node)
            own = _UserNode(name, node.op_type, tuple(names.get(each, each) for each in node.input))
            if node.op_type != "If":
                for output in node.output:
                    self._writers.setdefault(names[output], []).append(own)
                continue
            for attribute in node.attribute:
                inner = f"{prefix}_if_{attribute.name}_"
                self._add(attribute.g, inner, names)
                for output, written in zip(node.output, attribute.g.output, strict=False):
                    # The branch that is chosen writes the output of the ``If``.
                    writers = self._writers.get(f"{inner}{written.name}", [])
                    self._writers.setdefault(names[output], []).extend(writers)


def default_name(node: onnx.NodeProto) -> str:
    """The name that a node without one gets."""
    return f"{node.op_type}_{node.output[0] if node.output else ''}"


def _prefix(name: str, theirs: set[str]) -> str | None:
    """The user's name that ONNX Runtime's begins with."""
    parts = name.split("/")
    candidates = ("/".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))
    return next((each for each in candidates if each in theirs), None)


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
        proto: Model whose nodes have names of their own; changed in place.
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
    rename_tensors(graph, renamed)
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)


def _given(name: str, taken: set[str]) -> str:
    return _free(f"{name}.given", taken)


def rename_tensors(graph: onnx.GraphProto, renamed: Mapping[str, str]) -> None:
    """Rename what nodes read and write, also in the graphs inside of nodes; what the graph declares keeps its names.

    Args:
        graph: Changed in place.
        renamed: The new name by the old one.
    """
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        for inner in subgraphs(node):
            own = {name for each in inner.node for name in each.output}
            own |= {value.name for value in (*inner.input, *inner.initializer)}
            visible = {name: to for name, to in renamed.items() if name not in own}
            rename_tensors(inner, visible)
            for value in inner.output:
                value.name = visible.get(value.name, value.name)


def rename_reads(graph: onnx.GraphProto, renamed: Mapping[str, str]) -> None:
    """Make all nodes read other tensors, those in the graphs inside of nodes included; their writers stay.

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
