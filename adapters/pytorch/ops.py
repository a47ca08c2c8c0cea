"""Which ops of a graph can compute in integers: what they read, and where their weights are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from autotune.adapters.pytorch.fold import CONVOLUTIONS
from autotune.adapters.pytorch.graph import ATEN, constant_of, is_tensor
from autotune.adapters.pytorch.recurrent import RECURRENT, recurrence, why_not

LINEAR = ATEN.linear.default
ADD = ATEN.add.Tensor

_KINDS = {**dict.fromkeys(CONVOLUTIONS, "Conv"), LINEAR: "Linear", ADD: "Add"}


@dataclass(frozen=True, kw_only=True)
class QuantizableOp:
    """One op that Inductor has an integer kernel for.

    Attributes:
        name: As the module calls it, ``layer1.0.conv1`` for example.
        node: Name of its node.
        kind: ``Conv``, ``Linear``, ``Add``, ``LSTM`` or ``GRU``.
        activations: Places of the arguments that are quantized as activations.
        weight: Name of its constant weight, shape (outputs, inputs / groups, kernel...) or (outputs, inputs); None for
            additions and recurrent ops.
        matrices: Names of the constant matrices of a recurrent op, shape (gates * hidden, inputs or hidden).
    """

    name: str
    node: str
    kind: str
    activations: tuple[int, ...]
    weight: str | None = None
    matrices: tuple[str, ...] = ()

    @property
    def convolves(self) -> bool:
        """Whether this is a convolution."""
        return self.kind == "Conv"

    @property
    def recurs(self) -> bool:
        """Whether this goes over a sequence step by step."""
        return bool(self.matrices)

    @property
    def constants(self) -> tuple[str, ...]:
        """Names of all that become integers."""
        return self.matrices if self.weight is None else (self.weight,)


def quantizable_ops(module: fx.GraphModule, names: Mapping[str, str]) -> list[QuantizableOp]:
    """The ops of an fp32 graph that can be int8, in graph order.

    Args:
        module: A flat graph.
        names: The user's names for the ops, by the names of their nodes.
    """
    return [_described(node, names[node.name]) for node in module.graph.nodes if _is_quantizable(module, node)]


def _is_quantizable(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.target in RECURRENT:
        return why_not(module, node) is None
    if node.op != "call_function" or node.target not in _KINDS or not _is_float(node):
        return False
    if node.target is ADD:
        return _is_residual(node)
    weight = constant_of(module, node.args[1])
    if weight is None or weight.dtype is not torch.float32 or not _is_float(node.args[0]):
        return False
    if node.target is LINEAR:
        return True
    # Inductor has integer kernels for convolutions of pictures (1-D ones included). With one input channel and a free
    # batch the kernel of PyTorch 2.13 computes something else: both orders of its memory have the same strides.
    return weight.ndim in (3, 4) and node.args[0].meta["val"].shape[1] != 1


def _is_residual(node: fx.Node) -> bool:
    """Whether a sum has two sides of one shape, one of them written by a convolution, whose kernel adds the other."""
    sides = node.args[:2]
    if len(node.args) != 2 or node.kwargs or not all(_is_float(side) for side in sides):
        return False
    shapes = [tuple(map(str, side.meta["val"].shape)) for side in sides if isinstance(side, fx.Node)]
    return len(set(shapes)) == 1 and any(convolution_alone(side) is not None for side in sides) and sides[0] != sides[1]


def convolution_alone(side: Any) -> fx.Node | None:
    """The node itself where it is a convolution that one node alone reads; else None."""
    alone = isinstance(side, fx.Node) and side.target in CONVOLUTIONS and len(side.users) == 1
    return side if alone else None


def _is_float(node: object) -> bool:
    return isinstance(node, fx.Node) and is_tensor(node) and node.meta["val"].dtype is torch.float32


def _described(node: fx.Node, name: str) -> QuantizableOp:
    if node.target in RECURRENT:
        found = recurrence(node)
        matrices = tuple(str(matrix.target) for matrix in found.matrices)
        return QuantizableOp(name=name, node=node.name, kind=found.kind, activations=(), matrices=matrices)
    kind = _KINDS[node.target]
    if kind == "Add":
        return QuantizableOp(name=name, node=node.name, kind=kind, activations=(0, 1))
    weight = node.args[1]
    assert isinstance(weight, fx.Node)
    return QuantizableOp(name=name, node=node.name, kind=kind, activations=(0,), weight=str(weight.target))


def nodes_by_name(module: fx.GraphModule) -> dict[str, fx.Node]:
    """The nodes of a graph by their names."""
    return {node.name: node for node in module.graph.nodes}


def argument_names(node: fx.Node, places: Sequence[int]) -> list[str]:
    """Names of the nodes at some places of the arguments."""
    return [node.args[place].name for place in places]
