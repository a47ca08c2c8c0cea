"""Makes ONNX of TensorFlow's models with tf2onnx, for the runtimes that do not read them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from autotune.adapter import Example
from autotune.adapters.onnx.converted import adopt
from autotune.adapters.tensorflow.convert import export, is_keras
from autotune.adapters.tensorflow.graph import text
from autotune.adapters.tensorflow.load import read_model
from autotune.conversion import ConverterTool, convert
from autotune.errors import ModelError

_SAVED_MODEL, _LITE = "saved_model.pb", ".tflite"
_WRAPPERS = ("StatefulPartitionedCall/", "PartitionedCall/")
_LEFT_BY_READING = ("/ReadVariableOp:0", "/merged_input:0", ":0")
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


class TensorFlowConverter:
    """tf2onnx; see :class:`autotune.conversion.Converter`."""

    name = "tensorflow"
    tool = ConverterTool(
        name="tensorflow",
        title="tf2onnx",
        program=Path(__file__).with_name("onnx_program.py"),
        modules=("tensorflow", "tf2onnx"),
        requirements=(
            (
                "tensorflow-cpu==2.21.0; platform_machine == 'x86_64' and sys_platform != 'darwin'",
                "tensorflow==2.21.0; platform_machine != 'x86_64' or sys_platform == 'darwin'",
                "tf2onnx==1.17.0",
            ),
        ),
        variables={"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
    )

    def to_onnx(self, source: Any, example: Example | None) -> tuple[bytes, Sequence[str]]:
        """The ONNX file of a ``.tflite`` file, a SavedModel, a Keras file or a ``keras.Model``.

        Ops have the names that LiteRT's have where the two files tell them alike.

        Raises:
            MissingDependencyError: tf2onnx is not installed.
            ModelError: The model cannot be read or converted.
            DataError: It does not take the first batch.
        """
        path = Path(source).absolute() if isinstance(source, (str, os.PathLike)) else None
        if path is not None and not path.exists():
            raise ModelError(f"The model file {source} does not exist (looked in {path.parent})")
        what = f"The model {getattr(source, 'name', '')!r}" if path is None else str(source)
        if path is None and not is_keras(source):
            raise ModelError(f"A model must be a keras.Model or the path of one, but is a {type(source).__name__}")

        def request(folder: Path) -> Mapping[str, str]:
            if path is None:
                export(source, str(folder / "saved"), what)
                return {"kind": "saved_model", "path": str(folder / "saved")}
            kind = "saved_model" if path.is_dir() else "tflite" if path.suffix == _LITE else "keras"
            return {"kind": kind, "path": str(path)}

        converted = convert(self.tool, request, example, what)
        names = _of_file(path) if path is not None and path.suffix == _LITE else _of_layer
        return adopt(converted, title=self.tool.title, what=what, name_of=names)


def _of_file(path: Path) -> Callable[[onnx.NodeProto], str | None]:
    """The names of the ops of a ``.tflite`` file, by the tensors that they write."""
    model = read_model(path)
    named = {text(model.graph.tensors[place].name): op.name for op in model.ops for place in op.outputs}
    return lambda node: next((named[each] for each in (node.name, *node.output) if each in named), None)


def _of_layer(node: onnx.NodeProto) -> str | None:
    """The name of a layer's op in the graph of a SavedModel: that of a node, or of the weight that it multiplies."""
    read = [name for name in node.input[1:2] if node.op_type in _WEIGHTED and "/" in name]
    for name in (*read, node.name):
        for wrapper in _WRAPPERS:
            if name.startswith(wrapper):
                plain = str(name).removeprefix(wrapper)
                for rest in _LEFT_BY_READING:
                    plain = plain.removesuffix(rest)
                return plain
    return None
