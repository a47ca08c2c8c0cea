"""Checks that a module can be exported; each failure has a message of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autotune.adapters.pytorch.quiet import place_in
from autotune.errors import ModelError

_TRAINING = {
    "dropout": 2,
    "alpha_dropout": 2,
    "feature_dropout": 2,
    "feature_alpha_dropout": 2,
    "rrelu": 3,
    "batch_norm": 5,
    "_native_batch_norm_legit": 5,
}
"""Ops that compute something else in training, and the place of the argument that says so."""


def check_module(module: nn.Module) -> None:
    """See that a module is on the CPU, in float32 and evaluation mode, and has all statistics that it needs.

    Raises:
        ModelError: It is not; the message names the first part that is to blame.
    """
    _check_devices((*module.named_parameters(), *module.named_buffers()), "Call `.cpu()` on it")
    for name, part in module.named_modules():
        own = ((f"{name}.{key}" if name else key, value) for key, value in vars(part).items())
        _check_devices(own, "`.cpu()` does not move it, since it is an attribute: make it a buffer (`register_buffer`)")
    _check_types(module.named_parameters())
    for name, part in module.named_modules():
        if part.training:
            raise ModelError(
                f"A module must be in evaluation mode, but {_part(part, name)} is in training mode, where dropout "
                "and batch norm compute something else. Call `.eval()` on the module"
            )
        if isinstance(part, _BatchNorm) and part.running_mean is None:
            raise ModelError(
                f"A batch norm must have running statistics, but {_part(part, name)} has none "
                "(`track_running_stats=False`): its outputs depend on the other samples of a batch. Train it with "
                "`track_running_stats=True`, or use GroupNorm or LayerNorm"
            )


def check_program(program: torch.export.ExportedProgram) -> None:
    """See that an exported program is on the CPU, of a module in evaluation mode, and returns one tensor.

    Raises:
        ModelError: It is not; the message names the first part that is to blame.
    """
    _check_devices(program.state_dict.items(), "Call `.cpu()` on the module and export it again")
    _check_types(program.state_dict.items())
    for node in _as_in_training(program):
        raise ModelError(
            f"A program must be exported in evaluation mode, but its {node.name!r} computes as in training. Call "
            "`.eval()` on the module and export it again"
        )
    spec = program.call_spec.out_spec
    if spec is not None and not (spec.num_leaves == 1 and spec.num_nodes == 1):
        kind = getattr(spec.type, "__name__", str(spec.type))
        raise ModelError(_not_one_tensor(f"a {kind} of {spec.num_leaves}"))


def check_functions(program: torch.export.ExportedProgram) -> None:
    """See that the functions which a module in evaluation mode calls compute as in evaluation, too.

    Raises:
        ModelError: One does not; the message names its line.
    """
    for node in _as_in_training(program):
        where = place_in(node.meta.get("stack_trace", ""))
        raise ModelError(
            f"The functions that a module calls must compute as in evaluation mode, but {node.name!r}{where} computes "
            "as in training: its outputs depend on chance or on the other samples of a batch. Pass "
            "`training=self.training` to it, and running statistics to a batch norm"
        )


def check_output(output: object) -> None:
    """See that what a module returned is one tensor.

    Raises:
        ModelError: It is something else; the message says how to make a module of it that returns one.
    """
    if isinstance(output, torch.Tensor):
        return
    if isinstance(output, Mapping):
        raise ModelError(_not_one_tensor(f"a {type(output).__name__} with {', '.join(map(str, output))}", output))
    size = f" of {len(output)}" if isinstance(output, (tuple, list)) else ""
    raise ModelError(_not_one_tensor(f"a {type(output).__name__}{size}"))


def _as_in_training(program: torch.export.ExportedProgram) -> Iterator[Any]:
    """The nodes of a program that compute as in training."""
    for node in program.graph.nodes:
        if node.op != "call_function" or not hasattr(node.target, "overloadpacket"):
            continue
        place = _TRAINING.get(node.target.overloadpacket.__name__)
        if place is not None and len(node.args) > place and node.args[place] is True:
            yield node


def _not_one_tensor(returned: str, output: Mapping[Any, object] | None = None) -> str:
    key = f"[{next(iter(output), 'logits')!r}]" if output is not None else "[0]"
    return (
        f"A module must return one tensor, but it returns {returned}. Wrap it in a module whose `forward` returns the "
        f"tensor that is scored, such as `return self.model(*inputs){key}`"
    )


def _check_devices(tensors: Iterable[tuple[str, object]], way_out: str) -> None:
    for name, tensor in _elsewhere(tensors):
        kind = tensor.device.type
        if kind == "meta":
            raise ModelError(
                f"A module must have values, but {name!r} is on the meta device, which keeps none. Load the weights, "
                "with `.to_empty(device='cpu')` and `.load_state_dict(...)`"
            )
        raise ModelError(
            f"A module must be on the CPU, which runs it here, but {name!r} is on {tensor.device}. {way_out}"
        )


def _elsewhere(tensors: Iterable[tuple[str, object]]) -> Iterator[tuple[str, Any]]:
    return ((name, each) for name, each in tensors if isinstance(each, torch.Tensor) and each.device.type != "cpu")


def _check_types(tensors: Iterable[tuple[str, object]]) -> None:
    for name, tensor in tensors:
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.dtype is not torch.float32:
            raise ModelError(
                f"A module must have weights of float32, which are what is quantized, but {name!r} is "
                f"{str(tensor.dtype).removeprefix('torch.')}. Call `.float()` on it; where half precision is faster "
                "here, it is among the choices"
            )


def _part(part: nn.Module, name: str) -> str:
    return f"{name!r} (a {type(part).__name__})" if name else f"it (a {type(part).__name__})"
