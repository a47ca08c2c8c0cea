"""Puts the grids of a runtime's candidate into the graph of an exported program."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from autotune.adapter import ActivationGrid, FakeQuantizedOp, FakeQuantizedWeight
from autotune.adapters.pytorch.names import program_names
from autotune.adapters.pytorch.quiet import quiet
from autotune.adapters.pytorch.training.rounding import (
    FakeQuantizedParameter,
    FakeQuantizedTensor,
    FoldedBias,
    FoldedWeight,
)
from autotune.errors import ApplyError
from autotune.notes import listed

_OWN = "fake_quantization"
"""The submodule that holds what is inserted, beside the user's own."""

_GUARDS = "_guards_fn"
"""The exporter's submodule that refuses batches of another size, and cannot be pickled."""

_CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
_TOLERANCE = 1e-3
"""Difference of a weight from the runtime's, relative to its largest magnitude: folding rounds in another order."""


def fake_quantized(
    program: torch.export.ExportedProgram, ops: Mapping[str, FakeQuantizedOp]
) -> tuple[fx.GraphModule, Sequence[str]]:
    """The program as a module with the user's parameters, under their names, that rounds as a runtime does.

    Args:
        program: Exported in evaluation mode.
        ops: By name of an op: how it is quantized.

    Raises:
        ApplyError: The weight of an op is no parameter of the program.
    """
    surgery = _Surgery(program)
    missing = [name for name in ops if name not in surgery.nodes]
    for name, op in ops.items():
        if name in surgery.nodes and op.weight is not None:
            surgery.round_weight(name, op.weight)
    for name, op in ops.items():
        if name in surgery.nodes and op.output is not None:
            surgery.round_output(name, op.output)
    for name, op in ops.items():
        if name in surgery.nodes:
            surgery.round_inputs(name, op.inputs)
    notes = []
    if missing:
        notes.append(
            f"Training does not see the rounding of {listed(missing)}, which the runtime computes apart from the "
            "module's own calls"
        )
    return surgery.finish(), notes


class _Surgery:
    """The graph of one program while it is changed.

    Args:
        program: The program, which stays as it is.

    Attributes:
        nodes: By name of an op: its node.
    """

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        with quiet():  # a line of torch's own code warns of another one
            module = copy.deepcopy(program.module())  # the program's parameters are the user's own
        names = program_names(program)
        # The exporter's own module refuses `.train()` and `.eval()`; one of the same graph and parameters takes them.
        self._module = fx.GraphModule(module, module.graph, class_name="FakeQuantizedModule")
        self._module._tracer_cls = None  # the exporter's own, which nothing can be pickled with
        self._module.add_module(_OWN, nn.Module())
        self._graph = self._module.graph
        self._made: dict[tuple[fx.Node, ActivationGrid], fx.Node] = {}
        self.nodes = {names[node.name]: node for node in self._graph.nodes if node.name in names}

    def round_weight(self, name: str, weight: FakeQuantizedWeight) -> None:
        """Round the constant weight of an op, with the batch norm after it folded where the runtime has it folded."""
        node = self.nodes[name]
        source = _tensors(node)[weight.position]
        norm = _batch_norm_after(node)
        with self._graph.inserting_before(node):
            found = self._parameter(source)
            if norm is not None and not _alike(found, weight.values):
                source, found = self._fold(node, norm, source)
            transposed = found.ndim == 2 and not _alike(found, weight.values)
            if not _alike(found.T if transposed else found, weight.values):
                raise ApplyError(
                    f"The weight of an op that is trained must be a parameter of the module, but the runtime computes "
                    f"that of {name!r} from others. Leave the op in fp32"
                )
            rounded = self._call(
                f"{name}.weight", FakeQuantizedParameter(weight.rounded, transposed=transposed), (source,)
            )
        _replace(node, {weight.position: rounded})

    def _fold(self, node: fx.Node, norm: fx.Node, weight: fx.Node) -> tuple[fx.Node, torch.Tensor]:
        """Fold a batch norm into the convolution before it, and return the weight and its values."""
        scale, shift, mean, variance = norm.args[1:5]
        epsilon = float(norm.args[7])
        bias = node.args[2] if len(node.args) > 2 else None
        name = node.name
        folding, weight_args = FoldedWeight(epsilon), (weight, variance, scale)
        folded = self._call(f"{name}.folded_weight", folding, weight_args)
        folded_bias = self._call(f"{name}.folded_bias", FoldedBias(epsilon), (bias, mean, variance, scale, shift))
        with torch.no_grad():
            values = folding(*(None if each is None else self._parameter(each) for each in weight_args))
        node.args = (*node.args[:2], folded_bias, *node.args[3:])
        norm.replace_all_uses_with(node)
        self._graph.erase_node(norm)
        return folded, values

    def round_output(self, name: str, grid: ActivationGrid) -> None:
        """Round the tensor that an op writes, for all that read it."""
        node = self.nodes[name]
        users = list(node.users)
        with self._graph.inserting_after(node):
            rounded = self._rounded(f"{name}.output", node, grid)
        for user in users:
            user.replace_input_with(node, rounded)

    def round_inputs(self, name: str, grids: Mapping[int, ActivationGrid]) -> None:
        """Round the tensors that an op reads, for it alone, where it is not on the grid already."""
        node = self.nodes[name]
        tensors = _tensors(node)
        replacements = {}
        for position, grid in grids.items():
            if position >= len(tensors) or self._is_on(tensors[position], grid):
                continue
            with self._graph.inserting_after(tensors[position]):
                replacements[position] = self._rounded(f"{name}.input_{position}", tensors[position], grid)
        _replace(node, replacements)

    def _is_on(self, node: fx.Node, grid: ActivationGrid) -> bool:
        """Whether all values of a tensor are values of a grid that begins at zero or holds negative ones too."""
        while node.op == "call_function" and _kind(node) == "relu":
            node = _tensors(node)[0]
        return any(made is node and on == grid for (_, on), made in self._made.items())

    def _rounded(self, name: str, node: fx.Node, grid: ActivationGrid) -> fx.Node:
        if (node, grid) not in self._made:
            self._made[node, grid] = self._call(name, FakeQuantizedTensor(grid), (node,))
        return self._made[node, grid]

    def _call(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> fx.Node:
        """Insert a call of a new submodule, where the graph inserts now."""
        path = f"{_OWN}.{name.replace('.', '_')}"
        self._module.add_submodule(path, module)
        return self._graph.call_module(path, args)

    def _parameter(self, node: Any) -> torch.Tensor:
        """The parameter or buffer that a node reads.

        Raises:
            ApplyError: It is computed.
        """
        if node.op != "get_attr":
            raise ApplyError(
                f"The weight of an op that is trained must be a parameter, but {node.name!r} is computed. Leave the op "
                "in fp32"
            )
        value: Any = self._module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        assert isinstance(value, torch.Tensor)
        return value.detach()

    def finish(self) -> fx.GraphModule:
        """The module, in training mode."""
        for node in list(self._graph.nodes):
            if node.op == "call_module" and node.target == _GUARDS:
                self._graph.erase_node(node)
        if hasattr(self._module, _GUARDS):
            self._module.delete_submodule(_GUARDS)
        self._graph.lint()
        self._module.recompile()
        self._module.train()
        return self._module


def _tensors(node: fx.Node) -> list[fx.Node]:
    """The tensors that a node reads, in order, one entry for each time."""
    found: list[fx.Node] = []
    fx.map_arg(node.args, found.append)
    return found


def _replace(node: fx.Node, replacements: Mapping[int, fx.Node]) -> None:
    """Let a node read other tensors at some positions."""
    counter = iter(range(len(_tensors(node))))

    def chosen(read: fx.Node) -> fx.Node:
        return replacements.get(next(counter), read)

    node.args = fx.map_arg(node.args, chosen)


def _batch_norm_after(node: fx.Node) -> fx.Node | None:
    """The batch norm that alone reads what a convolution writes."""
    if _kind(node) not in _CONVOLUTIONS or len(node.users) != 1:
        return None
    user = next(iter(node.users))
    return user if _kind(user) == "batch_norm" and user.args[0] is node else None


def _kind(node: fx.Node) -> str:
    return getattr(getattr(node.target, "overloadpacket", None), "__name__", "")


def _alike(found: torch.Tensor, values: Any) -> bool:
    array = found.numpy()
    if array.shape != values.shape:
        return False
    largest = float(np.abs(values).max(initial=0.0))
    return bool(np.abs(array - values).max(initial=0.0) <= _TOLERANCE * largest)
