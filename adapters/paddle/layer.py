"""Traces a layer: what it computes becomes a program whose constants bear the names that the user knows."""

from __future__ import annotations

import contextlib
import inspect
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from autotune.adapter import Array, Example
from autotune.adapters.paddle import program as programs
from autotune.adapters.paddle.framework import old_representation, paddle, quiet, reason
from autotune.adapters.paddle.model import PaddleModel
from autotune.adapters.paddle.parameters import read_parameters
from autotune.errors import DataError, ModelError
from autotune.notes import counted
from autotune.owned_folder import OwnedFolder


def traced(layer: Any, example: Example | None) -> PaddleModel:
    """The model of a layer in evaluation mode; the layer stays as it is.

    The first axis of each input is free. Names of tensors are counted anew, so that they are the same in every process.

    Raises:
        ModelError: Its code cannot be traced.
        DataError: There is no batch, or one that ``forward`` does not take.
    """
    takes = parameters(layer)
    if example is None:
        raise ModelError(
            "A paddle.nn.Layer is traced with a batch of data, and there is none here. Give the data loader, or save "
            "the layer with `paddle.jit.save` and give the .pdmodel file"
        )
    feeds = arrays(takes, example)
    specs = [paddle.static.InputSpec([None, *array.shape[1:]], str(array.dtype), name) for name, array in feeds.items()]
    with OwnedFolder() as folder:
        prefix = Path(folder) / "layer"
        try:
            with quiet(), old_representation(), evaluating(layer):
                paddle.jit.save(layer, str(prefix), input_spec=specs)
        except Exception as error:  # whatever the user's own code raises when it is traced
            raise ModelError(
                f"A layer must be one that Paddle can trace, but {type(layer).__name__} cannot be: {reason(error)}. "
                "Rewrite what depends on values of tensors with `paddle.where` or `paddle.static.nn.cond`"
            ) from error
        content = prefix.with_suffix(".pdmodel").read_bytes()
        stored = prefix.with_suffix(".pdiparams")
        program = programs.parse(content)
        constants = read_parameters(stored.read_bytes() if stored.is_file() else b"", programs.constants(program))
    programs.strip(program)
    names = {value.name: name for name, value in layer.state_dict().items()}
    constants = _renamed(program, constants, names)
    return PaddleModel(content=program.SerializeToString(), constants=constants)


def parameters(layer: Any) -> list[str]:
    """Names of the inputs that a layer's ``forward`` needs, in order.

    Raises:
        ModelError: It takes any number of inputs.
    """
    found = []
    for each in inspect.signature(layer.forward).parameters.values():
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            continue
        if each.default is each.empty:
            found.append(each.name)
    if not found:
        raise ModelError(
            f"`forward` of a layer must name its inputs, but that of {type(layer).__name__} names none. Wrap it in a "
            "layer whose `forward` does"
        )
    return found


def arrays(takes: list[str], example: Example) -> dict[str, Array]:
    """The arrays of the first batch by the names of a layer's inputs.

    Raises:
        DataError: There are not as many, or a name is missing.
    """
    found = example.arrays(len(takes))
    if isinstance(found, dict):
        if missing := [name for name in takes if name not in found]:
            raise DataError(f"A batch must have the inputs of `forward` ({', '.join(takes)}), but lacks {missing}")
        values = [found[name] for name in takes]
    else:
        values = list(found.values()) if not isinstance(found, tuple) else list(found)
    if len(values) != len(takes):
        raise DataError(
            f"A batch must have {counted(len(takes), 'input')}, which `forward` takes "
            f"({', '.join(takes)}), but has {len(values)}"
        )
    narrowed = [value.astype(np.float32) if value.dtype == np.float64 else value for value in values]
    if other := next(
        (name for name, value in zip(takes, narrowed, strict=True) if value.dtype.kind not in "fiub"), None
    ):
        raise DataError(
            f"An input must be of numbers, but {other!r} is of {dict(zip(takes, narrowed, strict=True))[other].dtype}"
        )
    if scalar := next((name for name, value in zip(takes, narrowed, strict=True) if not value.ndim), None):
        raise DataError(f"An input must have an axis that counts samples, but {scalar!r} is a single number")
    return dict(zip(takes, narrowed, strict=True))


@contextlib.contextmanager
def evaluating(layer: Any) -> Iterator[None]:
    """A layer in evaluation mode; each part of it gets back the mode that it was in."""
    modes = [(each, each.training) for each in layer.sublayers(include_self=True)]
    layer.eval()
    try:
        yield
    finally:
        for each, training in modes:
            each.training = training


def _renamed(program: Any, constants: dict[str, Array], names: dict[str, str]) -> dict[str, Array]:
    """Name constants as the user does, and tensors by the ops that write them, counted in graph order."""
    fixed = set(programs.inputs(program))
    new: dict[str, str] = {name: names.get(name, name) for name in constants}
    counts: Counter[str] = Counter()
    for block in program.blocks:
        for op in block.ops:
            for item in op.outputs:
                for name in item.arguments:
                    if name in new or name in fixed or op.type in ("feed", "fetch"):
                        continue
                    counts[op.type] += 1
                    new[name] = f"{op.type}_{counts[op.type] - 1}.{item.parameter}"
    for block in program.blocks:
        for var in block.vars:
            var.name = new.get(var.name, var.name)
        for op in block.ops:
            for item in (*op.inputs, *op.outputs):
                for place, name in enumerate(item.arguments):
                    item.arguments[place] = new.get(name, name)
    return {new[name]: array for name, array in constants.items()}
