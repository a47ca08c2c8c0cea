"""Makes ONNX of TensorFlow's models with tf2onnx, in the converter's environment; see ``autotune.conversion.program``.

Inputs and outputs get the names of the model's signature, and keep their layout.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import onnx
import tensorflow as tf
from tf2onnx import convert, tf_loader

_OPSET = 18
_SIGNATURE = "serving_default"


def load(request: Mapping[str, str]) -> LiteModel | SavedModel:
    """The model of a file or folder."""
    path = Path(request["path"])
    if request["kind"] == "tflite":
        return LiteModel(path)
    if request["kind"] == "keras":
        import keras  # noqa: PLC0415  not every environment needs it

        folder = tempfile.mkdtemp(dir=Path.cwd())
        keras.saving.load_model(path, compile=False).export(folder, verbose=False)
        path = Path(folder)
    return SavedModel(path)


class LiteModel:
    """A ``.tflite`` file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._interpreter = _interpreter(path)
        read, written = (
            [each["name"] for each in details]
            for details in (self._interpreter.get_input_details(), self._interpreter.get_output_details())
        )
        self._read, self._written = self._signature(read, written)
        self.inputs, self.outputs = ([self._named(name) for name in names] for names in (read, written))

    def _signature(self, read: list[str], written: list[str]) -> tuple[dict[str, str], dict[str, str]]:
        """Names of the signature by those of tensors; none where the file has no signature or several."""
        signatures = list(self._interpreter.get_signature_list())
        if len(signatures) != 1:
            return {}, {}
        runner = self._interpreter.get_signature_runner(signatures[0])
        found = []
        for details, tensors in ((runner.get_input_details(), read), (runner.get_output_details(), written)):
            names = {each["name"]: name for name, each in details.items()}
            found.append(names if set(names) == set(tensors) else {})
        return found[0], found[1]

    def _named(self, tensor: str) -> str:
        return self._read.get(tensor) or self._written.get(tensor) or tensor

    def export(self, path: Path, feeds: Mapping[str, Any] | None) -> list[str]:
        """Write the ONNX file."""
        del feeds
        proto, _ = convert.from_tflite(str(self._path), opset=_OPSET)
        for values in (proto.graph.input, proto.graph.output):
            for value in values:
                _rename(proto.graph, value, self._named(value.name))
        onnx.save(proto, path)
        return []

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs of LiteRT."""
        interpreter = self._interpreter
        for details, name in zip(interpreter.get_input_details(), self.inputs, strict=True):
            interpreter.resize_tensor_input(details["index"], feeds[name].shape, strict=False)
        interpreter.allocate_tensors()
        for details, name in zip(interpreter.get_input_details(), self.inputs, strict=True):
            interpreter.set_tensor(details["index"], feeds[name].astype(details["dtype"]))
        interpreter.invoke()
        return [interpreter.get_tensor(each["index"]) for each in interpreter.get_output_details()]


class SavedModel:
    """A SavedModel's signature for inference."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loaded = tf.saved_model.load(str(folder))
        if _SIGNATURE not in self._loaded.signatures:
            there = ", ".join(self._loaded.signatures) or "none"
            raise ValueError(f"a SavedModel must have the signature {_SIGNATURE!r}, but there is {there}")
        self._call = self._loaded.signatures[_SIGNATURE]
        self.inputs = list(self._call.structured_input_signature[1])
        self.outputs = list(self._call.structured_outputs)

    def export(self, path: Path, feeds: Mapping[str, Any] | None) -> list[str]:
        """Write the ONNX file."""
        del feeds
        graph, inputs, outputs, tables, renamed = tf_loader.from_saved_model(
            str(self._folder),
            None,
            None,
            signatures=[_SIGNATURE],
            return_initialized_tables=True,
            return_tensors_to_rename=True,
        )
        proto, _ = convert._convert_common(
            graph,
            name="model",
            opset=_OPSET,
            input_names=inputs,
            output_names=outputs,
            tensors_to_rename=renamed,
            initialized_tables=tables,
        )
        # The order of a signature is that of what is run and compared.
        for values, names in ((proto.graph.input, self.inputs), (proto.graph.output, self.outputs)):
            by_name = {value.name: value for value in values}
            if set(by_name) == set(names):
                ordered = [by_name[name] for name in names]
                copies = [type(each).FromString(each.SerializeToString()) for each in ordered]
                del values[:]
                values.extend(copies)
        onnx.save(proto, path)
        return []

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs of TensorFlow."""
        specs = self._call.structured_input_signature[1]
        outputs = self._call(**{name: tf.constant(feeds[name], specs[name].dtype) for name in self.inputs})
        return [outputs[name].numpy() for name in self.outputs]


def _interpreter(path: Path) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415  tf.lite's goes, LiteRT's is an extra package
    except ImportError:
        Interpreter = tf.lite.Interpreter  # noqa: N806  a class
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tf.lite goes
        return Interpreter(model_path=str(path))


def _rename(graph: Any, value: Any, name: str) -> None:
    """Rename a tensor that the graph reads or writes."""
    old, value.name = value.name, name
    for node in graph.node:
        for names in (node.input, node.output):
            for place, each in enumerate(names):
                if each == old:
                    names[place] = name
