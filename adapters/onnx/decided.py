"""Branches that one small input chooses between: the sample rate of a voice detector, for example.

Ops inside of an ``If`` cannot be quantized. Where the data always choose the same branch, that branch is the model: the
input becomes a constant, and ONNX Runtime's folding takes the branch out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx

from autotune.adapter import Array, Feeds
from autotune.adapters.onnx.graph import Graph, ancestors
from autotune.adapters.onnx.names import rename_reads
from autotune.adapters.onnx.rewriting import add_constant
from autotune.notes import listed

_FIXED = "/fixed"
"""Suffix after an input's name, of the constant that is read in its place."""


def deciding_inputs(proto: onnx.ModelProto) -> tuple[str, ...]:
    """The inputs of one value, no floats, on which alone, beside constants, the condition of an ``If`` depends."""
    graph = Graph(proto)
    small = {value.name for value in proto.graph.input if _is_small(value)} - set(graph.initializers)
    found: dict[str, None] = {}
    for node in graph.nodes:
        if node.op_type == "If":
            roots = {name for name, writer in ancestors(node.input[0], graph) if writer is None}
            if roots and roots <= small:
                found.update(dict.fromkeys(sorted(roots)))
    return tuple(found)


def _is_small(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    one = all(dim.HasField("dim_value") and dim.dim_value == 1 for dim in tensor.shape.dim)
    return value.type.HasField("tensor_type") and tensor.elem_type not in floats and tensor.HasField("shape") and one


def values_in(batches: Iterable[Feeds], names: tuple[str, ...]) -> dict[str, Array]:
    """The values of those inputs that are the same in all batches."""
    found: dict[str, Array] = {}
    varying: set[str] = set()
    for feeds in batches:
        for name in names:
            value = np.asarray(feeds[name])
            if name in found and not np.array_equal(found[name], value):
                varying.add(name)
            found.setdefault(name, value)
        if varying == set(names):
            break
    return {name: value for name, value in found.items() if name not in varying}


def fix_inputs(proto: onnx.ModelProto, values: Mapping[str, Array]) -> None:
    """Make all nodes read a constant in the place of an input, which stays in the model's signature.

    Args:
        proto: Changed in place.
        values: By input.
    """
    if not values:
        return
    rename_reads(proto.graph, {name: f"{name}{_FIXED}" for name in values})
    for name, value in values.items():
        add_constant(proto, f"{name}{_FIXED}", value)


def fixed_note(values: Mapping[str, Array]) -> str:
    """A note for the user of a model whose branch was chosen."""
    chosen = ", ".join(f"{name} = {np.asarray(value).reshape(-1)[0]}" for name, value in values.items())
    return (
        f"All of the data have {chosen}, which chooses between branches of the model: it is tuned for this value "
        "alone, and the tuned model ignores the input. Tune it once more with other data for another value"
    )


def choice_note(names: tuple[str, ...]) -> str:
    """How a user gets a model tuned whose ops lie in the branches of an ``If``."""
    name = names[0]
    return (
        f"The value of {listed(names)} chooses between branches of the model, and ops in branches cannot be quantized. "
        "Data that always have the same value choose for good. Or make it a constant: "
        f"model.graph.initializer.append(onnx.numpy_helper.from_array(numpy.array(VALUE), {name!r})) and take the "
        "input of that name out of model.graph.input"
    )
