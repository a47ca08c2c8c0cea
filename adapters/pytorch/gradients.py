"""Hessian probes of a module's weights by PyTorch's own differentiation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from autotune.adapter import Array, Feeds
from autotune.adapters.pytorch.names import function_name, program_names, weight_of

_OUTPUT_AXIS = {"conv_transpose1d": 1, "conv_transpose2d": 1, "conv_transpose3d": 1, "matmul": -1}
"""The axis of a weight that counts output channels; 0 where a function is not in it."""


@dataclass(frozen=True, kw_only=True)
class _Weight:
    """A weight as runtimes see it: with the batch norm that follows it multiplied in.

    Attributes:
        parameter: Its name in the module.
        axis: That counts output channels.
        factor: By which each output channel is multiplied, in a shape that broadcasts to the weight; None for 1.
    """

    parameter: str
    axis: int
    factor: torch.Tensor | None


class ModuleGradients:
    """Weights and probes of an exported module; see :class:`autotune.adapter.Gradients`.

    The loss is the squared change of the output over its squared spread, which the module as it is has 0 of. A probe is
    one Hessian-vector product for all ops at once: ``v_i' (H v)_i``, whose mean is the trace of the op's own part of
    the Hessian, since the signs of different ops are independent.

    Args:
        program: The module, exported.
    """

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self._module = program.module()
        self._values = {
            name: value.detach() for name, value in (*self._module.named_parameters(), *self._module.named_buffers())
        }
        self._inputs = tuple(str(name) for name in program.graph_signature.user_inputs)
        self._named = tuple(program.example_inputs[1]) if program.example_inputs else ()
        self._weights = _weights(program, self._values)

    def weights(self) -> Mapping[str, tuple[Array, int]]:
        """By op that multiplies by a parameter: the parameter, and the axis that counts its output channels."""
        found = {}
        for op, weight in self._weights.items():
            value = self._values[weight.parameter]
            folded = value if weight.factor is None else value * weight.factor
            found[op] = (np.asarray(folded.numpy(), np.float32), weight.axis)
        return found

    def hessian_probe(self, feeds: Feeds, *, seed: int) -> Mapping[str, float]:
        """By op: ``v' H v`` for a vector of random signs; one forward and two backward passes."""
        generator = torch.Generator().manual_seed(seed)
        signs: dict[str, torch.Tensor] = {}
        vectors: dict[str, torch.Tensor] = {}
        for op, weight in self._weights.items():
            shape = self._values[weight.parameter].shape
            signs[op] = torch.randint(0, 2, shape, generator=generator).float() * 2 - 1
            # The weight has the batch norm in it: a change of 1 there is one of 1 / factor of the parameter.
            vectors[op] = signs[op] if weight.factor is None else signs[op] / weight.factor
        names = list(dict.fromkeys(weight.parameter for weight in self._weights.values()))
        values = {**self._values, **{name: self._values[name].clone().requires_grad_() for name in names}}
        along = {name: torch.zeros_like(self._values[name]) for name in names}
        for op, weight in self._weights.items():
            along[weight.parameter] = along[weight.parameter] + vectors[op]
        gradients = torch.autograd.grad(self._loss(values, feeds), [values[name] for name in names], create_graph=True)
        dot = sum((each * along[name]).sum() for each, name in zip(gradients, names, strict=True))
        products = dict(
            zip(names, torch.autograd.grad(dot, [values[name] for name in names], allow_unused=True), strict=True)
        )
        return {op: self._product(products[weight.parameter], vectors[op]) for op, weight in self._weights.items()}

    def _product(self, along: torch.Tensor | None, vector: torch.Tensor) -> float:
        return 0.0 if along is None else float((along * vector).sum())

    def _loss(self, values: Mapping[str, torch.Tensor], feeds: Feeds) -> torch.Tensor:
        output = self._run(values, feeds)
        before = output.detach()
        spread = (before - before.mean()).square().sum().clamp_min(1e-12)
        return (output - before).square().sum() / spread

    def _run(self, values: Mapping[str, torch.Tensor], feeds: Feeds) -> torch.Tensor:
        tensors = {name: torch.from_numpy(np.array(feeds[name])) for name in self._inputs}
        named = {name: tensors[name] for name in self._named}
        positional = tuple(tensors[name] for name in self._inputs if name not in named)
        output: Any = torch.func.functional_call(self._module, dict(values), positional, named)
        return output.float()


def _weights(program: torch.export.ExportedProgram, values: Mapping[str, torch.Tensor]) -> dict[str, _Weight]:
    """By name of the op: the parameter that it multiplies by, in the order of the program."""
    names, signature = program_names(program), program.graph_signature
    parameters = signature.inputs_to_parameters
    found = {}
    for node in program.graph.nodes:
        function = _function(node)
        parameter = weight_of(function, [each.name for each in node.all_input_nodes], parameters)
        if parameter is None or not values[parameter].is_floating_point() or values[parameter].ndim < 2:
            continue
        axis = _OUTPUT_AXIS.get(function, 0)
        held = {**parameters, **signature.inputs_to_buffers}
        factor = _folded(node, held, values) if axis == 0 else None
        shape = (-1, *[1] * (values[parameter].ndim - 1))
        found[names[node.name]] = _Weight(
            parameter=parameter, axis=axis, factor=None if factor is None else factor.reshape(shape)
        )
    return found


def _folded(node: Any, held: Mapping[str, str], values: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """By what the batch norm that alone reads a product multiplies its channels; None where there is no such."""
    users = list(node.users)
    if len(users) != 1 or _function(users[0]) != "batch_norm" or users[0].args[0] is not node:
        return None
    gamma, _, _, variance = (
        None if arg is None or arg.name not in held else values[held[arg.name]] for arg in users[0].args[1:5]
    )
    if variance is None:
        return None
    epsilon = users[0].args[7 if users[0].target is torch.ops.aten.batch_norm.default else 6]
    factor = torch.rsqrt(variance + float(epsilon))
    return factor if gamma is None else factor * gamma


def _function(node: Any) -> str:
    if node.op != "call_function":
        return ""
    return function_name(getattr(node.target, "overloadpacket", node.target).__name__)
