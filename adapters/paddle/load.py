"""Read a model from what a user gives: the files of a program, or a layer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from autotune.adapter import Array, Example
from autotune.adapters.paddle import program as programs
from autotune.adapters.paddle.framework import paddle
from autotune.adapters.paddle.layer import traced
from autotune.adapters.paddle.model import PaddleModel
from autotune.adapters.paddle.parameters import read_parameters
from autotune.arguments import kind_of
from autotune.errors import ModelError
from autotune.notes import counted

PROGRAM, PARAMETERS = ".pdmodel", ".pdiparams"
_ACCEPTED = (
    "the path of a .pdmodel file with its .pdiparams beside it, the two files' common prefix, or a paddle.nn.Layer"
)
_OLD = (
    "Save the layer in the old representation: set FLAGS_enable_pir_api=0 in the environment before Paddle is imported "
    "and call `paddle.jit.save(layer, prefix, input_spec=[...])` again, or give the paddle.nn.Layer itself"
)


def read_model(source: object, example: Example | None) -> PaddleModel:
    """The model as it stands.

    Raises:
        ModelError: It is missing, corrupt, of the new representation, or a layer that cannot be traced.
        DataError: A layer is to be traced, and there is no batch to do it with.
    """
    if isinstance(source, PaddleModel):
        return source
    if isinstance(source, paddle.nn.Layer):
        return traced(source, example)
    if isinstance(source, (str, os.PathLike)):
        return _read_path(Path(source))
    raise ModelError(f"A model must be {_ACCEPTED}, but got {kind_of(source)}")


def _read_path(path: Path) -> PaddleModel:
    prefix = path.with_suffix("") if path.suffix in (PROGRAM, PARAMETERS, ".json") else path
    program, parameters = (prefix.with_name(prefix.name + suffix) for suffix in (PROGRAM, PARAMETERS))
    if path.is_dir() and not program.is_file():
        raise ModelError(f"A model must be {_ACCEPTED}, but {path} is a folder. Give the file in it")
    new = prefix.with_name(prefix.name + ".json")
    if path.suffix == ".json" or (not program.is_file() and new.is_file()):
        raise ModelError(
            f"Paddle Inference quantizes programs of the old representation ({PROGRAM}), but {new} is of the new one "
            f"(PIR). {_OLD}"
        )
    try:
        content = program.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"The model file {program} does not exist (looked in {program.absolute().parent})") from None
    except OSError as error:
        raise ModelError(f"The model file {program} cannot be read: {error.strerror or error}") from error
    return read_files(content, parameters, str(program))


def read_files(content: bytes, parameters: Path, name: str) -> PaddleModel:
    """The model of a program and its file of parameters.

    Raises:
        ModelError: One is damaged, missing, or not of the other.
    """
    try:
        program = programs.parse(content)
        wanted = programs.constants(program)
    except ValueError as error:
        raise ModelError(
            f"{name} must be a program that `paddle.jit.save` wrote, but it is corrupt, cut off or of another format: "
            f"{error}. Export it again"
        ) from error
    try:
        stored = parameters.read_bytes() if wanted or parameters.is_file() else b""
        constants = read_parameters(stored, wanted)
    except FileNotFoundError:
        raise ModelError(
            f"A Paddle model is two files, but the parameters of {name} are missing: {parameters} does not exist. "
            f"Put the {PARAMETERS} file beside it, under the same name"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{parameters} must hold the {counted(len(wanted), 'array')} of {name}, but cannot be "
            f"read: {error}. Copy both files "
            "of one export"
        ) from error
    return checked(program, constants, name, file_bytes=len(content) + len(stored))


def checked(program: Any, constants: dict[str, Array], name: str, *, file_bytes: int | None) -> PaddleModel:
    """The model of a program that can be executed.

    Raises:
        ModelError: It has no inputs or outputs, or a constant is not of the shape that the program declares.
    """
    if not programs.inputs(program) or not programs.outputs(program):
        raise ModelError(f"{name} must have inputs and outputs, but has none. Export it with `paddle.jit.save`")
    variables = programs.variables(program)
    for constant, array in constants.items():
        found = programs.tensor_type(variables[constant])
        # Not the type: Paddle's own tools leave weights declared as float32 whose arrays are integers.
        if found is not None and np.prod(found[1]) == array.size:
            continue
        raise ModelError(
            f"The parameters of {name} must be those of its program, but {constant!r} is {array.dtype} of shape "
            f"{array.shape}. Copy both files of one export"
        )
    programs.strip(program)
    names = _names(program)
    model = PaddleModel(content=program.SerializeToString(), constants=constants, names=names, file_bytes=file_bytes)
    _ = model.inputs, model.outputs  # what is no tensor is told now
    return model


def _names(program: Any) -> dict[str, str]:
    """By name of a constant: how the user knew it, of a model that was saved here."""
    try:
        stored = json.loads(programs.attribute(program.blocks[0].ops[0], programs.METADATA, "{}"))
        return {str(name): str(known) for name, known in stored.get("names", {}).items()}
    except (ValueError, AttributeError):
        return {}  # another program's attribute of that name
