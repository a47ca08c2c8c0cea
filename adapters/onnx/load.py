"""Read an ONNX model from what a user gives."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
from onnx import external_data_helper

from autotune.adapters.onnx.graph import is_external, tensors
from autotune.adapters.onnx.model import (
    SMALL_TENSOR_BYTES,
    OnnxModel,
    external_place,
    fits_in_message,
    spill,
    tensor_bytes,
)
from autotune.errors import ModelError

_ACCEPTED = "a path, the bytes of an ONNX file or an onnx.ModelProto"
_IR_START = (b"<?xml", b"<net")


def read_model(source: object) -> OnnxModel:
    """The model as it stands.

    Raises:
        ModelError: It is missing, corrupt or no ONNX model, or external data that it names is missing.
    """
    if isinstance(source, OnnxModel):
        return source
    if isinstance(source, onnx.ModelProto):
        proto = onnx.ModelProto()
        proto.CopyFrom(source)
        _check(proto, "The model")
        return _with_weights(proto, Path.cwd(), "The model")
    if isinstance(source, (bytes, bytearray)):
        return _with_weights(_parse(bytes(source), "The model"), Path.cwd(), "The model")
    if isinstance(source, (str, os.PathLike)):
        return _read_path(Path(source))
    raise ModelError(f"A model must be {_ACCEPTED}, but got a {type(source).__name__}")


def _read_path(path: Path) -> OnnxModel:
    if path.is_dir():
        raise ModelError(f"A model must be {_ACCEPTED}, but {path} is a folder. Give the .onnx file in it")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"The model file {path} does not exist (looked in {path.absolute().parent})") from None
    except OSError as error:
        raise ModelError(f"The model file {path} cannot be read: {error.strerror or error}") from error
    return _with_weights(_parse(data, str(path)), path.absolute().parent, str(path))


def _parse(data: bytes, name: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError; protobuf ships no types
        raise ModelError(
            f"{name} must be an ONNX model, but it is corrupt, cut off or of another format ({len(data)} bytes). "
            + (
                "It is OpenVINO's IR: set `framework: openvino`, or `--framework openvino` on the command line"
                if data.lstrip().startswith(_IR_START)
                else "Export it again"
            )
        ) from error
    _check(proto, name)
    return proto


def _check(proto: onnx.ModelProto, name: str) -> None:
    # Almost any bytes are a valid protobuf message, with fields that ONNX does not know.
    if not proto.graph.node or not proto.graph.output or not proto.opset_import:
        raise ModelError(f"{name} must be an ONNX model with nodes and outputs, but it has none. Export it again")


def _with_weights(proto: onnx.ModelProto, folder: Path, name: str) -> OnnxModel:
    """Take external weights into the message where they fit, and see that they are there where they do not."""
    outside = [tensor for tensor in tensors(proto.graph) if is_external(tensor)]
    if not outside:
        external_dir, handle = spill(proto, None)
        return OnnxModel(proto=proto, external_dir=external_dir, folder=handle)
    total = 0
    for tensor in outside:
        path, offset, length = external_place(tensor, folder)
        available = path.stat().st_size if path.is_file() else -1
        if available < offset + length:
            state = "does not exist" if available < 0 else f"ends after {available} of {offset + length} bytes"
            raise ModelError(
                f"{name} keeps the weight {tensor.name!r} in {path}, which {state}. "
                "Put the file beside the model, as it was exported"
            )
        total += length
    fits = fits_in_message(total + proto.ByteSize())
    for tensor in outside:
        if fits or tensor_bytes(tensor) <= SMALL_TENSOR_BYTES:
            external_data_helper.load_external_data_for_tensor(tensor, str(folder))
            tensor.ClearField("data_location")
            del tensor.external_data[:]
    return OnnxModel(proto=proto, external_dir=None if fits else folder)
