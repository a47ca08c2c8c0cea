"""Takes over an ONNX file that a converter made: compared with the framework, and under the framework's names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import onnx

from autotune.adapter import Array, Execution, Feeds
from autotune.adapters.onnx.compare import relative_difference
from autotune.adapters.onnx.graph import subgraphs
from autotune.adapters.onnx.load import read_model
from autotune.adapters.onnx.names import rename_tensors
from autotune.adapters.onnx.session import SessionRunner, open_session, session_options
from autotune.conversion import Converted
from autotune.errors import ApplyError, ModelError

TOLERANCE = 1e-3
"""Largest difference of an output from the framework's own, as a share of the output's largest magnitude. Convolutions
of another order of summation part by 1e-6 on ResNet-20; a converter that is wrong parts by a tenth and more."""

_INTEGERS = 0.01
"""Share of the values of an integer output that may differ: a class index flips where two scores are equal."""

_BATCH = "batch"


def adopt(
    converted: Converted, *, title: str, what: str, name_of: Callable[[onnx.NodeProto], str | None]
) -> tuple[bytes, Sequence[str]]:
    """The ONNX file under the framework's names, and notes for the user.

    Args:
        converted: The files that the converter left, read.
        title: The converter.
        what: The model in the words of an error.
        name_of: The framework's name for what a node does; None where it has none.

    Raises:
        ModelError: Its outputs on the first batch are not those of the framework.
    """
    proto = onnx.ModelProto()
    proto.MergeFrom(read_model(converted.onnx).proto)
    graph = proto.graph
    _constants_as_initializers(graph)
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(inputs)
    _name_nodes(graph, name_of)
    _name_ends(graph, converted)
    _free_batch(graph, converted)
    proto.producer_version = ""
    graph.doc_string = ""
    notes = list(converted.notes)
    if converted.feeds is None or converted.expected is None:
        notes.append(f"{title} made ONNX of the model, which was not compared with it: there were no data")
    else:
        parted = _parted(proto, converted.feeds, converted.expected, title, what)
        notes.append(
            f"{title} made ONNX of the model. On the first batch its outputs part from the framework's own by "
            f"{parted:.1g} of their largest magnitude, and may by {TOLERANCE:g}"
        )
    return bytes(proto.SerializeToString(deterministic=True)), notes


def _constants_as_initializers(graph: onnx.GraphProto) -> None:
    """Make weights of Constant nodes: that is where runtimes look for them."""
    kept = []
    for node in graph.node:
        value = next((each for each in node.attribute if each.name == "value"), None)
        if node.op_type != "Constant" or node.domain or value is None:
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
            continue
        tensor = onnx.TensorProto()
        tensor.CopyFrom(value.t)
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
    del graph.node[:]
    graph.node.extend(kept)
    read = {name for node in graph.node for name in _reads(node)} | {value.name for value in graph.output}
    used = [tensor for tensor in graph.initializer if tensor.name in read]
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in used]
    del graph.initializer[:]
    graph.initializer.extend(copies)


def _reads(node: onnx.NodeProto) -> list[str]:
    found = list(node.input)
    for inner in subgraphs(node):
        found += [value.name for value in inner.output]
        found += [name for each in inner.node for name in _reads(each)]
    return found


def _name_nodes(graph: onnx.GraphProto, name_of: Callable[[onnx.NodeProto], str | None]) -> None:
    """Give nodes the framework's names, the first node of each name; others are named by what they write."""
    named = [name_of(node) for node in graph.node]
    taken = {name for name in named if name}
    given: set[str] = set()
    for node, name in zip(graph.node, named, strict=True):
        wanted = name if name and name not in given else node.name or (node.output[0] if node.output else node.op_type)
        if wanted != name or not name:
            stem, count = wanted, 1
            while wanted in given or wanted in taken:
                count += 1
                wanted = f"{stem}_{count}"
        given.add(wanted)
        node.name = wanted


def _name_ends(graph: onnx.GraphProto, converted: Converted) -> None:
    """Give inputs and outputs the framework's names, which the user's data loader has."""
    renamed: dict[str, str] = {}
    for values, names in ((graph.input, converted.inputs), (graph.output, converted.outputs)):
        if len(values) != len(names) or {value.name for value in values} == set(names):
            continue
        renamed |= {value.name: name for value, name in zip(values, names, strict=True) if value.name != name}
    inner = {name for node in graph.node for name in node.output} | {each.name for each in graph.initializer}
    for name in set(renamed.values()) & (inner - set(renamed)):
        renamed[name] = f"{name}/inner"
    rename_tensors(graph, renamed)
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = renamed.get(value.name, value.name)


def _free_batch(graph: onnx.GraphProto, converted: Converted) -> None:
    """Call the first axis ``batch`` where it is free, or of another length than the first batch has."""
    shapes: dict[str, tuple[int, ...]] = {}
    if converted.feeds is not None and converted.expected is not None:
        outputs = zip(converted.outputs, converted.expected, strict=True)
        shapes = {name: array.shape for name, array in (*converted.feeds.items(), *outputs)}
    for value in (*graph.input, *graph.output):
        tensor = value.type.tensor_type
        known = shapes.get(value.name)
        if not tensor.HasField("shape") or (known is not None and len(known) != len(tensor.shape.dim)):
            continue
        for axis, dim in enumerate(tensor.shape.dim):
            free = dim.dim_value <= 0
            if axis == 0 and (free or (known is not None and known[0] != dim.dim_value)):
                dim.dim_param = _BATCH
            elif free and (not dim.dim_param or re.match(r"unk__|DynamicDimension", dim.dim_param)):
                # Converters number what they do not know: a name that is no one's.
                dim.Clear() if known is None or value in list(graph.input) else setattr(dim, "dim_value", known[axis])


def _parted(proto: onnx.ModelProto, feeds: Feeds, expected: Sequence[Array], title: str, what: str) -> float:
    """The largest difference from the framework's own outputs, as a share of their largest magnitude.

    Raises:
        ModelError: It is larger than :data:`TOLERANCE`, or the file does not run.
    """
    names = {value.name: value for value in proto.graph.input}
    typed = {name: _typed(array, names[name]) for name, array in feeds.items() if name in names}
    way = "Export the model to ONNX by other means, and tune the .onnx file"
    try:
        session = open_session(proto, None, session_options(Execution(threads=1)))
        actual = SessionRunner(session)(typed)
    except ApplyError as error:
        raise ModelError(f"{title} must make an ONNX file of {what} that runs, but: {error}. {way}") from error
    differences = [_difference(want, have) for want, have in zip(expected, actual, strict=False)]
    largest = max(differences, default=0.0) if len(expected) == len(actual) else float("inf")
    if not largest <= TOLERANCE:
        raise ModelError(
            f"{title} must make an ONNX file that computes what {what} does, within {TOLERANCE:g} of the largest "
            f"magnitude of an output, but on the first batch they part by {largest:.2g}. {way}"
        )
    return largest


def _typed(array: Array, value: onnx.ValueInfoProto) -> Array:
    return array.astype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type), copy=False)


def _difference(expected: Array, actual: Array) -> float:
    if expected.shape != actual.shape:
        return float("inf")
    if expected.dtype.kind not in "fc":
        share = float(np.mean(expected != actual)) if expected.size else 0.0
        return 0.0 if share <= _INTEGERS else float("inf")
    return relative_difference(expected, actual)
