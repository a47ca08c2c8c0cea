"""Write a model as Paddle's two files: the program, and its parameters beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from autotune.adapters.paddle import program as programs
from autotune.adapters.paddle.load import PARAMETERS, PROGRAM
from autotune.adapters.paddle.model import PaddleModel
from autotune.atomic import replacing_all
from autotune.errors import WorkspaceError
from autotune.saving import saving


def save_model(model: PaddleModel, path: Path, metadata: Mapping[str, str]) -> tuple[Path, Path]:
    """Write ``model`` to ``path``, and its parameters beside it with the suffix ``.pdiparams``.

    Args:
        model: The model.
        path: Path of the program.
        metadata: Goes into the program, as JSON in an attribute of its first op.

    Returns:
        Both files.

    Raises:
        WorkspaceError: A file cannot be written, or the path does not end in ``.pdmodel``.
    """
    if path.suffix != PROGRAM:
        raise WorkspaceError(
            f"A Paddle model must be saved under a name that ends in {PROGRAM}, with its {PARAMETERS} beside it, but "
            f"got {path}. Save it as {path.with_name(path.name + PROGRAM)}"
        )
    program = model.program
    first = program.blocks[0].ops[0]
    programs.set_attribute(first, programs.METADATA, json.dumps({"names": _kept(model), **metadata}, sort_keys=True))
    beside = path.with_suffix(PARAMETERS)
    with saving(path), replacing_all([beside, path]) as (parameters, content):
        content.write_bytes(program.SerializeToString())
        parameters.write_bytes(model.parameters)
    return path, beside


def _kept(model: PaddleModel) -> dict[str, str]:
    return {name: known for name, known in model.names.items() if name in model.constants}
