"""Read a model from what a user gives: ONNX, OpenVINO IR, or ``openvino.Model``."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import openvino as ov

from autotune.adapters.openvino.model import FLOAT32, FLOATS_KEY, OpenVinoModel, read_ir
from autotune.arguments import kind_of
from autotune.errors import ModelError

_ACCEPTED = "the path of an .onnx or .xml file, the bytes of an ONNX file, an onnx.ModelProto or an openvino.Model"

_UNKNOWN_OP = re.compile(
    r"No conversion rule found for operations?: (?P<onnx>[^\n]+)"
    r"|Cannot create (?P<kind>\S+) layer (?P<name>.+) id:\d+ from unsupported opset: (?P<opset>\S+)"
)
_UNCONVERTED = re.compile(r"Conversion is failed for: (?P<ops>[^\n]+)")
_IR_START = (b"<?xml", b"<net")


def read_model(source: object) -> OpenVinoModel:
    """The model as it stands.

    Raises:
        ModelError: It is missing, corrupt, or of a kind or with an op that OpenVINO does not read.
    """
    if isinstance(source, OpenVinoModel):
        return source
    if isinstance(source, ov.Model):
        return _checked(source.clone(), "The model", None, unnamed=_unnamed(source))
    if isinstance(source, (str, os.PathLike)):
        return _read_path(Path(source))
    if hasattr(source, "SerializeToString"):
        source = source.SerializeToString()
    if isinstance(source, (bytes, bytearray)):
        return _checked(_read_onnx(bytes(source), "The model"), "The model", len(source))
    raise ModelError(f"A model must be {_ACCEPTED}, but got {kind_of(source)}")


def _read_path(path: Path) -> OpenVinoModel:
    if path.is_dir():
        raise ModelError(f"A model must be {_ACCEPTED}, but {path} is a folder. Give the file in it")
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    except FileNotFoundError:
        raise ModelError(f"The model file {path} does not exist (looked in {path.absolute().parent})") from None
    except OSError as error:
        raise ModelError(f"The model file {path} cannot be read: {error.strerror or error}") from error
    if start.startswith(_IR_START):
        weights = path.with_suffix(".bin")
        graph = _read_ir(path, weights)
        size = path.stat().st_size + (weights.stat().st_size if weights.is_file() else 0)
        return _checked(graph, str(path), size)
    # By path where the name says what it is, since weights may lie in other files beside it.
    graph = _read_onnx(path if path.suffix == ".onnx" else path.read_bytes(), str(path))
    return _checked(graph, str(path), max(path.stat().st_size, _constant_bytes(graph)))


def _read_ir(path: Path, weights: Path) -> ov.Model:
    xml = path.read_bytes()
    needed = [int(offset) + int(size) for offset, size in _CONSTANT.findall(xml) if int(size)]
    available = weights.stat().st_size if weights.is_file() else -1
    if available < max(needed, default=0):
        state = "does not exist" if available < 0 else f"ends after {available} of {max(needed)} bytes"
        raise ModelError(
            f"An IR model is two files, but the weights of {path} cannot be read: {weights} {state}. "
            "Put the .bin file beside the .xml file, under the same name"
        )
    try:
        return read_ir(xml, weights.read_bytes() if available >= 0 else b"")
    except RuntimeError as error:
        raise ModelError(_refusal(str(path), error)) from error


_CONSTANT = re.compile(rb'offset="(\d+)" size="(\d+)"')


def _read_onnx(source: bytes | Path, name: str) -> ov.Model:
    try:
        graph = ov.Core().read_model(source) if isinstance(source, Path) else ov.Core().read_model(source, b"")
    except (RuntimeError, TypeError) as error:
        raise ModelError(_refusal(name, error)) from error
    return graph


def _refusal(name: str, error: Exception) -> str:
    """OpenVINO's words in one line, and what to do about them."""
    text = str(error)
    unknown = _UNKNOWN_OP.search(text)
    if unknown is not None:
        other = "" if unknown["onnx"] is None else ", or tune it with `framework: onnxruntime`"  # which reads no IR
        has = _op_text(unknown)
        return f"{name} must consist of ops that OpenVINO knows, but has {has}. Export it without them{other}"
    unconverted = _UNCONVERTED.search(text)
    if unconverted is not None:
        return (
            f"{name} must consist of ops in a form that OpenVINO converts, but it does not convert "
            f"{unconverted['ops'].strip()}. Export it without them, or tune it with framework onnxruntime"
        )
    return (
        f"{name} must be a model that OpenVINO reads, but it is corrupt, cut off or of another format: "
        f"{first_line(error)}. Export it again"
    )


def _op_text(found: re.Match[str]) -> str:
    if found["onnx"] is not None:
        return found["onnx"].strip()
    return f"{found['kind']} of {found['opset']} ({found['name']!r})"


def first_line(error: Exception) -> str:
    """The part of OpenVINO's message that says what is wrong: the rest names files of its own source."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(("Exception from", "Check '", "src/", "While "))]
    return (telling or lines or [type(error).__name__])[-1].rstrip(". ")


def _checked(
    graph: ov.Model, name: str, file_bytes: int | None, *, unnamed: frozenset[int] | None = None
) -> OpenVinoModel:
    """The model of a graph that may be quantized.

    Args:
        graph: The model's graph; its ops are named in place.
        name: Name for messages.
        file_bytes: Size of the file; None where there is none.
        unnamed: Places of the ops, in graph order, whose names are no user's; None: to be found out.
    """
    if not graph.inputs or not graph.outputs:
        raise ModelError(f"{name} must have inputs and outputs, but has none. Export it again")
    for port in graph.inputs:
        if port.get_partial_shape().rank.is_dynamic:
            raise ModelError(
                f"{name} must have inputs of a known number of dimensions, but {port.get_node().get_friendly_name()!r} "
                "may have any. Give it a shape when you export it, or `model.reshape` it; single dimensions may be free"
            )
    _name_ops(graph, _unnamed(graph) if unnamed is None else unnamed)
    floats = str(graph.get_rt_info(FLOATS_KEY).value) if graph.has_rt_info(FLOATS_KEY) else FLOAT32
    return OpenVinoModel(graph=graph, file_bytes=file_bytes, floats=floats)


def _unnamed(graph: ov.Model) -> frozenset[int]:
    """Places of the ops, in graph order, whose only name is from a counter of this process.

    A copy of the graph bears such a name like any other, and exporters of ONNX write names that look like it.
    """
    ordered = enumerate(graph.get_ordered_ops())
    return frozenset(place for place, node in ordered if node.get_friendly_name() == node.get_name())


def _name_ops(graph: ov.Model, unnamed: frozenset[int]) -> None:
    """Give every op one name of its own that is the same in every process; names of ONNX nodes may repeat."""
    counts: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    for place, node in enumerate(graph.get_ordered_ops()):
        kind = node.get_type_name()
        counts[kind] += 1
        name = f"{kind}/{counts[kind]}" if place in unnamed else node.get_friendly_name()
        if taken[name]:
            name = f"{name}/{taken[name] + 1}"
        taken[name] += 1
        if name != node.get_friendly_name():
            node.set_friendly_name(name)


def _constant_bytes(graph: ov.Model) -> int:
    """Bytes of all constants, which are more than the file where this keeps them elsewhere."""
    return sum(node.get_byte_size() for node in graph.get_ordered_ops() if node.get_type_name() == "Constant")
