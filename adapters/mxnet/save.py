"""Write a model as MXNet's two files: the symbol, and its parameters beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from autotune.adapters.mxnet.files import PARAMETERS, SYMBOL
from autotune.adapters.mxnet.framework import dense, mx, reason
from autotune.adapters.mxnet.model import MxnetModel
from autotune.atomic import replacing_all
from autotune.errors import WorkspaceError
from autotune.saving import saving


def save_model(model: MxnetModel, path: Path, metadata: Mapping[str, str]) -> tuple[Path, Path]:
    """Write ``model`` to ``path``, which ends in ``-symbol.json``, and its parameters beside it.

    ``mx.model.load_checkpoint(prefix, 0)`` reads both. Metadata and the shapes of inputs and outputs are an attribute
    of the first input.

    Raises:
        WorkspaceError: A file cannot be written, or the path has another ending.
    """
    if not path.name.endswith(SYMBOL):
        wanted = path.with_name(path.name.removesuffix(".json") + SYMBOL)
        raise WorkspaceError(
            f"An MXNet model must be saved under a name that ends in {SYMBOL}, with its -0000{PARAMETERS} beside it, "
            f"but got {path}. Save it as {wanted}"
        )
    text = model.written(metadata)
    beside = path.with_name(path.name.removesuffix(SYMBOL) + f"-0000{PARAMETERS}")
    with saving(path), replacing_all([beside, path]) as (parameters, symbol):
        write_files(model, text, symbol, parameters)
    return path, beside


def write_files(model: MxnetModel, text: str, symbol: Path, parameters: Path) -> None:
    """Write a symbol's JSON and the parameters of a model.

    Raises:
        OSError: A file cannot be written.
    """
    symbol.write_text(text, encoding="utf-8")
    arrays = {f"arg:{name}": dense(array) for name, array in model.arguments.items()}
    arrays |= {f"aux:{name}": dense(array) for name, array in model.states.items()}
    try:
        mx.nd.save(str(parameters), arrays)
    except (mx.base.MXNetError, ValueError, TypeError) as error:
        raise OSError(reason(error)) from error
