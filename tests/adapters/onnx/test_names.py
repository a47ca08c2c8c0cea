"""The user's names are those of the space, whatever ONNX Runtime fuses."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from autotune.adapters.onnx.names import make_room, name_nodes, rename_reads, restore_names
from autotune.adapters.onnxruntime import OnnxRuntimeAdapter
from autotune.config import Precision
from autotune.errors import AutotuneError
from autotune.restriction import OpRestriction, SpaceRestriction
from tests.adapters.onnx.graphs import around, build, node, normal

ADAPTER = OnnxRuntimeAdapter()


def two_layers() -> onnx.ModelProto:
    nodes = [
        node("MatMul", "x w", "fc1"),
        node("Add", "fc1 b", "bias1"),
        node("Relu", "bias1", "r"),
        node("MatMul", "r v", "fc2"),
        node("Add", "fc2 c", "y"),
    ]
    constants = {"w": normal(8, 8), "b": normal(8), "v": normal(8, 4), "c": normal(4)}
    return build(nodes, {"x": ("N", 8)}, {"y": None}, constants)


def names(proto: onnx.ModelProto) -> list[str]:
    return [op.name for op in ADAPTER.space(ADAPTER.load(proto)).ops]


def test_a_product_that_took_its_bias_in_keeps_its_name() -> None:
    model = ADAPTER.load(two_layers())
    assert [each.op_type for each in model.proto.graph.node] == ["Gemm", "Relu", "Gemm"]
    assert [op.name for op in ADAPTER.space(model).ops] == ["fc1", "fc2"]


def test_a_restriction_reaches_the_op_that_it_names() -> None:
    space = ADAPTER.space(ADAPTER.load(two_layers()))
    restricted = SpaceRestriction(op_name={"fc1": OpRestriction(precision=(Precision.FP32,))}).apply(space)
    assert [op.name for op in restricted.tunable] == ["fc2"]
    with pytest.raises(AutotuneError, match=r"fc3.*fc[12]"):
        SpaceRestriction(op_name={"fc3": OpRestriction(precision=(Precision.FP32,))}).apply(space)


CONV = node("Conv", "a w3", "c", pads=[1, 1, 1, 1])

TAKEN_IN = {
    "batch normalization": ([CONV, node("BatchNormalization", "c v v v v", "m")], "c"),
    "scale": ([CONV, node("Mul", "c s", "m")], "c"),
    "shift": ([CONV, node("Add", "c s", "m")], "c"),
    "pad": ([node("Pad", "a pads", "p"), node("Conv", "p w3", "c"), node("Relu", "c", "m")], "c"),
}


@pytest.mark.parametrize("kind", TAKEN_IN)
def test_what_a_convolution_took_in_leaves_its_name(kind: str) -> None:
    nodes, expected = TAKEN_IN[kind]
    constants = {
        "w3": normal(8, 8, 3, 3, seed=4),
        "v": 1 + abs(normal(8)),
        "s": normal(1, 8, 1, 1),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    }
    read = {name for each in nodes for name in each.input}
    found = names(around(nodes, "m", constants={name: value for name, value in constants.items() if name in read}))
    assert found == ["a", expected, "second"]


def test_a_name_that_another_node_has_is_not_taken() -> None:
    before = two_layers()
    after = onnx.ModelProto()
    after.CopyFrom(before)
    del after.graph.node[:]
    after.graph.node.extend(
        [
            node("Gemm", "x w b", "bias1"),
            node("Relu", "bias1", "r"),
            node("Gemm", "r v c", "y"),
        ]
    )
    after.graph.node[0].name = "fc1/MatMulAddFusion"
    after.graph.node[1].name = "fc2"
    after.graph.node[2].name = "fc2/MatMulAddFusion"
    restore_names(before, after)
    assert [each.name for each in after.graph.node] == ["fc1", "fc2", "fc2/MatMulAddFusion"]


def test_what_no_tensor_tells_is_told_by_the_name() -> None:
    before = two_layers()
    after = onnx.ModelProto()
    after.CopyFrom(before)
    after.graph.node[0].name, after.graph.node[0].output[0] = "fc1/Other", "unknown"
    restore_names(before, after)
    assert after.graph.node[0].name == "fc1"


def test_every_node_gets_a_name_of_its_own() -> None:
    proto = two_layers()
    for each in proto.graph.node:
        each.name = "" if each.op_type == "Relu" else "same"
    name_nodes(proto)
    assert [each.name for each in proto.graph.node] == ["same", "same_2", "Relu_r", "same_3", "same_4"]


def test_room_is_made_for_the_names_of_a_quantizer() -> None:
    branch = onnx.helper.make_graph(
        [node("Identity", "s_scale", "t")], "branch", [], [onnx.helper.make_tensor_value_info("t", 1, None)]
    )
    nodes = [
        node("Relu", "x", "s_QuantizeLinear_Output"),
        node("Add", "s_QuantizeLinear_Output s_scale", "y_scale"),
        node("If", "condition", "z", then_branch=branch, else_branch=branch),
    ]
    nodes[0].name = "s_QuantizeLinear"
    proto = build(nodes, {"x": ("N",)}, {"y_scale": None, "z": None}, {"s_scale": normal(1)})
    make_room(proto)
    relu, add, choice = proto.graph.node
    assert relu.name == "s_QuantizeLinear.given"
    assert list(add.input) == ["s_QuantizeLinear_Output.given", "s_scale.given"] == [relu.output[0], add.input[1]]
    assert list(add.output) == ["y_scale"], "an output keeps its name"
    assert choice.attribute[0].g.node[0].input[0] == "s_scale.given"
    assert proto.graph.initializer[0].name == "s_scale.given"


def test_reads_are_renamed_inside_of_graphs_unless_these_have_their_own() -> None:
    value = onnx.helper.make_tensor_value_info("t", 1, None)
    outer = onnx.helper.make_graph([node("Identity", "x", "t")], "outer", [], [value])
    own = onnx.helper.make_graph([node("Relu", "t0", "x"), node("Identity", "x", "t")], "own", [], [value])
    proto = build([node("If", "condition", "y", then_branch=outer, else_branch=own)], {"x": ("N",)}, {"y": None}, {})
    rename_reads(proto.graph, {"x": "fixed"})
    graphs = {each.name: each.g for each in proto.graph.node[0].attribute}
    assert graphs["then_branch"].node[0].input[0] == "fixed"
    assert graphs["else_branch"].node[1].input[0] == "x"
