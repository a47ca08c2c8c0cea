"""The flat graph of an exported program: tensors in, a tuple of tensors out, constants as attributes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.ao.quantization.fx import _decomposed  # noqa: F401  # registers the ops that quantized graphs consist of

from autotune.adapter import Array

ATEN = torch.ops.aten


def without_writes(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without ops that write in place, such as ``relu_``: a tensor that is watched must stay as it was."""
    writes = any(_writes_in_place(node) for node in program.graph.nodes)
    return program.run_decompositions({}) if writes else program


def flat_graph(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """The program's graph, which takes its inputs by position and returns a tuple."""
    module = program.module(check_guards=False)
    frozen: dict[torch.Tensor, torch.nn.Parameter] = {}
    for part in module.modules():
        for name, value in list(part._parameters.items()):
            if value is not None:  # the user's own, whose gradients stay on
                frozen.setdefault(value, torch.nn.Parameter(value.detach(), requires_grad=False))
                part._parameters[name] = frozen[value]
    module.graph.set_codegen(fx.graph.CodeGen())
    module._forward_pre_hooks.clear()  # the exporter's, which asks for the names that an example of a dict had
    module._forward_pre_hooks_with_kwargs.clear()
    for node in list(module.graph.nodes):
        # Guards on shapes are the exporter's; `specs` has those that a caller is told of.
        if node.op == "call_module" or node.target is torch.ops.aten._assert_tensor_metadata.default:
            module.graph.erase_node(node)
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    if isinstance(output.args[0], fx.Node):
        output.args = ((output.args[0],),)
    module.recompile()
    return module


def copied(module: fx.GraphModule) -> fx.GraphModule:
    """Another module with the same nodes, names and constants, which may be changed without the first one."""
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    result = graph.graph_copy(module.graph, values)
    graph.output(result)
    for before, after in values.items():
        assert before.name == after.name
    return fx.GraphModule(module, graph)


def constant(module: fx.GraphModule, name: str) -> torch.Tensor:
    """A parameter or buffer by its dotted name."""
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part)
    assert isinstance(found, torch.Tensor)
    return found.detach()


def constant_of(module: fx.GraphModule, node: object) -> torch.Tensor | None:
    """The value of a node that reads a constant; None for any other argument."""
    return constant(module, str(node.target)) if isinstance(node, fx.Node) and node.op == "get_attr" else None


def set_constant(module: fx.GraphModule, name: str, value: torch.Tensor) -> None:
    """Give a constant another value, or make one; a dot in its name begins the name of a part."""
    owner: Any = module
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    if hasattr(owner, last):
        delattr(owner, last)
    owner.register_buffer(last, value.contiguous())


def array(tensor: torch.Tensor) -> Array:
    """The values of a tensor of the CPU; those that NumPy has no type for as float32."""
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()


def tensor(values: Array) -> torch.Tensor:
    """The tensor of an array, which has memory of its own."""
    return torch.from_numpy(np.array(values, order="C"))


def is_tensor(node: fx.Node) -> bool:
    """Whether a node writes one tensor, rather than a number or several of them."""
    return isinstance(node.meta.get("val"), torch.Tensor)


def graph_fingerprint(module: fx.GraphModule) -> str:
    """A hash of ops, their arguments and constants; 16 hexadecimal digits, the same in every process."""
    digest = hashlib.sha256()
    numbers: dict[str, int] = {}
    for number, node in enumerate(module.graph.nodes):
        numbers[node.name] = number

        def numbered(value: fx.Node) -> Any:
            return f"%{numbers[value.name]}"

        arguments = fx.map_arg((node.args, node.kwargs), numbered)
        if node.op == "get_attr":
            value = constant(module, str(node.target))
            digest.update(f"constant {value.dtype} {tuple(value.shape)}".encode())
            digest.update(
                value.contiguous().view(torch.uint8).numpy().tobytes() if value.ndim else repr(value).encode()
            )
        elif node.op == "placeholder":
            digest.update(f"input {node.target}".encode())
        else:
            digest.update(f"{node.op} {node.target} {arguments!r}".encode())
    return digest.hexdigest()[:16]


def _writes_in_place(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def run_graph(module: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Outputs of the graph, computed without gradients."""
    with torch.no_grad():
        found = module(*inputs)
    return tuple(found)
