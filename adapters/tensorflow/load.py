"""Read a model from what a user gives: a ``.tflite`` file or its bytes, a SavedModel, a Keras file or model."""

from __future__ import annotations

import os
from pathlib import Path

from autotune.adapters.tensorflow.convert import convert, converts
from autotune.adapters.tensorflow.graph import DTYPES, Graph, is_quantized, text
from autotune.adapters.tensorflow.model import TensorFlowModel
from autotune.adapters.tensorflow.session import first_line, new_interpreter
from autotune.arguments import kind_of
from autotune.errors import ModelError
from autotune.notes import counted, listed

ACCEPTED = (
    "the path or the bytes of a .tflite file, the path of a .keras file or of a SavedModel's folder, or a keras.Model"
)

_IDENTIFIER = b"TFL3"


def read_model(source: object) -> TensorFlowModel:
    """The model as it stands.

    Raises:
        ModelError: It is missing, corrupt, or of a kind or with an op that LiteRT does not read.
        MissingDependencyError: It is to be converted, and TensorFlow is not installed.
    """
    if isinstance(source, TensorFlowModel):
        return source
    if isinstance(source, (bytes, bytearray)):
        return checked(bytes(source), "The model")
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not path.exists():
            raise ModelError(f"The model file {path} does not exist (looked in {path.absolute().parent})")
        if converts(path):
            return checked(convert(path), str(path))
        return checked(_read(path), str(path))
    if converts(source):
        return checked(convert(source), "The model")
    raise ModelError(f"A model must be {ACCEPTED}, but got {kind_of(source)}")


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise ModelError(f"A model must be {ACCEPTED}, but {path} is a folder without a saved_model.pb")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"The model file {path} cannot be read: {error.strerror or error}") from error


def checked(content: bytes, name: str) -> TensorFlowModel:
    """The model of a file that LiteRT accepts.

    Raises:
        ModelError: LiteRT does not, or it has no inputs or outputs, or some of a type that NumPy does not know.
    """
    if content[4:8] != _IDENTIFIER:
        raise ModelError(
            f"{name} must be a TensorFlow Lite model, which has 'TFL3' in its bytes 4 to 8, but is not. "
            "Convert it with tf.lite.TFLiteConverter, or give the SavedModel or Keras model itself"
        )
    model = TensorFlowModel(content=content)
    try:
        interpreter = new_interpreter(content, 1)
        try:
            interpreter.allocate_tensors()
        except RuntimeError as error:
            if free := [spec.name for spec in model.inputs if any(not isinstance(dim, int) for dim in spec.shape[1:])]:
                raise ModelError(
                    f"{name} must have fixed lengths behind the first axis of its inputs where its ops do not take a "
                    f"length of 1, but those of {listed(free)} are free: {first_line(error)}. Convert it with the "
                    "heights and widths that your data have"
                ) from error
            raise
    except (RuntimeError, ValueError) as error:
        raise ModelError(_refusal(name, error)) from error
    graph = model.graph
    if not graph.inputs or not graph.outputs:
        raise ModelError(f"{name} must have inputs and outputs, but has none. Convert it again")
    for place in (*graph.inputs, *graph.outputs):
        if graph.tensors[place].type not in DTYPES:
            raise ModelError(f"{name} must read and write numbers, but has an input or output of another type")
    quantized = sum(any(is_quantized(graph.tensors[place]) for place in op.outputs) for op in graph.operators)
    told = [f"{counted(quantized, 'op')} of this model quantized already, kept so"] if quantized else []
    told += _signatures(graph)
    return TensorFlowModel(content=content, told=tuple(told))


def _signatures(graph: Graph) -> list[str]:
    """A line where a file has further functions, which nobody calls here."""
    found = graph.model.signatureDefs or []
    main = [text(each.signatureKey) for each in found if each.subgraphIndex == 0]
    others = [text(each.signatureKey) for each in found if each.subgraphIndex != 0]
    if not others:
        return []
    return [
        f"This file has {len(found)} signatures. {main[0] if main else 'The first graph'!r} is tuned, and "
        f"{listed(others)} stays as it is. Convert with `signature_keys=[...]` to tune another"
    ]


def _refusal(name: str, error: Exception) -> str:
    """LiteRT's words in one line, and what to do about them."""
    words = str(error)
    if "TensorFlow op" in words or "custom op" in words or "Flex" in words:
        return (
            f"{name} must consist of ops that LiteRT has, but: {first_line(error)}. "
            "Convert it with `target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]`, or leave the op out"
        )
    return (
        f"{name} must be a model that LiteRT reads, but it is corrupt, cut off or of another version: "
        f"{first_line(error)}. Convert it again"
    )
