"""Branches that shapes choose between: taken where all data take the same one, else left as they are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.adapter import Array, Execution, Feeds
from autotune.adapters.onnx.branches import Shapes, chosen_by_shapes, take_branches
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from tests.adapters.onnx.graphs import normal

ADAPTER = OnnxRuntimeAdapter()


def branch(name: str, seed: int, *inner: onnx.NodeProto, product: str = "p", reads: str = "x") -> onnx.GraphProto:
    """A product; both branches, and those of other nodes, name their tensors alike, as exporters do."""
    nodes = [
        *inner,
        helper.make_node("MatMul", [inner[-1].output[0] if inner else reads, "w"], [product], f"{name}_product"),
        helper.make_node("Relu", [product], ["z"], f"{name}_relu"),
    ]
    outputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    return helper.make_graph(nodes, name, [], outputs, [numpy_helper.from_array(normal(16, 16, seed=seed), "w")])


def passing(name: str, op_type: str) -> onnx.GraphProto:
    node = helper.make_node(op_type, ["x"], ["passed"], name)
    return helper.make_graph([node], name, [], [helper.make_tensor_value_info("passed", TensorProto.FLOAT, None)])


def choice(condition: str, output: str, then: onnx.GraphProto, otherwise: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("If", [condition], [output], output, then_branch=then, else_branch=otherwise)


def model(axis: int = 1, *, asked: str = "Shape", worth: bool = True) -> onnx.ModelProto:
    """Two choices by one length, one of them with another inside."""
    inner = choice("is_long", "inner", passing("tanh", "Tanh"), passing("abs", "Abs"))
    wide = branch("wide", 1, inner) if worth else passing("sigmoid", "Sigmoid")
    narrow = branch("narrow", 2) if worth else passing("exp", "Exp")
    second = [branch("up", 3, reads="first"), branch("down", 4, reads="first")]
    nodes = [
        helper.make_node(asked, ["x"], ["shape"], "shape"),
        helper.make_node("Gather", ["shape", "axis"], ["length"], "length"),
        helper.make_node("Greater", ["length", "limit"], ["is_long"], "is_long"),
        choice("is_long", "first", wide, narrow),
        choice("is_long", "y", *second) if worth else helper.make_node("Neg", ["first"], ["y"], "neg"),
    ]
    if asked != "Shape":
        nodes[1] = helper.make_node("Size", ["shape"], ["length"], "length")
    graph = helper.make_graph(
        nodes,
        "choices",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "L", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "L", 16])],
        [numpy_helper.from_array(np.array(value), name) for name, value in (("axis", axis), ("limit", 4))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def batches(*lengths: int, samples: int = 1) -> list[Feeds]:
    return [{"x": normal(samples, length, 16, seed=index)} for index, length in enumerate(lengths)]


def output(prepared: OnnxModel, feeds: Feeds) -> Array:
    return ADAPTER.runner(prepared, Execution())(feeds)[0]


@pytest.mark.parametrize(
    ("lengths", "products"),
    [((6, 9), {"wide_product", "up_product"}), ((2, 3, 2), {"narrow_product", "down_product"})],
)
def test_shapes_that_always_choose_the_same_branch_choose_for_good(lengths: list[int], products: set[str]) -> None:
    loaded = ADAPTER.load(model())
    assert not ADAPTER.space(loaded).tunable
    feeds = batches(*lengths)
    prepared = ADAPTER.on_data(loaded, iter(feeds))
    assert {op.name for op in ADAPTER.space(prepared).tunable} == products
    assert not any(node.op_type in ("If", "Shape", "Greater") for node in prepared.proto.graph.node)
    for each in feeds:
        np.testing.assert_allclose(output(prepared, each), output(ADAPTER.as_given(prepared), each), rtol=1e-5)
    (note,) = [note for note in prepared.notes if "the same branch" in note]
    assert "of all of the data, 'first', 'y'" in note
    candidate = ADAPTER.apply(prepared, ADAPTER.space(prepared).preferred, ADAPTER.calibrate(prepared, feeds, seed=0))
    assert np.isfinite(output(candidate, feeds[0])).all()


@pytest.mark.parametrize(
    ("proto", "feeds"),
    [
        (model(), batches(6, 2)),
        (model(axis=0), batches(6, 6, samples=3)),  # six samples would choose otherwise
        (model(asked="NonZero"), batches(6, 6)),
        (model(worth=False), batches(6, 6)),
    ],
    ids=["lengths that choose both", "the number of samples", "values", "nothing to quantize inside"],
)
def test_what_shapes_do_not_decide_stays(proto: onnx.ModelProto, feeds: list[Feeds]) -> None:
    prepared = ADAPTER.on_data(ADAPTER.load(proto), iter(feeds))
    assert any(node.op_type == "If" for node in prepared.proto.graph.node)
    assert not any("the same branch" in note for note in prepared.notes)
    for each in feeds:
        np.testing.assert_allclose(output(prepared, each), output(ADAPTER.as_given(prepared), each), rtol=1e-5)


def test_data_that_the_model_refuses_decide_nothing() -> None:
    proto = model()
    before = proto.SerializeToString()
    assert take_branches(proto, [{"x": normal(1, 6, 5)}], None) is None
    assert proto.SerializeToString() == before


def test_shapes_are_told_apart_and_too_many_are_none() -> None:
    shapes = Shapes()
    shapes.all_of(batches(6, 2, 6, 2))
    assert [feeds["x"].shape for feeds in shapes.found] == [(1, 6, 16), (1, 2, 16)]
    shapes.all_of(batches(*range(1, 80)))
    assert shapes.found == ()
    assert chosen_by_shapes(model())
    assert not chosen_by_shapes(model(worth=False))
