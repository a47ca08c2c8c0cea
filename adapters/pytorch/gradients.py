"""Hessian probes of a module's weights by PyTorch's own differentiation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from autotune.adapter import Array, Feeds
from autotune.adapters.pytorch.names import function_name, program_names, weight_of
from autotune.errors import DataError

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

    Without labels the loss is the squared change of the output over its squared spread. At the module's own weights
    that change is 0, so that the Hessian is ``2 J' J / spread`` exactly, for the Jacobian ``J`` of the outputs. A probe
    takes random signs ``u`` of the outputs: ``|J_i' u|^2`` has the trace of ``J_i' J_i`` as its mean for every op
    ``i``, and is never negative, however few probes there are.

    With labels the loss is the mean cross entropy. A probe is one Hessian-vector product for all ops at once:
    ``v_i' (H v)_i``, whose mean is the trace of the op's own part of the Hessian, since the signs of different ops are
    independent.

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

    def hessian_probe(self, feeds: Feeds, *, seed: int, labels: Any = None) -> Mapping[str, float]:
        """By op: an estimate of the trace, of one forward and one backward pass, with labels of two backward passes.

        Raises:
            DataError: Labels or outputs are none of a classification.
        """
        values = self._with_gradients()
        output = self._run(values, feeds)
        generator = torch.Generator().manual_seed(seed)
        if labels is None:
            return self._change_probe(values, output, generator)
        loss = torch.nn.functional.cross_entropy(output, _classes(labels, output))
        return self._probe(values, loss, generator)

    def _change_probe(
        self, values: Mapping[str, torch.Tensor], output: torch.Tensor, generator: torch.Generator
    ) -> dict[str, float]:
        before = output.detach()
        spread = float((before - before.mean()).square().sum().clamp_min(1e-12))
        names = self._parameters
        signed = (output * _signs(output.shape, generator)).sum()
        found = torch.autograd.grad(signed, [values[name] for name in names], allow_unused=True)
        along = dict(zip(names, found, strict=True))
        traces = {}
        for op, weight in self._weights.items():
            gradient = along[weight.parameter]
            traces[op] = 0.0 if gradient is None else 2 * float(weight.unfolded(gradient).square().sum()) / spread
        return traces

    def _probe(
        self, values: Mapping[str, torch.Tensor], loss: torch.Tensor, generator: torch.Generator
    ) -> dict[str, float]:
        names, vectors = self._parameters, {}
        along = {name: torch.zeros_like(self._values[name]) for name in names}
        for op, weight in self._weights.items():
            vectors[op] = weight.unfolded(_signs(self._values[weight.parameter].shape, generator))
            along[weight.parameter] = along[weight.parameter] + vectors[op]
        by = [values[name] for name in names]
        gradients = torch.autograd.grad(loss, by, create_graph=True)
        dot = sum((each * along[name]).sum() for each, name in zip(gradients, names, strict=True))
        products = dict(zip(names, torch.autograd.grad(dot, by, allow_unused=True), strict=True))
        return {
            op: 0.0 if (product := products[weight.parameter]) is None else float((product * vectors[op]).sum())
            for op, weight in self._weights.items()
        }

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


def _classes(labels: Any, output: torch.Tensor) -> torch.Tensor:
    """Labels as indices of classes, whose scores lie along the second axis of the output.

    Raises:
        DataError: They are none.
    """
    classes = np.asarray(labels)
    wanted = (len(output), *output.shape[2:]) if output.ndim >= 2 else None
    if wanted is None or classes.dtype.kind not in "iu" or classes.shape != wanted:
        raise DataError(
            "The loss of labels needs outputs of shape (samples, classes, ...) and a whole number for each score that "
            f"is chosen from, but the output has shape {tuple(output.shape)} and the labels are {classes.dtype} of "
            f"shape {classes.shape}. Take strategy 'hawq' with loss='outputs', which needs no labels"
        )
    if classes.size and not (classes.min() >= 0 and classes.max() < output.shape[1]):
        raise DataError(
            f"Labels must be classes from 0 to {output.shape[1] - 1}, but they reach from {classes.min()} to "
            f"{classes.max()}. Take strategy 'hawq' with loss='outputs', which needs no labels"
        )
    return torch.from_numpy(classes.astype(np.int64))


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
