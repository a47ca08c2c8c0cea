"""A model as the adapter holds it, and its fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from autotune.adapter import Array, TensorSpec
from autotune.adapters.paddle import program as programs
from autotune.adapters.paddle.parameters import write_parameters
from autotune.batch import BatchAxes
from autotune.errors import ModelError

LARGEST_INTEGER = "autotune_largest"
"""Attribute of an op that turns a tensor into integers: the largest one that the calibration data become."""

INTEGER_OPS = frozenset({"quantize_linear", "fake_quantize_dequantize_moving_average_abs_max"})
"""Ops by which a program tells oneDNN's integer passes which tensors to turn into integers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PaddleModel:
    """A program and its constants, which nobody changes, and what the adapter knows of them.

    Attributes:
        content: The program, as a ``.pdmodel`` file holds it.
        constants: By name: the arrays of the ``.pdiparams`` file.
        names: By name of a constant: how the user knows it, such as ``layer1.conv.weight``; empty for files.
        told: Notes for the user as soon as the model is read or made, a line each.
        given: The user's model as it was before preparation; None where this is the user's own, or a candidate.
        file_bytes: Size of the files that a user gave; None where the model has none, or is a candidate.
        batch_axes: Which axes count samples; None: what the shapes of inputs and outputs declare.
    """

    content: bytes
    constants: Mapping[str, Array]
    names: Mapping[str, str] = field(default_factory=dict)
    told: tuple[str, ...] = ()
    given: PaddleModel | None = None
    file_bytes: int | None = None
    batch_axes: BatchAxes | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user, a line each."""
        return self.told

    @property
    def program(self) -> Any:
        """A copy of the program, which may be changed."""
        return programs.parse(self.content)

    @cached_property
    def integers(self) -> bool:
        """Whether the program asks for integers, so that it is executed with oneDNN's integer passes."""
        return any(op.type in INTEGER_OPS for op in programs.ops(self.program))

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that depend on the program and its constants, and not on names inside of it."""
        return _fingerprint(self.program, self.constants)

    @cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs in graph order."""
        program = self.program
        return tuple(_spec(program, name) for name in programs.inputs(program))

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs in graph order."""
        program = self.program
        return tuple(_spec(program, name) for name in programs.outputs(program))

    @cached_property
    def size_bytes(self) -> int:
        """Size of the program and its parameters on the disk."""
        if self.file_bytes is not None:
            return self.file_bytes
        return len(self.content) + len(self.parameters)

    @property
    def parameters(self) -> bytes:
        """The constants as a ``.pdiparams`` file holds them."""
        return write_parameters(self.constants)


def _spec(program: Any, name: str) -> TensorSpec:
    var = programs.variables(program).get(name)
    found = None if var is None else programs.tensor_type(var)
    if found is None:
        raise ModelError(
            f"Inputs and outputs of a model must be tensors of numbers, but {name!r} is none. Export the model with "
            "such inputs and outputs alone"
        )
    dtype, shape = found
    return TensorSpec(name=name, dtype=dtype, shape=tuple(None if dim < 0 else dim for dim in shape))


def _fingerprint(program: Any, constants: Mapping[str, Array]) -> str:
    """A hash of ops, attributes, edges and constants; Paddle numbers tensors anew in each process."""
    digest = hashlib.sha256()
    numbers: dict[str, int] = {}
    for block in program.blocks:
        for op in block.ops:
            digest.update(repr((op.type, programs.attributes(op))).encode())
            for item in (*op.inputs, *op.outputs):
                for name in item.arguments:
                    first = name not in numbers
                    number = numbers.setdefault(name, len(numbers))
                    digest.update(f"{item.parameter} {number} ".encode())
                    if first and name in constants:
                        array = constants[name]
                        digest.update(repr((str(array.dtype), array.shape)).encode())
                        digest.update(np.ascontiguousarray(array).tobytes())
            if op.type == "feed":
                name = programs.written(op, "Out")
                digest.update(repr((name, programs.tensor_type(programs.variables(program)[name]))).encode())
    return digest.hexdigest()[:16]
