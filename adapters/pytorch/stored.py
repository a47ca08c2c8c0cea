"""A flat graph as plain data, which pickles; fx pickles one as Python code and traces that anew, under other names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from autotune.adapters.pytorch.graph import constant, set_constant


@dataclass(frozen=True, kw_only=True)
class _Reference:
    """Another node, in the arguments of one."""

    name: str


@dataclass(frozen=True, kw_only=True)
class _Operator:
    """An operator of PyTorch's, ``aten``, ``conv2d``, ``default`` for example."""

    namespace: str
    name: str
    overload: str

    @property
    def target(self) -> Any:
        return getattr(getattr(getattr(torch.ops, self.namespace), self.name), self.overload)


@dataclass(frozen=True, kw_only=True)
class _StoredNode:
    """A node, with what it writes as element type and shape where that is one tensor."""

    op: str
    name: str
    target: str | _Operator | Callable[..., Any]
    args: Any
    kwargs: Any
    writes: tuple[torch.dtype, tuple[int, ...]] | None


@dataclass(frozen=True, kw_only=True)
class StoredGraph:
    """Nodes in order, and constants by name."""

    nodes: tuple[_StoredNode, ...]
    constants: dict[str, torch.Tensor]


def stored_graph(module: fx.GraphModule) -> StoredGraph:
    """The graph as plain data."""
    names = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    return StoredGraph(
        nodes=tuple(_stored(node) for node in module.graph.nodes),
        constants={name: constant(module, name) for name in sorted(names)},
    )


def restored_graph(stored: StoredGraph) -> fx.GraphModule:
    """The graph with the same names; it knows what its nodes write for one size of free dimensions."""
    root = torch.nn.Module()
    for name, value in stored.constants.items():
        owner = root
        for part in name.split(".")[:-1]:
            if not hasattr(owner, part):
                owner.add_module(part, torch.nn.Module())
            owner = getattr(owner, part)
        set_constant(root, name, value)
    graph = fx.Graph()
    made: dict[str, fx.Node] = {}

    def read(value: Any) -> Any:
        if isinstance(value, _Reference):
            return made[value.name]
        if isinstance(value, (tuple, list)):
            return type(value)(read(each) for each in value)
        return {key: read(each) for key, each in value.items()} if isinstance(value, dict) else value

    for node in stored.nodes:
        target = node.target.target if isinstance(node.target, _Operator) else node.target
        made[node.name] = graph.create_node(node.op, target, read(node.args), read(node.kwargs), node.name)
        if node.writes is not None:
            kind, shape = node.writes
            made[node.name].meta["val"] = torch.empty(shape, dtype=kind, device="meta")
    return fx.GraphModule(root, graph)


def _stored(node: fx.Node) -> _StoredNode:
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        namespace, _, name = target.name().partition("::")
        target = _Operator(namespace=namespace, name=name.partition(".")[0], overload=target._overloadname)
    value = node.meta.get("val")
    return _StoredNode(
        op=node.op,
        name=node.name,
        target=target,
        args=_plain(node.args),
        kwargs=_plain(dict(node.kwargs)),
        writes=(value.dtype, tuple(map(_size, value.shape))) if isinstance(value, torch.Tensor) else None,
    )


def _plain(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return _Reference(name=value.name)
    if isinstance(value, (tuple, list)):
        return tuple(map(_plain, value)) if isinstance(value, tuple) else [_plain(each) for each in value]
    return {key: _plain(each) for key, each in value.items()} if isinstance(value, dict) else value


def _size(dim: int | torch.SymInt) -> int:
    """The dimension, or the size that a free one had in the example."""
    return dim if isinstance(dim, int) else int(dim.node.hint)
