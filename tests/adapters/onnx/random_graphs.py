"""Random small graphs of the kinds that people bring, as a hypothesis strategy.

A graph is a list of layers: it shrinks by layers, and its constants come from a seed. Every layer is a function that
appends nodes to a :class:`Writer` and says what is there afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper

from autotune.adapter import Array
from tests.adapters.onnx.random_parts import PICTURES, ROWS, Pictures, Writer, conv, pooled

OPSETS = (7, 9, 10, 11, 12, 13, 15, 17, 18, 20, 21)
"""Opsets between which operators of the parts changed."""


@dataclass(frozen=True, kw_only=True)
class RandomGraph:
    """A model and what it can be fed.

    Attributes:
        proto: The model.
        feeds: Two batches by input name.
        kinds: The layers that it was made of, and what was done to it as a whole.
    """

    proto: onnx.ModelProto
    feeds: tuple[dict[str, Array], ...]
    kinds: tuple[str, ...]

    def __repr__(self) -> str:
        opset = self.proto.opset_import[0].version
        return f"RandomGraph(opset {opset}: {', '.join(self.kinds)})"


def _weights_as_inputs(proto: onnx.ModelProto) -> None:
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))


def _input_is_output(proto: onnx.ModelProto) -> None:
    proto.graph.output.append(proto.graph.input[0])


def _constant_is_output(proto: onnx.ModelProto) -> None:
    if proto.graph.initializer:
        tensor = proto.graph.initializer[0]
        proto.graph.output.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))


def _without_names(proto: onnx.ModelProto) -> None:
    for node in proto.graph.node:
        node.name = ""


def _constants_as_nodes(proto: onnx.ModelProto) -> None:
    tensors = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in proto.graph.initializer]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in proto.graph.node]
    del proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.node.extend(helper.make_node("Constant", [], [each.name], value=each) for each in tensors)
    proto.graph.node.extend(nodes)


def _maps(proto: onnx.ModelProto) -> None:
    """A sequence of maps as a further output, as skl2onnx's classifiers have."""
    output = proto.graph.output[0]
    width = output.type.tensor_type.shape.dim[1].dim_value
    proto.graph.node.append(
        helper.make_node(
            "ZipMap", [output.name], ["maps"], "maps", domain="ai.onnx.ml", classlabels_int64s=list(range(width))
        )
    )
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    element = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    proto.graph.output.append(helper.make_value_info("maps", helper.make_sequence_type_proto(element)))


WHOLE: dict[str, Callable[[onnx.ModelProto], None]] = {
    "weights as inputs": _weights_as_inputs,
    "input is output": _input_is_output,
    "constant is output": _constant_is_output,
    "without names": _without_names,
    "constants as nodes": _constants_as_nodes,
    "maps": _maps,
}
"""Changes to a graph as a whole."""


def random_graph(
    opset: int, pictures: list[str], rows: list[str], whole: list[str], seed: int, *, size: int = 3
) -> RandomGraph:
    """The graph that the names of its layers describe.

    Args:
        opset: Opset of the standard operators.
        pictures: Names from :data:`PICTURES`, in order; a convolution goes before them.
        rows: Names from :data:`ROWS`, in order; a pool goes before them, a Gemm after.
        whole: Names from :data:`WHOLE`.
        seed: Seed of the constants and the batches.
        size: Samples in a batch.
    """
    writer = Writer(opset, seed)
    batches = [writer.normal(size, 3, 8, 8, scale=1.0) for _ in range(2)]
    picture = conv(writer, Pictures(tensor=writer.input("x", ["N", 3, 8, 8], batches), channels=3))
    for name in pictures:
        picture = PICTURES[name](writer, picture)
    row = pooled(writer, picture)
    for name in rows:
        row = ROWS[name](writer, row)
    weight, bias = writer.constant(writer.normal(row.values, 5)), writer.constant(writer.normal(5))
    output = writer.node("Gemm", row.tensor, weight, bias)
    writer.outputs.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", 5]))
    proto = writer.model()
    for name in sorted(whole):  # in this order they do not contradict each other
        WHOLE[name](proto)
    return RandomGraph(proto=proto, feeds=writer.feeds, kinds=(*pictures, *rows, *whole))


def random_graphs() -> st.SearchStrategy[RandomGraph]:
    """Graphs of up to ten layers."""
    return st.builds(
        random_graph,
        opset=st.sampled_from(OPSETS),
        pictures=st.lists(st.sampled_from(sorted(PICTURES)), max_size=4),
        rows=st.lists(st.sampled_from(sorted(ROWS)), max_size=4),
        whole=st.lists(st.sampled_from(sorted(WHOLE)), max_size=2, unique=True),
        seed=st.integers(0, 2**16),
    )
