"""Turns a data loader's batch into the arguments of a module's ``forward``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter

import numpy as np
import torch
from torch import nn

from autotune.adapter.example import looks_labelled
from autotune.adapter.reading import TensorBatches, are_arrays
from autotune.errors import DataError, ModelError
from autotune.notes import counted

_LABELS = ("labels", "label")
"""Keys under which batches of Hugging Face's collators carry labels; with them, its models return a loss as well."""

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
"""Modules that share the work of another one out, and keep it as their ``module``."""


@dataclass(frozen=True, kw_only=True)
class Signature:
    """The inputs that a ``forward`` takes.

    Attributes:
        names: Names of its parameters, in order.
        required: Those of them that have no default, in order.
        any_position: Whether it takes further inputs by position.
        any_name: The name of the parameter that takes further inputs by name; None where there is none.
    """

    names: tuple[str, ...]
    required: tuple[str, ...]
    any_position: bool = False
    any_name: str | None = None

    def takes(self, name: str) -> bool:
        """Whether it takes an input of this name."""
        return name in self.names or (self.any_name is not None and name not in _LABELS)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The tensors of one batch: by position, or by name where the loader names them."""

    positional: tuple[torch.Tensor, ...] = ()
    named: Mapping[str, torch.Tensor]

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """All of them, by name or by position as text."""
        return {**{str(place): each for place, each in enumerate(self.positional)}, **self.named}


def uncompiled(source: nn.Module | torch.export.ExportedProgram) -> nn.Module | torch.export.ExportedProgram:
    """The module itself, of what ``torch.compile`` or ``DataParallel`` returned, which prefixes all names."""
    while True:
        inner = source.module if isinstance(source, _PARALLEL) else getattr(source, "_orig_mod", source)
        if inner is source:
            return source
        source = inner


def signature(source: nn.Module | torch.export.ExportedProgram) -> Signature:
    """The inputs of a module's ``forward``, or of an exported program.

    Raises:
        ModelError: It is TorchScript, whose ``forward`` may have no signature.
    """
    source = uncompiled(source)
    if isinstance(source, torch.jit.ScriptModule):
        raise ModelError(
            "A module must be one of Python's, but got TorchScript, which torch.export does not read. Give the module "
            "that it was made of, or what `torch.export.export` makes of it"
        )
    if not isinstance(source, nn.Module):
        names = tuple(str(name) for name in source.graph_signature.user_inputs)
        return Signature(names=names, required=names)
    parameters = inspect.signature(source.forward).parameters.values()
    plain = [each for each in parameters if each.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)]
    named = [each for each in plain if each.name not in _LABELS or each.default is Parameter.empty]
    return Signature(
        names=tuple(each.name for each in named),
        required=tuple(each.name for each in named if each.default is Parameter.empty),
        any_position=any(each.kind is Parameter.VAR_POSITIONAL for each in parameters),
        any_name=next((each.name for each in parameters if each.kind is Parameter.VAR_KEYWORD), None),
    )


def arguments(item: object, takes: Signature, dtype: torch.dtype) -> Arguments:
    """The arguments of ``forward`` for one item of a data loader.

    Args:
        item: ``inputs`` or ``(inputs, labels)``; ``inputs`` is an array or tensor, a tuple or list in the order of
            ``forward``, or a dict by the names of its parameters. Further keys of a dict are left out.
        takes: The inputs of ``forward``.
        dtype: That of the module's floating point weights.

    Raises:
        DataError: An input is missing, there are more of them than ``forward`` takes, or one is no array.
    """
    if looks_labelled(item, max(1, len(takes.required))):
        assert isinstance(item, (tuple, list))
        item = item[0]
    if isinstance(item, Mapping):
        names = [*takes.names, *(str(name) for name in item if str(name) not in takes.names)]
        kept = {name: _tensor(item[name], name, dtype) for name in names if name in item and takes.takes(name)}
        missing = [name for name in takes.required if name not in kept]
        if missing or not kept:
            raise DataError(
                f"A batch must have the inputs that `forward` takes ({', '.join(takes.names)}), but {_list(missing)} "
                f"is not among {_list(item)}. Name the keys of the loader's dict like the parameters"
            )
        return Arguments(named=kept)
    values = list(item) if isinstance(item, (tuple, list)) and are_arrays(item) else [item]
    most = len(values) if takes.any_position else len(takes.names)
    least = len(takes.required)
    if not least <= len(values) <= most:
        wanted = counted(most, "input") if least == most else f"{least} to {most} inputs"
        raise DataError(
            f"A batch must have {wanted}, which `forward` takes ({', '.join(takes.names)}), but has "
            f"{len(values)}. With labels a batch of several inputs is `((input, input), labels)`"
        )
    return Arguments(
        positional=tuple(_tensor(value, f"input {place}", dtype) for place, value in enumerate(values)), named={}
    )


@dataclass(frozen=True, kw_only=True)
class TensorReader(TensorBatches):
    """Makes arrays of tensors; see :class:`autotune.adapter.BatchReader`.

    Attributes:
        takes: The inputs of the module.
    """

    takes: Signature

    @property
    def count(self) -> int:
        """How many inputs the module takes at the least."""
        return max(1, len(self.takes.required))

    def has(self, name: str) -> bool:
        """Whether the module takes an input of this name."""
        return self.takes.takes(name)

    def array(self, value: object) -> object:
        """A tensor as an array; any other value as it is. NumPy has no bfloat16, which becomes float32."""
        if not isinstance(value, torch.Tensor):
            return value
        tensor = value.detach().cpu()
        return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()

    def called(self, positional: Sequence[object], named: Mapping[str, object]) -> object:
        """The batch of a call as users write it, ``model(x)``, ``model(a, b)`` or ``model(**batch)``.

        Raises:
            DataError: It has more inputs than the module takes, or one of them twice.
        """
        if not named and len(positional) == 1:
            return self.inputs(positional[0])
        if not named:
            return self.inputs(tuple(positional))
        names = self.takes.names[: len(positional)]
        twice = [name for name in names if name in named]
        if len(names) < len(positional) or twice:
            raise DataError(
                f"A call must give each input once ({', '.join(self.takes.names)}), but has {len(positional)} by "
                f"position and {', '.join(named)} by name"
            )
        return self.inputs({**dict(zip(names, positional, strict=True)), **named})


def as_tensor(value: object) -> torch.Tensor:
    """An array or tensor as a tensor on the CPU without gradients."""
    return value.detach().cpu() if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value))


def _tensor(value: object, name: str, dtype: torch.dtype) -> torch.Tensor:
    try:
        tensor = as_tensor(value)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"An input must be a tensor or an array of numbers, but {name!r} is a {type(value).__name__} "
            f"({error}). Convert it in the loader"
        ) from None
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _list(names: object) -> str:
    assert isinstance(names, (Mapping, Sequence))
    return ", ".join(repr(str(name)) for name in names) or "none of them"
