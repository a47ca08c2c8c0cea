"""Makes ONNX of MXNet's models with MXNet's own exporter, for the runtimes that do not read them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from autotune.adapter import Example
from autotune.adapters.mxnet.files import PARAMETERS, SYMBOL, symbol_files
from autotune.adapters.onnx.converted import adopt
from autotune.conversion import ConverterTool, convert


class MxnetConverter:
    """The exporter of MXNet 1.9.1; see :class:`autotune.conversion.Converter`."""

    name = "mxnet"
    tool = ConverterTool(
        name="mxnet",
        title="MXNet's exporter",
        program=Path(__file__).with_name("onnx_program.py"),
        modules=("mxnet", "onnx"),
        # MXNet's metadata forbids the NumPy that onnx needs.
        requirements=(
            ("--no-deps", "mxnet==1.9.1", "graphviz==0.8.4"),
            ("numpy>=2,<3", "onnx>=1.20", "requests", "setuptools<81"),
        ),
    )

    def to_onnx(self, source: Any, example: Example | None) -> tuple[bytes, Sequence[str]]:
        """The ONNX file of a symbol and its parameters, or of a Gluon ``HybridBlock``.

        A symbol has no shapes; those of the first batch are taken, with any number of samples.

        Raises:
            MissingDependencyError: MXNet is not installed.
            ModelError: The model cannot be read or converted.
            DataError: There are no data, or it does not take the first batch.
        """
        if isinstance(source, (str, os.PathLike)):
            files = _request(Path(source))
            what = str(source)
            converted = convert(self.tool, lambda _: files, example, what)
        else:
            what = f"The {type(source[0] if isinstance(source, tuple) else source).__name__}"
            converted = convert(self.tool, lambda folder: _exported(source, folder, example), example, what)
        return adopt(converted, title=self.tool.title, what=what, name_of=_symbol_of)


def _request(path: Path) -> Mapping[str, str]:
    """The request to the exporter's process: the files to read."""
    symbol, parameters = symbol_files(path.absolute())
    return {"symbol": str(symbol), "parameters": str(parameters)}


def _exported(source: Any, folder: Path, example: Example | None) -> Mapping[str, str]:
    """The request for an object, whose files are written as the adapter reads it: ops have the same names on both."""
    from autotune.adapters.mxnet.load import read_model  # noqa: PLC0415  files are converted without MXNet here
    from autotune.adapters.mxnet.save import write_files  # noqa: PLC0415

    model = read_model(source, example)
    symbol = folder / f"model{SYMBOL}"
    write_files(model, model.text, symbol, folder / f"model-0000{PARAMETERS}")
    return _request(symbol)


def _symbol_of(node: onnx.NodeProto) -> str | None:
    """The symbol of a node, which is named after what it writes."""
    return node.output[0] if node.output else None
