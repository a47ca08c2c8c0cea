"""Makes ONNX of Paddle's models with paddle2onnx, for the runtimes that do not read them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from autotune.adapter import Example
from autotune.adapters.onnx.converted import adopt
from autotune.conversion import ConverterTool, convert
from autotune.errors import ModelError

_PROGRAM, _NEW_PROGRAM, _PARAMETERS = ".pdmodel", ".json", ".pdiparams"
_OWN_ENDINGS = (".weight", ".w_0")


class PaddleConverter:
    """paddle2onnx; see :class:`autotune.conversion.Converter`.

    It declares that it needs ONNX 1.17 or older, and pip puts that into an environment; so it gets one of its own.
    """

    name = "paddle"
    tool = ConverterTool(
        name="paddle",
        title="paddle2onnx",
        program=Path(__file__).with_name("onnx_program.py"),
        modules=("paddle", "paddle2onnx"),
        # It imports packaging and does not say so.
        requirements=(("paddle2onnx==2.1.0", "onnx==1.17.0", "paddlepaddle==3.3.1", "packaging", "setuptools<81"),),
        variables={"POLYGRAPHY_AUTOINSTALL_DEPS": "0"},
    )

    def to_onnx(self, source: Any, example: Example | None) -> tuple[bytes, Sequence[str]]:
        """The ONNX file of a program's files, of both representations, or of a ``paddle.nn.Layer``.

        Raises:
            MissingDependencyError: paddle2onnx is not installed.
            ModelError: The model cannot be read or converted.
            DataError: It does not take the first batch.
        """
        if isinstance(source, (str, os.PathLike)):
            files = _files(Path(source))
            converted = convert(self.tool, lambda _: files, example, str(source))
            return adopt(converted, title=self.tool.title, what=str(source), name_of=_layer_of)
        what = f"The layer {type(source).__name__}"
        converted = convert(self.tool, lambda folder: _written(source, example, folder), example, what)
        return adopt(converted, title=self.tool.title, what=what, name_of=_layer_of)


def _files(path: Path) -> Mapping[str, str]:
    """The two files of a program.

    Raises:
        ModelError: One is missing.
    """
    stem = str(path.absolute())
    for ending in (_PROGRAM, _PARAMETERS, _NEW_PROGRAM):
        stem = stem.removesuffix(ending)
    endings = (_NEW_PROGRAM, _PROGRAM) if path.suffix == _NEW_PROGRAM else (_PROGRAM, _NEW_PROGRAM)
    program = next((f"{stem}{each}" for each in endings if Path(f"{stem}{each}").is_file()), None)
    parameters = f"{stem}{_PARAMETERS}"
    if program is None:
        raise ModelError(f"The model file {stem}{_PROGRAM} does not exist (looked in {path.absolute().parent})")
    if not Path(parameters).is_file():
        raise ModelError(
            f"A Paddle model is two files, but the parameters of {program} are missing: {parameters} does not exist. "
            f"Put the {_PARAMETERS} file beside it, under the same name"
        )
    return {"program": program, "parameters": parameters}


def _written(layer: Any, example: Example | None, folder: Path) -> Mapping[str, str]:
    """The files of a layer, traced as Paddle's own adapter traces it, so that names are the same."""
    from autotune.adapters.paddle.load import read_model  # noqa: PLC0415  imports Paddle, which files do not need here
    from autotune.adapters.paddle.save import save_model  # noqa: PLC0415

    program, parameters = save_model(read_model(layer, example), folder / f"layer{_PROGRAM}", {})
    return {"program": str(program), "parameters": str(parameters)}


def _layer_of(node: onnx.NodeProto) -> str | None:
    """The layer whose weight a node multiplies, as Paddle's own adapter names its ops."""
    for name in node.input[1:2]:
        for ending in _OWN_ENDINGS:
            if name.endswith(ending):
                return str(name).removesuffix(ending)
    return None
