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

    def unfolded(self, value: torch.Tensor) -> torch.Tensor:
        """A change of the weight as a change of the parameter, and a derivative by the latter as one by the former."""
        # The weight has the batch norm in it: a change of 1 there is one of 1 / factor of the parameter.
        return value if self.factor is None else value / self.factor


class ModuleGradients:
    """Weights and probes of an exported module; see :class:`autotune.adapter.Gradients`.

    The loss is the squared change of the output over its squared spread. At the module's own weights that change is 0,
    so that the Hessian is ``2 J' J / spread`` exactly, for the Jacobian ``J`` of the outputs. A probe takes random signs
    ``u`` of the outputs: ``|J_i' u|^2`` has the trace of ``J_i' J_i`` as its mean for every op ``i``, and is never
    negative, however few probes there are.

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
        """By op: an estimate of the trace that is never negative; one forward and one backward pass."""
        values = self._with_gradients()
        output = self._run(values, feeds)
        before = output.detach()
        spread = float((before - before.mean()).square().sum().clamp_min(1e-12))
        signs = _signs(output.shape, torch.Generator().manual_seed(seed))
        names = self._parameters
        found = torch.autograd.grad((output * signs).sum(), [values[name] for name in names], allow_unused=True)
        along = dict(zip(names, found, strict=True))
        traces = {}
        for op, weight in self._weights.items():
            gradient = along[weight.parameter]
            traces[op] = 0.0 if gradient is None else 2 * float(weight.unfolded(gradient).square().sum()) / spread
        return traces

    @property
    def _parameters(self) -> list[str]:
        return list(dict.fromkeys(weight.parameter for weight in self._weights.values()))

    def _with_gradients(self) -> dict[str, torch.Tensor]:
        """The module's values, with those of weights to be differentiated by."""
        return {**self._values, **{name: self._values[name].clone().requires_grad_() for name in self._parameters}}

    def _run(self, values: Mapping[str, torch.Tensor], feeds: Feeds) -> torch.Tensor:
        tensors = {name: torch.from_numpy(np.array(feeds[name])) for name in self._inputs}
        named = {name: tensors[name] for name in self._named}
        positional = tuple(tensors[name] for name in self._inputs if name not in named)
        output: Any = torch.func.functional_call(self._module, dict(values), positional, named)
        return output.float()


def _signs(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 2, shape, generator=generator).float() * 2 - 1


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
