"""Where Q/DQ pairs go, and which tensors share one scale.

Everything here serves one aim: that ONNX Runtime finds each int8 op between a DQ and a Q that it can fuse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx

from autotune.adapters.onnx.graph import Graph, clip_bounds
from autotune.adapters.onnxruntime.choices.ops import CLIPS, FLOAT_OUTPUT, QuantizableOp, follows
from autotune.config import FP32, OpConfig, Precision, QuantizationConfig, QuantizedType


@dataclass(kw_only=True)
class ScaleGroup:
    """Tensors that are quantized alike, since the ops between them keep the integers as they are.

    Attributes:
        tensors: Names of the tensors.
        observed: The tensor whose statistics give the range.
        low: Lower bound of a Clip or Relu among them.
        high: Upper bound of the same.
        choice: The config that decides.
        dtype: The integer type.
    """

    tensors: list[str]
    observed: str
    low: float = -math.inf
    high: float = math.inf
    choice: OpConfig = FP32
    dtype: QuantizedType = QuantizedType.U8


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The tensors that are quantized.

    Attributes:
        ops: The int8 ops in graph order.
        followers: Names of the nodes that go along.
        groups: By tensor; tensors that share a scale share the object. A tensor that is not in it stays fp32.
    """

    ops: tuple[QuantizableOp, ...]
    followers: frozenset[str]
    groups: dict[str, ScaleGroup]


def place(graph: Graph, ops: list[QuantizableOp], config: QuantizationConfig) -> Placement:
    """Decide what is quantized, and by whose choice."""
    int8 = tuple(op for op in ops if config[op.name].precision is Precision.INT8)
    quantized = _quantized_tensors(graph, int8)
    by_node = {op.name: op for op in int8}
    groups: dict[str, ScaleGroup] = {}
    followers: set[str] = set()
    written: set[str] = set()
    for value in graph.proto.graph.input:
        if value.name in quantized:
            groups[value.name] = ScaleGroup(tensors=[value.name], observed=value.name)
    for node in graph.nodes:
        op = by_node.get(node.name)
        if op is None and _follows(node, graph, groups, written):
            followers.add(node.name)
            outputs = [name for name in node.output if name]
        else:
            outputs = [name for name in node.output if name in quantized]
        for name in outputs:
            groups[name] = ScaleGroup(tensors=[name], observed=name)
        if op is not None or node.name in followers:
            written.update(outputs)
            _share(node, graph, groups, follower=op is None)
    _decide(int8, groups, config)
    return Placement(ops=int8, followers=frozenset(followers), groups=groups)


def _quantized_tensors(graph: Graph, int8: tuple[QuantizableOp, ...]) -> set[str]:
    """The tensors around int8 ops; not the output of a MatMul or Gemm that nobody reads as int8."""
    read = {name for op in int8 for name in op.activations}
    wanted: dict[str, bool] = {}
    for node in reversed(graph.nodes):
        passes = node.op_type in CLIPS or follows(node, graph)
        passes_on = passes and any(wanted.get(name, False) for name in node.output)
        for name in node.input:
            wanted[name] = wanted.get(name, False) or name in read or (passes_on and name == node.input[0])
    outputs = {
        op.output for op in int8 if op.node.op_type not in FLOAT_OUTPUT or wanted.get(op.output, op.output in read)
    }
    return read | outputs


def _follows(node: onnx.NodeProto, graph: Graph, groups: dict[str, ScaleGroup], written: set[str]) -> bool:
    """Whether a node without a choice of its own goes along in int8."""
    if not node.input or node.input[0] not in groups:
        return False
    source = node.input[0]
    if node.op_type in CLIPS:
        # It disappears only into a tensor that is its own and that an int8 op writes; a graph inside of another node
        # would read what is there without it.
        inside = node.output[0] not in graph.read_by_subgraphs
        return inside and source in written and _own(source, graph, groups) and _bounds(node, graph) is not None
    return follows(node, graph)


def _own(source: str, graph: Graph, groups: dict[str, ScaleGroup]) -> bool:
    """Whether all that is quantized like ``source`` flows into one reader of ``source``."""
    return all(graph.read_once(name) for name in groups[source].tensors)


def _bounds(node: onnx.NodeProto, graph: Graph) -> tuple[float, float] | None:
    """Lower and upper bound of a Relu or Clip; None where it is computed at run time or leaves out zero."""
    bounds = clip_bounds(node, graph)
    if bounds is None:
        return None
    low, high = bounds
    return (low, high) if low <= 0.0 <= high and low < high else None


def _share(node: onnx.NodeProto, graph: Graph, groups: dict[str, ScaleGroup], *, follower: bool) -> None:
    """Join the scales of what a node reads and writes, where the integers pass through it unchanged."""
    if node.op_type in CLIPS and follower:
        bounds = _bounds(node, graph)
        assert bounds is not None
        output = node.output[0]
        group = _join(groups, node.input[0], output, observed=output)
        group.low, group.high = max(group.low, bounds[0]), min(group.high, bounds[1])
    elif follower:
        for name in node.output:
            if name in groups:
                _join(groups, node.input[0], name, observed=groups[node.input[0]].observed)
    elif node.op_type == "Concat":
        _share_concat(node, graph, groups)


def _share_concat(node: onnx.NodeProto, graph: Graph, groups: dict[str, ScaleGroup]) -> None:
    """Give a Concat's inputs the scale of its output where that costs nothing; Concat becomes a copy.

    An input that nobody else reads loses nothing: it would be rounded to that scale anyway. An input in which a Relu
    has disappeared keeps its own scale, which does the Relu's work, unless all others are cut alike.
    """
    output = node.output[0]
    names = list(dict.fromkeys(node.input))
    bounds = {(groups[name].low, groups[name].high) if name in groups else None for name in names}
    alike = len(bounds) == 1
    for name in names:
        if name not in groups or groups[name] is groups[output] or not _own(name, graph, groups):
            continue
        low, high = groups[name].low, groups[name].high
        if alike or (low == -math.inf and high == math.inf):
            _join(groups, name, output, observed=output)


def _join(groups: dict[str, ScaleGroup], first: str, second: str, *, observed: str) -> ScaleGroup:
    group, other = groups[first], groups[second]
    if group is not other:
        group.tensors.extend(other.tensors)
        for name in other.tensors:
            groups[name] = group
    group.observed = observed
    return group


def _decide(int8: tuple[QuantizableOp, ...], groups: dict[str, ScaleGroup], config: QuantizationConfig) -> None:
    """Give each group the config that decides, and one integer type to all groups that int8 ops connect.

    An integer kernel reads and writes one type. Between u8 and s8 the integers differ by 128 and the values not at all,
    so that the first op's type serves all that it is connected to.
    """
    decided: set[int] = set()
    for op in int8:
        for name in op.activations:
            if id(groups[name]) not in decided:
                decided.add(id(groups[name]))
                groups[name].choice = config[op.name]
    for op in int8:
        if op.output in groups and id(groups[op.output]) not in decided:
            decided.add(id(groups[op.output]))
            groups[op.output].choice = config[op.name]
    component: dict[int, int] = {id(group): id(group) for group in groups.values()}

    def root(key: int) -> int:
        while component[key] != key:
            component[key] = component[component[key]]
            key = component[key]
        return key

    for op in int8:
        around = [id(groups[name]) for name in (*op.activations, op.output) if name in groups]
        for key in around[1:]:
            component[root(key)] = root(around[0])
    dtypes: dict[int, QuantizedType] = {}
    for op in int8:
        activation = config[op.name].activation
        assert activation is not None
        dtypes.setdefault(root(id(groups[op.activations[0]])), activation.dtype)
    for group in groups.values():
        group.dtype = dtypes[root(id(group))]
