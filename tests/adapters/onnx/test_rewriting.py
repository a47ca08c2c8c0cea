"""Nodes take the place of others; order, and what somebody still reads, stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.adapters.onnx.rewriting import (
    add_constant,
    drop_unread,
    replace_nodes,
    require_contrib_domain,
    set_constants,
    set_nodes,
    sort_nodes,
)
from tests.adapters.onnx.graphs import build, node, normal


def model(*nodes: onnx.NodeProto, outputs: str = "y", **constants: int) -> onnx.ModelProto:
    return build(
        nodes, {"x": (4,)}, dict.fromkeys(outputs.split()), {name: normal(4, seed=i) for name, i in constants.items()}
    )


def names(proto: onnx.ModelProto) -> list[str]:
    return [each.name for each in proto.graph.node]


def constants(proto: onnx.ModelProto) -> list[str]:
    return [each.name for each in proto.graph.initializer]


def test_replacements_stand_where_the_node_stood() -> None:
    proto = model(node("Relu", "x", "a"), node("Mul", "a w", "b"), node("Relu", "b", "y"), w=0)
    new = [node("Neg", "a", "n"), node("Add", "n v", "b")]
    proto.graph.initializer.append(helper.make_tensor("v", TensorProto.FLOAT, [4], [0.0] * 4))
    replace_nodes(proto, {"b": new})
    assert names(proto) == ["a", "n", "b", "y"]
    assert constants(proto) == ["v"]
    replace_nodes(proto, {"y": ()})
    assert names(proto) == ["a", "n", "b"]


def test_only_constants_that_nobody_reads_any_more_go() -> None:
    proto = model(node("Mul", "x w", "a"), node("Mul", "a v", "b"), node("Add", "b w", "y"), w=0, v=1, unread=2)
    replace_nodes(proto, {"a": [node("Relu", "x", "a")], "b": [node("Relu", "a", "b")]})
    assert constants(proto) == ["w", "unread"]


@pytest.mark.parametrize("where", ["output", "inside"])
def test_constants_that_are_read_elsewhere_stay(where: str) -> None:
    proto = model(node("Mul", "x w", "y"), outputs="y w" if where == "output" else "y", w=0)
    if where == "inside":
        graph = helper.make_graph(
            [helper.make_node("Relu", ["w"], ["o"])],
            "b",
            [],
            [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)],
        )
        proto.graph.node.append(helper.make_node("If", ["flag"], ["z"], "z", then_branch=graph, else_branch=graph))
    replace_nodes(proto, {"y": [node("Relu", "x", "y")]})
    assert constants(proto) == ["w"]


def test_drop_unread_looks_at_the_candidates_alone() -> None:
    proto = model(node("Mul", "x w", "y"), w=0, a=1, b=2)
    drop_unread(proto, {"a", "w"})
    assert constants(proto) == ["w", "b"]


def test_nodes_are_put_after_those_that_write_what_they_read() -> None:
    proto = model(node("Add", "b x", "y"), node("Relu", "a", "b"), node("Relu", "x", "a"), node("Neg", "x", "free"))
    sort_nodes(proto)
    assert names(proto) == ["a", "b", "y", "free"]


def test_a_sorted_graph_keeps_its_order() -> None:
    proto = model(node("Relu", "x", "a"), node("Neg", "x", "free"), node("Relu", "a", "b"), node("Add", "b free", "y"))
    sort_nodes(proto)
    assert names(proto) == ["a", "free", "b", "y"]


def test_what_graphs_inside_read_comes_before() -> None:
    info = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Relu", ["late"], ["o"])], "b", [], [info])
    choice = helper.make_node("If", ["flag"], ["y"], "y", then_branch=graph, else_branch=graph)
    proto = model(choice, node("Relu", "x", "late"))
    sort_nodes(proto)
    assert names(proto) == ["late", "y"]


def test_the_domain_is_declared_once() -> None:
    proto = model(node("Relu", "x", "y"))
    for _ in range(2):
        require_contrib_domain(proto)
    assert [(each.domain, each.version) for each in proto.opset_import] == [("", 17), ("com.microsoft", 1)]


def test_constants_are_added_and_given_other_values() -> None:
    proto = model(node("Mul", "x w", "a"), node("Add", "a v", "y"), w=0, v=1)
    assert add_constant(proto, "zero", np.float32(0.0)) == "zero"
    set_constants(proto, {"v": np.arange(8, dtype=np.float32)[::2], "no such": np.zeros(1)})
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    assert list(values) == ["w", "v", "zero"]
    np.testing.assert_array_equal(values["w"], normal(4, seed=0))
    np.testing.assert_array_equal(values["v"], [0, 2, 4, 6])
    assert values["zero"].shape == ()


def test_a_constant_goes_whose_place_a_node_has_taken() -> None:
    proto = model(node("Mul", "x w", "a"), node("Neg", "v", "v2"), node("Add", "a v2", "y"), w=0, v=1)
    set_nodes(proto, [*proto.graph.node, node("Relu", "x", "v")])
    drop_unread(proto, constants(proto))
    assert constants(proto) == ["w"]
