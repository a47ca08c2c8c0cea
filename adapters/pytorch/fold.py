"""Constants folded as Inductor does by itself when it freezes a model: batch normalizations and computed weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from autotune.adapters.pytorch.graph import ATEN, constant_of, set_constant

CONVOLUTIONS = (ATEN.conv1d.default, ATEN.conv2d.default, ATEN.conv3d.default)

_EPSILON = {
    ATEN.batch_norm.default: 7,
    ATEN._native_batch_norm_legit_no_training.default: 6,
}
"""By op that normalizes with stored statistics: the place of its epsilon."""


def fold_batch_norms(module: fx.GraphModule) -> None:
    """Give each convolution that one normalization alone reads the weight and bias of both."""
    folded = False
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target in _EPSILON:
            folded = _fold(module, node) or folded
    if folded:
        module.graph.eliminate_dead_code()
        module.delete_all_unused_submodules()
        module.recompile()


def fold_weights(module: fx.GraphModule) -> None:
    """Give each layer whose weight or bias is computed from parameters alone the result as its own constant.

    The layers of ``torch.nn.utils.parametrizations`` are such, ``weight_norm`` for example.
    """
    folded = False
    constants: set[fx.Node] = set()
    for node in list(module.graph.nodes):
        reads = node.all_input_nodes
        # An op that reads nothing may draw random numbers.
        if node.op == "get_attr" or (node.op == "call_function" and reads and constants.issuperset(reads)):
            constants.add(node)
        elif node.op == "call_function" and node.target in (*CONVOLUTIONS, ATEN.linear.default):
            for place, name in ((1, "weight"), (2, "bias")):
                read = node.args[place] if place < len(node.args) else None
                if isinstance(read, fx.Node) and read.op != "get_attr" and read in constants:
                    _give_constant(module, node, place, f"{node.name}_folded_{name}", _computed(module, read))
                    folded = True
    if folded:
        module.graph.eliminate_dead_code()
        module.recompile()


def _computed(module: fx.GraphModule, node: fx.Node) -> torch.Tensor:
    """The value of an op that reads constants alone, however deep."""

    def value(each: fx.Node) -> Any:
        if each.op == "get_attr":
            return constant_of(module, each)
        args, kwargs = fx.map_arg((each.args, each.kwargs), value)
        assert callable(each.target)
        return each.target(*args, **kwargs)

    with torch.no_grad():
        found: torch.Tensor = value(node).clone()
    return found


def _give_constant(module: fx.GraphModule, layer: fx.Node, place: int, name: str, value: torch.Tensor) -> None:
    set_constant(module, name, value)
    with module.graph.inserting_before(layer):
        read = module.graph.get_attr(name)
    read.meta["val"] = value
    layer.args = (*layer.args[:place], read, *layer.args[place + 1 :])


def _fold(module: fx.GraphModule, norm: fx.Node) -> bool:
    convolution = norm.args[0]
    if not isinstance(convolution, fx.Node) or convolution.target not in CONVOLUTIONS or len(convolution.users) != 1:
        return False
    weight = constant_of(module, convolution.args[1])
    mean, variance = (constant_of(module, each) for each in norm.args[3:5])
    if weight is None or mean is None or variance is None or len(_readers(module, convolution.args[1])) != 1:
        return False
    gamma, beta = (constant_of(module, each) for each in norm.args[1:3])
    epsilon = norm.args[_EPSILON[norm.target]]
    scale = torch.rsqrt(variance.double() + epsilon) * (1.0 if gamma is None else gamma.double())
    bias = constant_of(module, convolution.args[2]) if len(convolution.args) > 2 else None
    shift = ((0.0 if bias is None else bias.double()) - mean.double()) * scale
    name = str(convolution.args[1].target)
    set_constant(module, name, (weight.double() * scale.view(-1, *[1] * (weight.ndim - 1))).float())
    give_bias(module, convolution, (shift + (0.0 if beta is None else beta.double())).float())
    result = norm
    if norm.target is not ATEN.batch_norm.default:  # it returns the statistics too
        (result,) = (user for user in norm.users if user.args[1] == 0)
    result.replace_all_uses_with(convolution)
    return True


def give_bias(module: fx.GraphModule, layer: fx.Node, values: torch.Tensor) -> str:
    """Let a convolution or product add ``values`` of its own; returns their name."""
    weight = layer.args[1]
    assert isinstance(weight, fx.Node)
    name = f"{str(weight.target).removesuffix('weight')}folded_bias"
    _give_constant(module, layer, 2, name, values)
    return name


def _readers(module: fx.GraphModule, constant_node: object) -> list[fx.Node]:
    """All nodes that read a constant, by whatever node they reach it."""
    assert isinstance(constant_node, fx.Node)
    same = [node for node in module.graph.nodes if node.op == "get_attr" and node.target == constant_node.target]
    return [user for node in same for user in node.users]
