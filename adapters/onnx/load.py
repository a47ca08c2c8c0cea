"""Read an ONNX model from what a user gives."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
from onnx import external_data_helper

from autotune.adapters.onnx.graph import is_external, subgraphs, tensors
from autotune.adapters.onnx.model import (
    SMALL_TENSOR_BYTES,
    OnnxModel,
    external_place,
    fits_in_message,
    spill,
    tensor_bytes,
)
from autotune.arguments import kind_of
from autotune.errors import ModelError
from autotune.notes import counted
from autotune.regular_file import require_regular

_ACCEPTED = "a path, the bytes of an ONNX file or an onnx.ModelProto"
_IR_START = (b"<?xml", b"<net")
_LARGEST_BYTES = 2**31 - 1
"""Protobuf's limit to a message, and so to an ONNX file; external data lie beside it."""
_OF_PYTORCH = (".pt", ".pth", ".pt2", ".safetensors")


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
    raise ModelError(f"A model must be {_ACCEPTED}, but got {kind_of(source)}")


def _read_path(path: Path) -> OnnxModel:
    require_regular(path, "A model", ModelError)
    if path.is_dir():
        raise ModelError(f"A model must be {_ACCEPTED}, but {path} is a folder. Give the .onnx file in it")
    try:
        if (size := path.stat().st_size) > _LARGEST_BYTES:
            raise ModelError(
                f"An ONNX file must have at most {_LARGEST_BYTES:,} bytes, protobuf's limit, but {path} has {size:,}. "
                "Save the weights beside it: `onnx.save(model, path, save_as_external_data=True)`"
            )
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
            f"{name} must be an ONNX model, but it is corrupt, cut off or of another format "
            f"({counted(len(data), 'byte')}). " + _way_out(data, name)
        ) from error
    _check(proto, name)
    try:
        str((proto.producer_name, proto.graph.name, [each.domain for each in proto.opset_import]))
        _read_names(proto.graph)
        for tensor in tensors(proto.graph):
            str((tensor.name, [(each.key, each.value) for each in tensor.external_data]))
        for each in proto.functions:
            str((each.name, each.domain))
    except UnicodeDecodeError as error:
        raise ModelError(f"{name} must have names in UTF-8, but one is not: {error}. Export it again") from None
    return proto


def _way_out(data: bytes, name: str) -> str:
    if data.lstrip().startswith(_IR_START):
        return "It is OpenVINO's IR: set `framework: openvino`, or `--framework openvino` on the command line"
    if name.endswith(_OF_PYTORCH):
        return "By its name it is PyTorch's: give the nn.Module with these weights, in Python or by `model.function`"
    return "Export it again"


def _read_names(graph: onnx.GraphProto) -> None:
    """Read every name of a graph: protobuf looks at their bytes no earlier than that."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        str(value)
    for tensor in graph.initializer:
        str(tensor.name)
    for node in graph.node:
        for text in (node.name, node.op_type, node.domain, *node.input, *node.output):
            if isinstance(text, bytes):  # what protobuf gives for text that is none
                text.decode()
        str([(each.name, each.ref_attr_name) for each in node.attribute])
        for inner in subgraphs(node):
            _read_names(inner)


def _check(proto: onnx.ModelProto, name: str) -> None:
    # Almost any bytes are a valid protobuf message, with fields that ONNX does not know.
    if not proto.graph.node or not proto.graph.output or not proto.opset_import:
        raise ModelError(f"{name} must be an ONNX model with nodes and outputs, but it has none. Export it again")


def _inside(tensor: onnx.TensorProto, folder: Path, name: str) -> tuple[Path, int, int]:
    """File, offset and length of an external tensor, which lies in the model's folder or below it.

    Raises:
        ModelError: It does not, or has no place that could be. The message is the same for files that are there and
            that are not, so that nobody learns from it what else is on this machine.
    """
    try:
        path, offset, length = external_place(tensor, folder)
        home = folder.resolve()
        inside = path.resolve().is_relative_to(home) and path.resolve() != home
    except (OSError, ValueError, TypeError, RuntimeError, KeyError):  # no numbers, or no name of a file
        raise _refused(name, tensor) from None
    if not inside or offset < 0 or not 0 <= tensor_bytes(tensor) <= length:
        raise _refused(name, tensor)
    require_regular(path, f"External data of {name}", ModelError)
    return path, offset, length


def _refused(name: str, tensor: onnx.TensorProto) -> ModelError:
    return ModelError(
        f"{name} must keep its weights in files beside it or in folders below, each at an offset and of the length "
        f"that its shape asks for, but the weight {tensor.name!r} has another place. Export the model again"
    )


def _with_weights(proto: onnx.ModelProto, folder: Path, name: str) -> OnnxModel:
    """Take external weights into the message where they fit, and see that they are there where they do not."""
    outside = [tensor for tensor in tensors(proto.graph) if is_external(tensor)]
    if not outside:
        external_dir, handle = spill(proto, None)
        return OnnxModel(proto=proto, external_dir=external_dir, folder=handle)
    total = 0
    for tensor in outside:
        path, offset, length = _inside(tensor, folder, name)
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
            try:
                external_data_helper.load_external_data_for_tensor(tensor, str(folder))
            except Exception as error:  # onnx checks links and names once more
                raise _refused(name, tensor) from error
            tensor.ClearField("data_location")
            del tensor.external_data[:]
    return OnnxModel(proto=proto, external_dir=None if fits else folder)
