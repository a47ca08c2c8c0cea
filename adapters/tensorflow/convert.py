"""Convert Keras models and SavedModels to TensorFlow Lite. TensorFlow is imported here, and for nothing else."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autotune.errors import MissingDependencyError, ModelError
from autotune.owned_folder import OwnedFolder

INSTALL = "pip install tensorflow"

_ZIP = ".keras"
_KERAS_FILES = (_ZIP, ".h5")
_SAVED_MODEL = "saved_model.pb"
_UNKNOWN_OPS = re.compile(r"(?:Custom|TF Select) ops: ([^\n]+)")


def converts(source: object) -> bool:
    """Whether a source is a Keras file or model, or the folder of a SavedModel."""
    if isinstance(source, Path):
        return source.suffix in _KERAS_FILES if source.is_file() else (source / _SAVED_MODEL).is_file()
    return is_keras(source)


def is_keras(source: object) -> bool:
    """Whether an object is a ``keras.Model`` of Keras 3 or of legacy Keras; imports nothing."""
    bases = [base for base in type(source).__mro__ if base.__module__.partition(".")[0] in ("keras", "tf_keras")]
    return any(base.__name__ == "Model" for base in bases)


def convert(source: object) -> bytes:
    """The bytes of a ``.tflite`` file in fp32 that computes the same.

    Args:
        source: A source that :func:`converts` accepts.

    Raises:
        MissingDependencyError: TensorFlow is not installed.
        ModelError: TensorFlow cannot read or convert the source; the message ends in its own words.
    """
    tensorflow = _tensorflow()
    if isinstance(source, Path) and source.is_dir():
        return _converted(lambda: tensorflow.lite.TFLiteConverter.from_saved_model(str(source)), str(source))
    if isinstance(source, Path):
        source = _keras_model(source)
    name = f"The model {getattr(source, 'name', '')!r}"
    with OwnedFolder() as folder, _quiet():
        # By way of a SavedModel, whose names do not depend on how often a model was converted before.
        if type(source).__module__.startswith("tf_keras"):
            return _converted(lambda: tensorflow.lite.TFLiteConverter.from_keras_model(source), name)
        export(source, str(saved := Path(folder, "model")), name)
        return _converted(lambda: tensorflow.lite.TFLiteConverter.from_saved_model(str(saved)), name)


def _tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when it is imported
    try:
        return importlib.import_module("tensorflow")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"Keras models and SavedModels are converted by TensorFlow, but the package {error.name!r} is not "
            f"installed. Install it with `{INSTALL}`, or convert the model elsewhere and give the .tflite file"
        ) from error


def _keras_model(path: Path) -> Any:
    if path.suffix == _ZIP and not zipfile.is_zipfile(path):
        raise ModelError(
            f"{path} must be the zip archive that `model.save` writes, but is corrupt or cut off. Save the model again"
        )
    keras = importlib.import_module("keras")
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises what its layers raise
        if "Lambda" in str(error) or "lambda" in str(error):
            raise ModelError(
                f"{path} holds a Lambda layer, whose Python code Keras does not run from a file. Load it yourself with "
                "`keras.models.load_model(path, safe_mode=False)` and give the model, or write the layer as a class"
            ) from error
        raise ModelError(f"{path} must be a model that Keras reads, but: {_first_line(error)}") from error


def export(model: Any, folder: str, name: str) -> None:
    """Write a Keras model as a SavedModel.

    Args:
        model: The model.
        folder: Folder to write.
        name: The model in the words of an error.

    Raises:
        ModelError: It was never built, or TensorFlow cannot trace it.
    """
    if not getattr(model, "built", True):
        raise ModelError(
            f"{name} has no shapes yet, since it was never called. Call it once on a batch, or `model.build(shape)`"
        )
    try:
        model.export(folder, verbose=False)
    except Exception as error:  # whatever the model's own layers raise
        raise ModelError(
            f"{name} must be one that TensorFlow can trace, but: {_first_line(error)}. Write what depends on values "
            "with TensorFlow's own ops"
        ) from error


def _converted(make: Any, name: str) -> bytes:
    try:
        return bytes(make().convert())
    except Exception as error:  # the converter has no type of its own for what it refuses
        if unknown := _UNKNOWN_OPS.findall(str(error)):
            raise ModelError(
                f"{name} must consist of ops that TensorFlow Lite has, but has {', '.join(unknown)}. "
                "Leave these ops out, or tune the model on another runtime"
            ) from error
        if "signature key" in str(error):
            raise ModelError(
                f"{name} must have a signature, which says what it reads and writes, but has none. Save it again with "
                "`tf.saved_model.save(model, folder, signatures=model.call.get_concrete_function(...))`, or with "
                "`model.export(folder)` of Keras"
            ) from error
        raise ModelError(
            f"{name} must be convertible to TensorFlow Lite, but: {_first_line(error)}. "
            "Check that the model runs by itself"
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(". ")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what Keras prints on an export."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
