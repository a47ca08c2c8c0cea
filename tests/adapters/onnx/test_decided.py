"""Branches that one small input chooses between: folded where the data decide, else the user is told how to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.adapter import Array, Execution, Feeds
from autotune.adapters.onnx.decided import deciding_inputs, values_in
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from tests.adapters.onnx.graphs import normal

ADAPTER = OnnxRuntimeAdapter()
RATES = (16000, 8000)


def branch(name: str, seed: int, inner: onnx.NodeProto | None = None) -> onnx.GraphProto:
    output = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, ["N", 8])
    nodes = [helper.make_node("MatMul", ["x", f"{name}_w"], [f"{name}_p"], f"{name}_product")]
    last = helper.make_node("Relu", [f"{name}_p"], [f"{name}_y"], f"{name}_relu")
    if inner is not None:
        nodes.append(inner)
        last.input[0] = inner.output[0]
    weight = numpy_helper.from_array(normal(16, 8, seed=seed), f"{name}_w")
    return helper.make_graph([*nodes, last], name, [], [output], [weight])


def detector(*, nested: bool = False, rate_type: int = TensorProto.INT64) -> onnx.ModelProto:
    """All of its work lies in two branches, as in a well-known voice detector."""
    inner = None
    if nested:
        inner = helper.make_node(
            "If", ["is_wide"], ["inner"], "inner", then_branch=branch("a", 3), else_branch=branch("b", 4)
        )
    nodes = [
        helper.make_node("Equal", ["sr", "rate"], ["is_wide"], "is_wide"),
        helper.make_node(
            "If", ["is_wide"], ["y"], "choice", then_branch=branch("wide", 1, inner), else_branch=branch("narrow", 2)
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16]),
            helper.make_tensor_value_info("sr", rate_type, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor("rate", rate_type, [], [RATES[0]])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def batches(*rates: int) -> list[Feeds]:
    return [{"x": normal(3, 16, seed=index), "sr": np.array(rate)} for index, rate in enumerate(rates)]


def output(model: OnnxModel, feeds: Feeds) -> Array:
    return ADAPTER.runner(model, Execution())(feeds)[0]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("rate", RATES)
def test_data_that_always_choose_the_same_branch_choose_for_good(rate: int, nested: bool) -> None:
    loaded = ADAPTER.load(detector(nested=nested))
    assert not ADAPTER.space(loaded).tunable
    feeds = batches(rate, rate, rate)
    model = ADAPTER.on_data(loaded, iter(feeds))
    names = [op.name for op in ADAPTER.space(model).tunable]
    wide = ["wide_product", "a_product"] if nested else ["wide_product"]
    assert set(names) <= {*wide, "narrow_product"}
    assert names
    assert [spec.name for spec in model.inputs] == ["x", "sr"], "it is called as before"
    np.testing.assert_allclose(output(model, feeds[0]), output(ADAPTER.as_given(model), feeds[0]), rtol=1e-5)
    assert any(f"All of the data have sr = {rate}" in note and "for this value alone" in note for note in model.notes)
    candidate = ADAPTER.apply(model, ADAPTER.space(model).preferred, ADAPTER.calibrate(model, feeds, seed=0))
    assert np.isfinite(output(candidate, feeds[0])).all()


def test_data_that_choose_both_leave_the_branches_and_a_line() -> None:
    model = ADAPTER.on_data(ADAPTER.load(detector()), iter(batches(16000, 8000)))
    assert not ADAPTER.space(model).tunable
    (note,) = [note for note in model.notes if "chooses between branches" in note]
    assert "make it a constant" in note
    assert "'sr'" in note
    for feeds in batches(16000, 8000):
        np.testing.assert_allclose(output(model, feeds), output(ADAPTER.as_given(model), feeds), rtol=1e-5)


def test_the_advice_works() -> None:
    proto = detector()
    proto.graph.initializer.append(numpy_helper.from_array(np.array(16000), "sr"))
    del proto.graph.input[1]
    assert [op.name for op in ADAPTER.space(ADAPTER.load(proto)).tunable] == ["wide_product"]


def by_a_float(proto: onnx.ModelProto) -> None:
    proto.graph.input[1].type.tensor_type.elem_type = TensorProto.FLOAT
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array(16000, np.float32), "rate"))


def by_the_data(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].input[0] = "length"
    proto.graph.node.insert(0, helper.make_node("Size", ["x"], ["length"], "length"))


def by_many_values(proto: onnx.ModelProto) -> None:
    proto.graph.input[1].CopyFrom(helper.make_tensor_value_info("sr", TensorProto.INT64, ["N"]))


@pytest.mark.parametrize("change", [by_a_float, by_the_data, by_many_values])
def test_other_conditions_are_none_of_ours(change: Callable[[onnx.ModelProto], None]) -> None:
    proto = detector()
    assert deciding_inputs(proto) == ("sr",)
    change(proto)
    assert deciding_inputs(proto) == ()


def test_values_that_vary_are_left_out() -> None:
    feeds: list[Feeds] = [
        {"a": np.array(1), "b": np.array([2])},
        {"a": np.array(1), "b": np.array([3])},
    ]
    assert values_in(feeds, ("a", "b")) == {"a": np.array(1)}
    assert values_in(feeds[:1], ("b",)) == {"b": np.array([2])}
