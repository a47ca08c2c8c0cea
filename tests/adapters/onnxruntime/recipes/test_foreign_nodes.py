"""Recipes on models with branches, loops, functions and operators of other domains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.adapter import Array
from autotune.errors import ModelError
from tests.adapters.onnx.graphs import build, image_batches, node, normal
from tests.adapters.onnxruntime.recipes.cases import ALL, IMAGE, Case, conv, run, uneven
from tests.adapters.onnxruntime.recipes.chains import ADAPTER, config


def _branch(name: str, nodes: Sequence[onnx.NodeProto], output: str) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), name, [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)])


def test_branches_that_hold_convolutions_and_read_one_outside() -> None:
    then = _branch("then", [conv("r v d", "t1"), node("Relu", "t1", "t2"), conv("t2 v d", "t3")], "t3")
    other = _branch("other", [conv("r u d", "o1")], "o1")
    nodes = [
        conv("x w b", "c"),
        node("Relu", "c", "r"),
        conv("r q d", "e"),
        node("ReduceMax", "x", "top", keepdims=0),
        node("Cast", "top", "condition", to=TensorProto.BOOL),
        node("If", "condition", "i", then_branch=then, else_branch=other),
        node("Add", "i e", "y"),
    ]
    constants = {
        "w": uneven(8, 3, 3, 3),
        "b": normal(8),
        "d": normal(8, seed=3),
        **{name: uneven(8, 8, 3, 3, seed=seed) for seed, name in enumerate("vuq", 1)},
    }
    case = Case(nodes, constants)
    case.check()
    assert "it lies in a graph inside of If 'i'" in case.notes
    assert "another op reads what the convolution before it writes" in case.notes
    assert "Weights and bias of 'e' are not corrected: other ops read them too" in case.notes
    for name in "wvuq":
        np.testing.assert_array_equal(case.constant(name), constants[name])


def test_loop_that_holds_a_convolution() -> None:
    body = helper.make_graph(
        [
            node("Identity", "going", "still"),
            conv("state v d", "k1"),
            node("Relu", "k1", "k2"),
        ],
        "body",
        [
            helper.make_tensor_value_info("trip", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("k2", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        conv("x w b", "c"),
        node("Relu", "c", "r"),
        helper.make_node("Loop", ["times", "always", "r"], ["l"], "l", body=body),
        conv("l u d", "y"),
    ]
    constants = {
        "w": uneven(8, 3, 3, 3),
        "b": normal(8),
        "v": normal(8, 8, 3, 3, seed=1, scale=0.1),
        "u": uneven(8, 8, 3, 3, seed=2),
        "d": normal(8, seed=3),
        "times": np.array(3, np.int64),
        "always": np.array(True),
    }
    case = Case(nodes, constants, shape=("N", 8, 8, 8))
    case.check()
    assert "Conv 'k1' stays fp32: it lies in a graph inside of Loop 'l'" in case.notes
    np.testing.assert_array_equal(case.constant("w"), constants["w"])
    np.testing.assert_array_equal(case.constant("u"), constants["u"])


def test_operator_that_onnx_runtime_does_not_know() -> None:
    proto = build(
        [conv("x w", "c"), helper.make_node("Magic", ["c"], ["y"], "magic", domain="my.company")],
        {"x": IMAGE},
        {"y": None},
        {"w": normal(8, 3, 3, 3)},
    )
    proto.opset_import.append(helper.make_opsetid("my.company", 1))
    with pytest.raises(ModelError, match=r"my\.company.*must run in ONNX Runtime"):
        ADAPTER.load(proto)


def _with_function(nodes: Sequence[onnx.NodeProto], constants: dict[str, Array]) -> onnx.ModelProto:
    """A model whose function ``my.company::Halve`` holds standard operators."""
    function = helper.make_function(
        "my.company",
        "Halve",
        ["a"],
        ["b"],
        [
            helper.make_node("Constant", [], ["half"], value=numpy_helper.from_array(np.array(0.5, np.float32))),
            helper.make_node("Mul", ["a", "half"], ["b"]),
        ],
        [helper.make_opsetid("", 17)],
    )
    proto = build(nodes, {"x": IMAGE}, {"y": None}, constants)
    proto.opset_import.append(helper.make_opsetid("my.company", 1))
    proto.functions.append(function)
    return proto


def test_function_of_another_domain_between_convolutions() -> None:
    nodes = [
        conv("x w b", "c"),
        helper.make_node("Halve", ["c"], ["h"], "h", domain="my.company"),
        conv("h v d", "y"),
    ]
    constants = {"w": uneven(8, 3, 3, 3), "b": normal(8), "v": uneven(8, 8, 3, 3, seed=1), "d": normal(8, seed=2)}
    model = ADAPTER.load(_with_function(nodes, constants))
    statistics = ADAPTER.calibrate(model, image_batches(), seed=0)
    candidate = ADAPTER.apply(model, config(model, ALL), statistics)
    feeds = image_batches(1, size=8)[0]
    expected, actual = (run(each, feeds)[0] for each in (model, candidate))
    assert 10 * np.log10(np.square(expected).mean() / np.square(expected - actual).mean()) > 20


def test_contrib_operator_between_convolutions() -> None:
    nodes = [
        conv("x w b", "c"),
        helper.make_node("QuickGelu", ["c"], ["g"], "g", domain="com.microsoft"),
        conv("g v d", "y"),
    ]
    constants = {"w": uneven(8, 3, 3, 3), "b": normal(8), "v": uneven(8, 8, 3, 3, seed=1), "d": normal(8, seed=2)}
    proto = build(nodes, {"x": IMAGE}, {"y": None}, constants)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model = ADAPTER.load(proto)
    statistics = ADAPTER.calibrate(model, image_batches(), seed=0)
    candidate = ADAPTER.apply(model, config(model, ALL), statistics)
    feeds = image_batches(1, size=8)[0]
    expected, actual = (run(each, feeds)[0] for each in (model, candidate))
    assert 10 * np.log10(np.square(expected).mean() / np.square(expected - actual).mean()) > 20
