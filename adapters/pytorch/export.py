"""Exports a module: ``torch.export`` with a free batch axis where the module allows one."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from autotune.adapter import Example
from autotune.adapters.pytorch.arguments import Arguments, Signature, arguments, signature, uncompiled
from autotune.adapters.pytorch.checks import check_functions, check_module, check_output, check_program
from autotune.adapters.pytorch.quiet import first_line, place, quiet, reason
from autotune.errors import DataError, ModelError

_LOOKED_AT = 8
"""Batches whose shapes are compared: an axis in which they differ stays free, such as the length of texts."""

_WAY_OUT = (
    "Use `torch.where` or `torch.cond` in place of Python's `if`, and sizes in place of values; or pass what "
    "`torch.export.export` makes of the module"
)


@dataclass(frozen=True, kw_only=True)
class Export:
    """An exported module.

    Attributes:
        program: In evaluation mode, on the CPU, with one tensor as its output.
        example: The first batch of the user's data as the program takes it.
        notes: Notes for the user, a line each.
    """

    program: torch.export.ExportedProgram
    example: Arguments
    notes: tuple[str, ...] = ()


def exported(source: nn.Module | torch.export.ExportedProgram, example: Example | None) -> torch.export.ExportedProgram:
    """The program of a module, or an exported program once it is checked; see :func:`export`."""
    return export(source, example).program


def export(source: nn.Module | torch.export.ExportedProgram, example: Example | None) -> Export:
    """Export a module with the first batch of the user's data as its example.

    The number of samples is free, and so is every other axis in which the first batches differ. Where the module does
    not allow that, all axes are as the first batch has them, and a note says why.

    Args:
        source: A module, or a program that the user exported, which stays as it is.
        example: The user's data.

    Raises:
        ModelError: The module cannot be exported, or is none that can be tuned; the message says why.
        DataError: There is no example, or one that ``forward`` does not take.
    """
    source = uncompiled(source)
    takes, items = signature(source), _items(example)
    if not isinstance(source, nn.Module):
        check_program(source)
        return Export(program=source, example=arguments(items[0], takes, _dtype(source.state_dict)))
    check_module(source)
    batches = [arguments(item, takes, _dtype(source.state_dict())) for item in items]
    first = batches[0]
    if any(tensor.ndim and tensor.shape[0] == 0 for tensor in first.tensors.values()):
        raise DataError(f"A batch must have at least one sample, but the first has none ({_shapes(first, takes)})")
    _run_once(source, first, takes)
    counted = _sample_axes(first, takes, None if example is None else example.batch_axis)
    free = _free_axes(batches, counted)
    try:
        return _checked(_export(source, _resized(first, counted), takes, free), first)
    except ModelError:
        raise
    except Exception as error:
        why = reason(error)
        if _depends_on_data(error):
            raise ModelError(
                "The control flow of a module must not depend on values of its inputs, but torch.export says: "
                f"{why}. {_WAY_OUT}"
            ) from error
    try:
        program = _export(source, first, takes, {})
    except Exception as error:
        raise ModelError(
            f"A module must be one that torch.export takes, but it says: {reason(error)}. {_WAY_OUT}"
        ) from error
    note = (
        f"The module is exported for batches of the first one's shape alone ({_shapes(first, takes)}), since "
        f"torch.export says: {why}"
    )
    return _checked(program, first, note)


def _checked(program: torch.export.ExportedProgram, example: Arguments, *notes: str) -> Export:
    check_functions(program)
    return Export(program=program, example=example, notes=notes)


def _items(example: Example | None) -> Sequence[object]:
    if example is None:
        raise ModelError(
            "A module can only be read with a batch of data to export it with, but there is none. Give a data loader, "
            "or export it to a file: `torch.onnx.export(module, inputs, path, dynamo=True)`"
        )
    return example.items(_LOOKED_AT)


def _dtype(state: Mapping[str, Any]) -> torch.dtype:
    """Element type of the first floating point weight, which examples are cast to."""
    kinds = (each.dtype for each in state.values() if isinstance(each, torch.Tensor) and each.is_floating_point())
    return next(kinds, torch.float32)


def _run_once(module: nn.Module, example: Arguments, takes: Signature) -> None:
    """Run the module as it is, so that what is wrong with it or with the data shows with the user's own words.

    Raises:
        DataError: It does not run on the first batch.
        ModelError: It does not return one tensor.
    """
    try:
        with torch.no_grad():
            output = module(*example.positional, **example.named)
    except Exception as error:
        raise DataError(
            f"A module must run on the first batch of the data loader ({_shapes(example, takes)}), but it raised "
            f"{type(error).__name__}: {first_line(error)}{place(error)}. Make the loader yield what `forward` takes"
        ) from error
    check_output(output)


def _names(example: Arguments, takes: Signature) -> list[str]:
    """The parameters that the tensors of an example are for; further ones by their place."""
    if not example.positional:
        return list(example.named)
    return [*takes.names[: len(example.positional)], *list(example.tensors)[len(takes.names) :]]


def _shapes(example: Arguments, takes: Signature) -> str:
    return ", ".join(
        f"{name} {str(each.dtype).removeprefix('torch.')} {tuple(each.shape)}"
        for name, each in zip(_names(example, takes), example.tensors.values(), strict=True)
    )


def _free_axes(batches: Sequence[Arguments], counted: Mapping[str, int]) -> dict[str, set[int]]:
    """By input: the axis that counts samples, and every axis in which batches differ."""
    first = batches[0].tensors
    free = {name: {axis} for name, axis in counted.items()}
    for other in batches[1:]:
        for name, tensor in other.tensors.items():
            before = first.get(name)
            if before is not None and before.ndim == tensor.ndim:
                differing = {axis for axis in range(tensor.ndim) if tensor.shape[axis] != before.shape[axis]}
                free[name] = free.get(name, set()) | differing
    return {name: axes for name, axes in free.items() if axes}


def _sample_axes(example: Arguments, takes: Signature, named: int | Mapping[str, int] | None) -> dict[str, int]:
    """By input: the axis that counts samples; that of the user's, else the first where the inputs share its length."""
    tensors = example.tensors
    axes: dict[str, int] = {}
    for (key, tensor), name in zip(tensors.items(), _names(example, takes), strict=True):
        axis = named.get(name) if isinstance(named, Mapping) else (named or 0)
        if axis is not None and -tensor.ndim <= axis < tensor.ndim:
            axes[key] = axis % tensor.ndim
    lengths = [tensors[name].shape[axis] for name, axis in axes.items()]
    return {name: axis for name, axis in axes.items() if tensors[name].shape[axis] == lengths[0]}


def _resized(example: Arguments, counted: Mapping[str, int]) -> Arguments:
    """The example with two samples where it has one: ``torch.export`` takes a size of 0 or 1 for a constant."""
    tensors = example.tensors
    if all(tensors[name].shape[axis] > 1 for name, axis in counted.items()):
        return example
    twice = torch.zeros(2, dtype=torch.int64)
    resized = {
        name: tensor.index_select(counted[name], twice) if name in counted else tensor
        for name, tensor in tensors.items()
    }
    positional = tuple(resized[str(place)] for place in range(len(example.positional)))
    return replace(example, positional=positional, named={name: resized[name] for name in example.named})


def _export(
    module: nn.Module, example: Arguments, takes: Signature, free: Mapping[str, set[int]]
) -> torch.export.ExportedProgram:
    dims = {
        name: dict.fromkeys(sorted(free.get(name, ())), torch.export.Dim.DYNAMIC) or None for name in example.tensors
    }
    shapes: dict[str, Any] | tuple[Any, ...] = dims
    if not example.named:
        own = tuple(dims.values())[: len(takes.names)]
        shapes = (*own, tuple(dims.values())[len(own) :]) if takes.any_position else own
    with quiet(), _explicit_parameters(module, example, takes):
        return torch.export.export(module, example.positional, dict(example.named), dynamic_shapes=shapes, strict=False)


@contextlib.contextmanager
def _explicit_parameters(module: nn.Module, example: Arguments, takes: Signature) -> Iterator[None]:
    """A ``forward(**inputs)`` with a parameter for each input: ``torch.export`` frees no axis of what is in ``**``."""
    if takes.any_name is None or not example.named:
        yield
        return
    forward = module.forward

    def explicit(*args: object, **named: object) -> object:
        return forward(*args, **named)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    explicit.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # what `inspect` reads first
        [inspect.Parameter(name, kind) for name in example.named]
    )
    before = vars(module).get("forward")
    vars(module)["forward"] = explicit
    try:
        yield
    finally:
        del vars(module)["forward"]
        if before is not None:
            vars(module)["forward"] = before


def _depends_on_data(error: Exception) -> bool:
    return any(kind.__name__ == "GuardOnDataDependentSymNode" for kind in type(error).__mro__)
