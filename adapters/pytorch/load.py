"""Read a model from what a user gives: a module, an exported program, or a package that was saved before."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from autotune.adapter import Example, TensorSpec
from autotune.adapters.pytorch.checks import check_program
from autotune.adapters.pytorch.export import export
from autotune.adapters.pytorch.fold import fold_batch_norms, fold_weights
from autotune.adapters.pytorch.graph import flat_graph, is_tensor, without_writes
from autotune.adapters.pytorch.left import lines_on_left
from autotune.adapters.pytorch.model import PytorchModel, input_specs, output_specs
from autotune.adapters.pytorch.names import program_names
from autotune.adapters.pytorch.ops import quantizable_ops
from autotune.adapters.pytorch.package import read_package
from autotune.adapters.pytorch.quiet import quiet
from autotune.arguments import kind_of
from autotune.errors import MissingDependencyError, ModelError

_ACCEPTED = "a torch.nn.Module, a torch.export.ExportedProgram or the path of a package that was saved here"


def read_model(source: object, example: Example | None) -> PytorchModel:
    """The model as candidates are made of it: batch normalizations are folded into convolutions.

    Raises:
        ModelError: It is missing, corrupt, or cannot be exported.
        DataError: A module is to be exported, and there is no batch to do it with.
        MissingDependencyError: There is no C++ compiler, without which Inductor compiles nothing.
    """
    if isinstance(source, PytorchModel):
        return source
    if isinstance(source, (str, os.PathLike)):
        return _from_package(Path(source))
    if isinstance(source, torch.export.ExportedProgram):
        check_program(source)
        return _prepared(source, ())
    if isinstance(source, nn.Module):
        made = export(source, example)
        return _prepared(made.program, made.notes)
    raise ModelError(f"A model must be {_ACCEPTED}, but got {kind_of(source)}")


def _from_package(path: Path) -> PytorchModel:
    content, said = read_package(path)
    return PytorchModel(
        graph=None,
        package=content,
        identity=said["fingerprint"],
        inputs=tuple(map(_spec, said["inputs"])),
        outputs=tuple(map(_spec, said["outputs"])),
        told=tuple(said["notes"]),
    )


def _spec(stored: list[Any]) -> TensorSpec:
    name, dtype, shape = stored
    return TensorSpec(name=name, dtype=np.dtype(dtype), shape=tuple(shape))


def _prepared(program: torch.export.ExportedProgram, told: tuple[str, ...]) -> PytorchModel:
    require_compiler()
    with quiet():
        plain = without_writes(program)
        graph = flat_graph(plain)
    _require_plain(graph)
    fold_weights(graph)
    fold_batch_norms(graph)
    names = program_names(plain)
    ops = tuple(quantizable_ops(graph, names))
    return PytorchModel(
        graph=graph,
        inputs=input_specs(graph),
        outputs=output_specs(graph),
        example=_example(program),
        ops=ops,
        told=(*told, *lines_on_left(graph, ops, names)),
    )


def require_compiler() -> None:
    """See that Inductor has a C++ compiler.

    Raises:
        MissingDependencyError: It has none.
    """
    try:
        found = shutil.which(get_cpp_compiler())
    except InvalidCxxCompiler:
        found = None
    if found is None:
        raise MissingDependencyError(
            "The adapter 'pytorch' needs a C++ compiler, with which Inductor compiles models, but there is none. "
            "Install the package g++ (`apt-get install g++` on Debian and Ubuntu), or name one in the variable CXX"
        )


def _require_plain(graph: fx.GraphModule) -> None:
    """See that a graph consists of ops on tensors alone.

    Raises:
        ModelError: It branches inside, or one of its inputs is a number.
    """
    for node in graph.graph.nodes:
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            raise ModelError(
                f"A model must compute the same ops for every input, but {node.name!r} chooses between some. Export it "
                "without torch.cond and loops, or tune it with `framework: onnxruntime`"
            )
        if node.op == "placeholder" and not is_tensor(node):
            raise ModelError(
                f"A model must read tensors alone, but its input {node.name!r} is none. Fix it in `forward`"
            )


def _example(program: torch.export.ExportedProgram) -> tuple[torch.Tensor, ...]:
    """The inputs that a program was exported with; zeros where it was stored without."""
    given = program.example_inputs
    flat = [] if given is None else torch.utils._pytree.tree_leaves(given)
    tensors = [each for each in flat if isinstance(each, torch.Tensor)]
    names = program.graph_signature.user_inputs
    if len(tensors) == len(names):
        return tuple(each.detach().cpu() for each in tensors)
    values: dict[str, Any] = {node.name: node.meta.get("val") for node in program.graph.nodes}
    return tuple(
        torch.zeros(
            [dim if isinstance(dim, int) else dim.node.hint for dim in values[name].shape], dtype=values[name].dtype
        )
        for name in map(str, names)
    )
