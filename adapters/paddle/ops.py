"""Which ops of a program can compute in int8: convolutions with a constant weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotune.adapter import Array
from autotune.adapters.paddle import program as programs

CONVOLUTIONS = ("conv2d", "depthwise_conv2d")

SHARING = frozenset({"pool2d", "reshape2", "transpose2", "slice", "split", "nearest_interp", "nearest_interp_v2"})
"""Ops whose input and output have one scale in Paddle's integer passes, whatever each of them would need."""


@dataclass(frozen=True, kw_only=True)
class QuantizableOp:
    """One convolution.

    Attributes:
        name: Name by which configs know it.
        kind: Paddle's name for this kind of op.
        source: The tensor that it convolves.
        weight: Name of its weight.
        bias: Name of the bias that is added to what it writes; empty where none is, before preparation.
        output: The tensor that it writes, with the bias.
        groups: Into how many groups its channels fall.
        depthwise: Whether each filter reads one channel.
    """

    name: str
    kind: str
    source: str
    weight: str
    bias: str
    output: str
    groups: int
    depthwise: bool


def quantizable_ops(program: Any, constants: Mapping[str, Array], names: Mapping[str, str]) -> list[QuantizableOp]:
    """The ops of a program that can be int8, in graph order.

    Args:
        program: The program.
        constants: Its constants.
        names: By name of a constant: how the user knows it.
    """
    readers = readers_of(program)
    counts: Counter[str] = Counter()
    found = []
    for op in programs.ops(program):
        weight = constants.get(programs.read(op, "Filter")) if op.type in CONVOLUTIONS else None
        if weight is None or weight.dtype != np.float32 or weight.ndim != 4:
            continue
        if programs.attribute(op, "data_format", "NCHW") not in ("NCHW", "AnyLayout"):
            continue  # oneDNN's integer kernels are found for this layout alone
        stem = _owner(programs.read(op, "Filter"), names)
        counts[stem] += 1
        groups = int(programs.attribute(op, "groups", 1))
        bias, output = _bias_after(op, readers, constants)
        found.append(
            QuantizableOp(
                name=stem if counts[stem] == 1 else f"{stem}/{counts[stem]}",
                kind=op.type,
                source=programs.read(op, "Input"),
                weight=programs.read(op, "Filter"),
                bias=bias,
                output=output,
                groups=groups,
                depthwise=groups > 1 and weight.shape[1] == 1,
            )
        )
    return found


def _owner(weight: str, names: Mapping[str, str]) -> str:
    """The layer whose weight this is, as the user knows it."""
    known = names.get(weight, weight)
    return known.removesuffix(".weight").removesuffix(".w_0") or known


def _bias_after(op: Any, readers: Mapping[str, list[Any]], constants: Mapping[str, Array]) -> tuple[str, str]:
    """The vector that is added to what an op writes, and the tensor that holds the sum."""
    output = programs.written(op, "Output")
    add = only_reader(output, readers)
    if add is None or not adds_vector(add, output, constants):
        return "", output
    return programs.read(add, "Y"), programs.written(add, "Out")


def adds_vector(op: Any, tensor: str, constants: Mapping[str, Array]) -> bool:
    """Whether an op adds one number per channel to a tensor."""
    if op.type != "elementwise_add" or programs.read(op, "X") != tensor:
        return False
    vector = constants.get(programs.read(op, "Y"))
    return vector is not None and vector.ndim == 1 and int(programs.attribute(op, "axis", -1)) == 1


def readers_of(program: Any) -> dict[str, list[Any]]:
    """By tensor or constant: the ops of the main block that read it, those that fetch it included."""
    found: dict[str, list[Any]] = {}
    for op in program.blocks[0].ops:
        for name in dict.fromkeys(programs.all_read(op)):
            found.setdefault(name, []).append(op)
    return found


def writers_of(program: Any) -> dict[str, Any]:
    """By tensor: the op of the main block that writes it."""
    return {name: op for op in programs.ops(program) for name in programs.all_written(op)}


def only_reader(tensor: str, readers: Mapping[str, list[Any]]) -> Any | None:
    """The op that alone reads a tensor; None where several do, or where it is an output of the model."""
    found = readers.get(tensor, [])
    return found[0] if len(found) == 1 and found[0].type != "fetch" else None
