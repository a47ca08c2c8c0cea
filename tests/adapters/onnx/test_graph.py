"""The index over a graph: readers, constants, subgraphs and infinities."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from autotune.adapter import Array
from autotune.adapters.onnx.graph import Graph, attributes, is_external, is_standard, outer_reads
from tests.adapters.onnx.graphs import build, node, normal


def branch(name: str, *reads: str, inner: onnx.NodeProto | None = None) -> onnx.GraphProto:
    nodes = [helper.make_node("Sum", list(reads), [f"{name}/out"], name)] + ([inner] if inner is not None else [])
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}/out", TensorProto.FLOAT, None)])


def with_if() -> onnx.ModelProto:
    """``a`` and ``w`` are read inside, ``b`` two levels deep."""
    deep = helper.make_node(
        "If", ["flag"], ["deep"], "deep", then_branch=branch("p", "b"), else_branch=branch("q", "w")
    )
    choice = helper.make_node(
        "If", ["flag"], ["y"], "y", then_branch=branch("then", "a", inner=deep), else_branch=branch("else", "a")
    )
    nodes = [node("Relu", "x", "a"), node("Relu", "a", "b"), node("Mul", "x w", "c"), choice]
    return build(nodes, {"x": (4,), "flag": ()}, {"y": None, "c": (4,)}, {"w": normal(4)})


def test_readers_and_producers() -> None:
    graph = Graph(build([node("Mul", "x x", "a"), node("Add", "a x", "y")], {"x": (4,)}, {"y": None}, {}))
    assert [each.name for each in graph.readers["x"]] == ["a", "y"]
    assert graph.producers["a"].op_type == "Mul"
    assert "x" not in graph.producers


def test_what_graphs_inside_read() -> None:
    graph = Graph(with_if())
    assert {"a", "b", "w"} <= graph.read_by_subgraphs
    assert "x" not in graph.read_by_subgraphs
    assert set(outer_reads(graph.nodes[0])) == set()


def test_a_tensor_is_read_once_where_nobody_else_sees_it() -> None:
    nodes = [node("Relu", "x", "a"), node("Relu", "a", "b"), node("Add", "b c", "y"), node("Relu", "x", "c")]
    graph = Graph(build(nodes, {"x": (4,)}, {"y": None, "c": (4,)}, {}))
    assert graph.read_once("a")
    assert graph.read_once("b")
    assert not graph.read_once("x")  # twice
    assert not graph.read_once("y")  # by nobody
    assert not graph.read_once("c")  # leaves the model
    inside = Graph(with_if())
    assert not inside.read_once("a")
    assert not inside.read_once("w")


def test_opset_is_that_of_the_standard_operators() -> None:
    proto = build([node("Relu", "x", "y")], {"x": (4,)}, {"y": None}, {}, opset=13)
    proto.opset_import.insert(0, helper.make_opsetid("com.microsoft", 1))
    assert Graph(proto).opset == 13
    del proto.opset_import[1]
    assert Graph(proto).opset == 0


def test_types_ranks_and_constants() -> None:
    proto = build(
        [node("Mul", "x w", "y")], {"x": ("N", 4)}, {"y": None}, {"w": normal(4), "n": np.array([1], np.int64)}
    )
    graph = Graph(proto)
    assert (graph.elem_type("x"), graph.elem_type("n"), graph.elem_type("gone")) == (
        TensorProto.FLOAT,
        TensorProto.INT64,
        0,
    )
    assert (graph.rank("x"), graph.rank("w"), graph.rank("y"), graph.rank("gone")) == (2, 1, None, None)
    np.testing.assert_array_equal(graph.constant("w"), normal(4))
    assert graph.constant("x") is None
    proto.graph.initializer[0].data_location = TensorProto.EXTERNAL
    assert is_external(proto.graph.initializer[0])
    assert Graph(proto).constant("w") is None


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinities_are_followed_through_what_keeps_them(value: float) -> None:
    mask = np.array([0.0, value], np.float32)
    nodes = [
        node("Unsqueeze", "mask axes", "m"),
        node("Add", "x m", "s"),
        node("Softmax", "s", "p"),
        node("Add", "p x", "y"),
    ]
    constants: dict[str, Array] = {"mask": mask, "axes": np.array([0], np.int64)}
    assert Graph(build(nodes, {"x": (2, 2)}, {"y": None}, constants)).infinite == {"mask", "m", "s"}


def test_weights_are_not_searched_for_infinities() -> None:
    large = np.full((5000,), np.inf, np.float32)
    constants: dict[str, Array] = {"w": large, "v": large[:4096], "i": np.array([1], np.int64)}
    assert Graph(build([node("Add", "x w", "y")], {"x": (5000,)}, {"y": None}, constants)).infinite == {"v"}


def test_standard_nodes_and_attributes() -> None:
    assert is_standard(helper.make_node("Relu", ["x"], ["y"]))
    assert is_standard(helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx"))
    assert not is_standard(helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft"))
    assert attributes(helper.make_node("Gemm", [], [], alpha=0.5, transB=1)) == {"alpha": 0.5, "transB": 1}
