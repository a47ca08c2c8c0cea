"""Files do not grow by constants that preparation computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.adapter import Array, Execution
from autotune.adapters.onnx import session
from autotune.adapters.onnx.unfold import find_origins, unfolded
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter, adapter
from autotune.config import Precision, QuantizationConfig
from tests.adapters.onnx.graphs import build, node, normal

ADAPTER = OnnxRuntimeAdapter()
FEEDS = {"x": normal(2, 64, 64)}

TABLES: dict[str, tuple[Sequence[onnx.NodeProto], dict[str, Array]]] = {
    "ConstantOfShape": (
        [node("ConstantOfShape", "shape", "t", value=numpy_helper.from_array(np.array([0.5], np.float32)))],
        {"shape": np.array([64, 64])},
    ),
    "Expand": ([node("Expand", "one shape", "t")], {"one": normal(64, 1), "shape": np.array([64, 64])}),
    "Tile": ([node("Tile", "row times", "t")], {"row": normal(1, 64), "times": np.array([64, 1])}),
    "Range": (
        [node("Range", "start end step", "r"), node("Reshape", "r shape", "t")],
        {
            "start": np.array(0, np.float32),
            "end": np.array(4096, np.float32),
            "step": np.array(1, np.float32),
            "shape": np.array([64, 64]),
        },
    ),
    "Shape": (
        [node("Shape", "x", "s", start=1), node("ConstantOfShape", "s", "t")],
        {},
    ),
    "several": (
        [node("Expand", "one shape", "e"), node("Mul", "e e", "q"), node("Transpose", "q", "t", perm=[1, 0])],
        {"one": normal(64, 1), "shape": np.array([64, 64])},
    ),
}


def with_table(kind: str) -> onnx.ModelProto:
    nodes, constants = TABLES[kind]
    nodes = [*nodes, node("Add", "x t", "s1"), node("MatMul", "s1 w", "y")]
    return build(nodes, {"x": (2, 64, 64)}, {"y": None}, {**constants, "w": normal(64, 64)})


def output(model: OnnxModel) -> Array:
    return ADAPTER.runner(model, Execution())(FEEDS)[0]


@pytest.mark.parametrize("kind", TABLES)
def test_tables_are_written_as_what_they_come_from(kind: str, tmp_path: Path) -> None:
    proto = with_table(kind)
    model = ADAPTER.load(proto)
    assert "t" in {tensor.name for tensor in model.proto.graph.initializer}, "quantization sees a constant"
    given = ADAPTER.as_given(model)
    assert given.size_bytes == proto.ByteSize()
    assert model.size_bytes < 1.05 * given.size_bytes + 512
    for name, candidate in candidates(model).items():
        path = tmp_path / f"{name}.onnx"
        ADAPTER.save(candidate, path, {})
        assert path.stat().st_size < 1.05 * given.size_bytes + 1024
        assert abs(path.stat().st_size - candidate.size_bytes) < 64
        np.testing.assert_array_equal(output(ADAPTER.load(path)), output(candidate))


def test_what_is_measured_is_what_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[onnx.ModelProto] = []
    open_session = session.open_session

    def noted(proto: onnx.ModelProto, *options: Any) -> Any:
        opened.append(proto)
        return open_session(proto, *options)

    monkeypatch.setattr(adapter, "open_session", noted)
    model = ADAPTER.load(with_table("Expand"))
    output(model)
    (proto,) = opened
    assert "Expand" in {each.op_type for each in proto.graph.node}
    assert proto.ByteSize() == model.size_bytes


def candidates(model: OnnxModel) -> dict[str, OnnxModel]:
    statistics = ADAPTER.calibrate(model, [FEEDS], seed=0)
    space = ADAPTER.space(model)
    configs = {"prepared": QuantizationConfig(prepared=True), "preferred": space.preferred}
    return {name: ADAPTER.apply(model, config, statistics) for name, config in configs.items()}


def half_weights() -> onnx.ModelProto:
    nodes = [
        node("Cast", "w16", "w", to=TensorProto.FLOAT),
        node("Cast", "v16", "v", to=TensorProto.FLOAT),
        node("MatMul", "x w", "first"),
        node("MatMul", "first v", "second"),
    ]
    constants = {"w16": normal(64, 64).astype(np.float16), "v16": normal(64, 64, seed=1).astype(np.float16)}
    return build(nodes, {"x": (2, 64, 64)}, {"second": None}, constants)


def test_weights_in_half_precision_can_be_quantized() -> None:
    model = ADAPTER.load(half_weights())
    assert [op.name for op in ADAPTER.space(model).tunable] == ["first", "second"]
    assert not any("float16" in note for note in model.notes)
    np.testing.assert_array_equal(output(model), output(ADAPTER.as_given(model)))


def test_and_those_that_stay_fp32_are_written_as_they_were() -> None:
    model = ADAPTER.load(half_weights())
    assert model.size_bytes < 1.1 * half_weights().ByteSize()
    statistics = ADAPTER.calibrate(model, [FEEDS], seed=0)
    preferred = ADAPTER.space(model).preferred
    one = QuantizationConfig(ops={"first": preferred["first"]}, recipe=preferred.recipe)
    candidate = ADAPTER.apply(model, one, statistics)
    kept = {tensor.name: tensor.data_type for tensor in candidate.stored.graph.initializer}
    assert kept["v16"] == TensorProto.FLOAT16
    assert "w16" not in kept
    assert preferred["second"].precision is not Precision.FP32
    assert ADAPTER.apply(model, preferred, statistics).size_bytes < candidate.size_bytes < model.size_bytes


def test_a_model_that_computes_in_half_precision_is_left() -> None:
    proto = half_weights()
    proto.graph.node.append(node("MatMul", "x16 w16", "z16"))
    proto.graph.node.append(node("Cast", "z16", "z", to=TensorProto.FLOAT))
    proto.graph.node.insert(0, node("Cast", "x", "x16", to=TensorProto.FLOAT16))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    assert any("float16" in note for note in ADAPTER.load(proto).notes)


def test_values_that_changed_since_stay() -> None:
    model = ADAPTER.load(with_table("Expand"))
    changed = onnx.ModelProto()
    changed.CopyFrom(model.proto)
    table = next(tensor for tensor in changed.graph.initializer if tensor.name == "t")
    table.CopyFrom(numpy_helper.from_array(normal(64, 64, seed=9), "t"))
    assert unfolded(changed, model.origins) is changed


def test_names_that_are_taken_are_left_to_their_owners() -> None:
    model = ADAPTER.load(with_table("Expand"))
    crowded = onnx.ModelProto()
    crowded.CopyFrom(model.proto)
    crowded.graph.initializer.append(numpy_helper.from_array(normal(3), "one"))
    crowded.graph.node.append(node("Identity", "one", "shape"))
    crowded.graph.output.append(helper.make_tensor_value_info("shape", TensorProto.FLOAT, None))
    run: Any = ADAPTER.runner(OnnxModel(proto=unfolded(crowded, model.origins)), Execution())
    first, second = run(FEEDS)
    np.testing.assert_array_equal(first, output(model))
    np.testing.assert_array_equal(second, normal(3))


def test_random_values_and_inner_graphs_have_no_origin() -> None:
    after = build([node("Add", "x t", "y")], {"x": (64, 64)}, {"y": None}, {"t": normal(64, 64)})
    before = build(
        [node("RandomNormal", "", "t", shape=[64, 64]), node("Add", "x t", "y")], {"x": (64, 64)}, {"y": None}, {}
    )
    assert find_origins(before, after) == {}


def test_a_small_constant_is_not_worth_a_node() -> None:
    nodes = [node("Expand", "one shape", "t"), node("Add", "x t", "y")]
    constants = {"one": normal(1), "shape": np.array([64])}
    model = ADAPTER.load(build(nodes, {"x": (2, 64)}, {"y": None}, constants))
    assert model.origins == {}
    assert model.stored is model.proto


@pytest.mark.parametrize("as_node", [False, True])
def test_branches_do_not_grow_by_what_both_compute_of_one_weight(as_node: bool) -> None:
    """Folded, each branch has a copy of its own; nothing in it is quantized, so that it stays as it was."""
    weight = numpy_helper.from_array(normal(64, 64), "w")
    branches = []
    for name in ("then", "else"):
        turned = node("Transpose", "w", f"{name}_turned", perm=[1, 0])
        product = node("MatMul", f"x {name}_turned", f"{name}_y")
        value = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        branches.append(helper.make_graph([turned, product], name, [], [value]))
    nodes = [
        node("ReduceSum", "x", "sum", keepdims=0),
        node("Greater", "sum zero", "positive"),
        node("If", "positive", "chosen", then_branch=branches[0], else_branch=branches[1]),
        node("Identity", "chosen", "y"),
    ]
    if as_node:
        nodes.insert(0, helper.make_node("Constant", [], ["w"], "w", value=weight))
    proto = build(nodes, {"x": (2, 64, 64)}, {"y": None}, {"zero": np.array(0, np.float32)})
    if not as_node:
        proto.graph.initializer.append(weight)
    model = ADAPTER.load(proto)
    assert model.size_bytes < 1.05 * proto.ByteSize()
    for sign in (1, -1):
        feeds = {"x": sign * abs(FEEDS["x"])}
        given, prepared = (ADAPTER.runner(each, Execution())(feeds)[0] for each in (ADAPTER.as_given(model), model))
        np.testing.assert_allclose(prepared, given, rtol=1e-5)
