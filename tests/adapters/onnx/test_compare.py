"""A prepared model computes what the user's model computes, or less is prepared."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from autotune.adapter import Array, Execution
from autotune.adapters.onnx import prepare, session
from autotune.adapters.onnx.compare import Reference, relative_difference
from autotune.adapters.onnx.options import GraphOptimization
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from autotune.config import QuantizationConfig
from autotune.errors import ModelError
from tests.adapters.onnx.graphs import around, build, image_batches, node, normal, small_cnn

ADAPTER = OnnxRuntimeAdapter()
BATCHES = image_batches()


def outputs(model: OnnxModel, feeds: Any = BATCHES[0]) -> tuple[Array, ...]:
    return ADAPTER.runner(model, Execution())(feeds)


def difference(model: OnnxModel, feeds: Any = BATCHES[0]) -> float:
    pairs = zip(outputs(ADAPTER.as_given(model), feeds), outputs(model, feeds), strict=True)
    return max(relative_difference(expected, actual) for expected, actual in pairs)


def resizing(opset: int, mode: str = "linear", scale: float = 2.0) -> onnx.ModelProto:
    scales = np.array([1, 1, scale, scale], np.float32)
    if opset < 9:
        resize = helper.make_node("Upsample", ["a"], ["m"], name="up", mode=mode, scales=scales.tolist())
        return around([resize], "m", opset=opset)
    op_type = "Upsample" if opset < 10 else "Resize"
    resize = helper.make_node(op_type, ["a", "scales"], ["m"], name="up", mode=mode)
    return around([resize], "m", constants={"scales": scales}, opset=opset)


@pytest.mark.parametrize("scale", [2.0, 3.0])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("opset", [7, 9, 10])
def test_resizing_of_old_opsets_keeps_its_coordinates(opset: int, mode: str, scale: float) -> None:
    """onnx's converter leaves them to the new operator's default, another one: 1 to 10 dB (onnx #8480)."""
    model = ADAPTER.load(resizing(opset, mode, scale))
    assert difference(model) < 1e-4
    granularities = [str(scheme.granularity) for scheme in ADAPTER.space(model).ops[0].precisions[0].weights]
    assert granularities == ["per_channel", "per_tensor"], "and nothing is lost by it"


def test_nearest_resizing_to_less() -> None:
    assert difference(ADAPTER.load(resizing(10, "nearest", 0.5))) < 1e-4


@pytest.mark.parametrize("opset", [7, 11, 12])
def test_hardmax_before_opset_13_keeps_its_axes(opset: int) -> None:
    """There it flattens all axes from its own on; the converter does not mind."""
    model = ADAPTER.load(around([node("Hardmax", "a", "h", axis=2), node("Mul", "a h", "m")], "m", opset=opset))
    assert difference(model) < 1e-4
    (note,) = [note for note in model.notes if "outputs would change" in note]
    assert "converted to opset 13" in note
    assert "from Hardmax 'h' on" in note
    assert "per-channel weights are not offered" in note
    assert ADAPTER.space(model).tunable


def test_a_step_that_changes_the_function_is_named_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    fold = session.optimized_graph

    def wrong(proto: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
        folded = fold(proto, **options)
        next(each for each in folded.graph.node if each.name == "c3").input[1] = "zeros"
        folded.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((32, 32, 1, 1), np.float32), "zeros"))
        return folded

    monkeypatch.setattr(prepare, "optimized_graph", wrong)
    model = ADAPTER.load(small_cnn())
    assert difference(model) == 0.0
    (note,) = [note for note in model.notes if "prepared less than it could be" in note]
    assert "with constants folded" in note
    assert "from Conv 'c3' on" in note


def test_what_cannot_be_prepared_stops_with_the_ops_name(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = prepare._cleaned

    def wrong(given: OnnxModel, fixed: Any, shapes: Any) -> OnnxModel:
        cleaned = clean(given, fixed, shapes)
        next(each for each in cleaned.proto.graph.node if each.name == "r1").op_type = "Neg"
        return cleaned

    monkeypatch.setattr(prepare, "_cleaned", wrong)
    with pytest.raises(ModelError, match=r"outputs would change by .* from Relu 'r1' on"):
        ADAPTER.load(small_cnn())


def only_with_real_data() -> onnx.ModelProto:
    """Made-up inputs stay where both interpolations agree: pictures that are all zero."""
    proto = resizing(10)
    picture = next(each for each in proto.graph.node if each.name == "a")
    picture.input[0] = "large"
    proto.graph.node.insert(0, node("ThresholdedRelu", "x", "large", alpha=50.0))
    bias = next(tensor for tensor in proto.graph.initializer if tensor.name == "b1")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.zeros(8, np.float32), "b1"))
    return proto


def test_the_users_data_are_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "_RESIZE_CHANGED", 99)  # as the converter leaves it
    model = ADAPTER.load(only_with_real_data())
    feeds = {"x": BATCHES[0]["x"] * 100}
    assert difference(model, feeds) > 1e-3, "nothing was seen on made-up inputs"
    model = ADAPTER.on_data(model, [feeds])
    assert difference(model, feeds) < 1e-4
    assert any("from Resize 'up' on" in note for note in model.notes)


def test_agreement_on_data_changes_nothing() -> None:
    model = ADAPTER.load(small_cnn())
    assert ADAPTER.on_data(model, BATCHES) is model
    assert ADAPTER.on_data(ADAPTER.as_given(model), BATCHES) is ADAPTER.as_given(model)


def test_inputs_that_cannot_be_made_up_leave_the_answer_to_the_data() -> None:
    nodes = [node("Reshape", "x shape", "r"), node("MatMul", "r w", "y")]
    constants = {"shape": np.array([-1, 17]), "w": normal(17, 4)}
    model = ADAPTER.load(build(nodes, {"x": ("N", "M")}, {"y": None}, constants))
    assert [op.name for op in ADAPTER.space(model).ops] == ["y"]
    assert ADAPTER.on_data(model, [{"x": normal(2, 34)}]) is model


def test_a_model_that_draws_random_numbers_is_not_blamed() -> None:
    noise = node("RandomNormalLike", "a", "noise")
    model = ADAPTER.load(around([noise, node("Add", "a noise", "m")], "m"))
    assert not any("outputs would change" in note for note in model.notes)
    assert ADAPTER.on_data(model, BATCHES) is model
    assert Reference(ADAPTER.as_given(model), BATCHES).agrees(5.0)
    assert not Reference(ADAPTER.load(small_cnn()), BATCHES).agrees(5.0)


def test_what_rounding_decides_is_no_difference_of_function(tmp_path: Path) -> None:
    """A model that picks the largest of values that int8 makes equal: ONNX Runtime's optimizations pick another."""
    nodes = [node("GlobalAveragePool", "x", "p"), node("Flatten", "p", "f"), node("MatMul", "f w", "l")]
    nodes += [node("Hardmax", "l", "h", axis=1), node("Mul", "h steps", "y")]
    constants = {"w": normal(3, 64, scale=0.01), "steps": np.arange(64, dtype=np.float32)}
    proto = build(nodes, {"x": ("N", 3, 8, 8)}, {"y": None}, constants, opset=12)
    original = ADAPTER.load(proto)
    statistics = ADAPTER.calibrate(original, BATCHES, seed=0)
    candidate = ADAPTER.apply(original, ADAPTER.space(original).preferred, statistics)
    ADAPTER.save(candidate, tmp_path / "int8.onnx", {})
    model = ADAPTER.load(tmp_path / "int8.onnx")
    assert not any("outputs would change" in note for note in model.notes)


def test_only_what_is_there_without_optimizations_counts() -> None:
    """An approximation that ONNX Runtime is asked for at load is no change of the graph."""
    nodes = [node("Div", "x root", "d"), node("Erf", "d", "e"), node("Add", "e one", "f")]
    nodes += [node("Mul", "x f", "g"), node("Mul", "g half", "y")]
    constants = {name: np.array(value, np.float32) for name, value in (("root", 2**0.5), ("one", 1), ("half", 0.5))}
    given = ADAPTER.as_given(ADAPTER.load(build(nodes, {"x": ("N", 64)}, {"y": None}, constants)))
    approximated = dataclasses.replace(given, optimization=GraphOptimization.GELU_APPROXIMATION)
    feeds = {"x": normal(16, 64, scale=0.7)}
    assert relative_difference(outputs(given, feeds)[0], outputs(approximated, feeds)[0]) > 1e-4
    assert Reference(given, [feeds]).error(approximated) == 0.0


def test_a_picking_model_is_not_excused_from_the_comparison(tmp_path: Path) -> None:
    """Its own rounding flips outputs by as much as a wrong axis does: the two are told apart all the same."""
    middle = [node("Sigmoid", "a", "s"), node("Hardmax", "s", "h", axis=2), node("Mul", "s h", "m")]
    original = ADAPTER.load(around(middle, "m", opset=12))
    statistics = ADAPTER.calibrate(original, BATCHES, seed=0)
    candidate = ADAPTER.apply(original, ADAPTER.space(original).preferred, statistics)
    ADAPTER.save(candidate, tmp_path / "int8.onnx", {})
    assert any("from Hardmax 'h' on" in note for note in ADAPTER.load(tmp_path / "int8.onnx").notes)


def test_half_precision_is_compared_with_its_own_rounding() -> None:
    proto = around([node("Relu", "a", "m")], "m")
    for tensor in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    model = ADAPTER.load(proto)
    assert not any("outputs would change" in note for note in model.notes)


@pytest.mark.parametrize(
    ("expected", "actual", "difference"),
    [
        (np.array([1.0, np.nan]), np.array([1.0, np.nan]), 0.0),
        (np.array([1.0, np.nan]), np.array([np.nan, 1.0]), np.inf),
        (np.array([1.0, np.inf]), np.array([1.0, -np.inf]), np.inf),
        (np.array([2.0]), np.array([[2.0]]), np.inf),
        (np.array([2, 4]), np.array([2, 3]), 0.25),
        (np.array(["a"], object), np.array(["b"], object), np.inf),
        (np.array([{1: 0.5}], object), np.array([{1: 0.25}], object), 0.5),
        (np.array([{1: 0.5}], object), np.array([{2: 0.5}], object), np.inf),
        (np.array([True]), np.array([True]), 0.0),
    ],
)
def test_relative_difference(expected: Array, actual: Array, difference: float) -> None:
    assert relative_difference(expected, actual) == difference


def test_the_prepared_model_may_be_faster_by_itself() -> None:
    plain = ADAPTER.load(small_cnn())
    assert not ADAPTER.executes_another_graph(plain), "ONNX Runtime folds by itself when it opens the file"
    proto = small_cnn()
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    model = ADAPTER.load(proto)
    assert ADAPTER.executes_another_graph(model)
    assert any("'w1', 'gamma', 'beta' and 10 more are inputs too" in note for note in model.notes)
    prepared = ADAPTER.apply(model, QuantizationConfig(prepared=True), ADAPTER.calibrate(model, BATCHES, seed=0))
    assert not ADAPTER.executes_another_graph(prepared)
    matrix = build([node("MatMul", "x w", "y")], {"x": ("N", 8)}, {"y": None}, {"w": normal(8, 8)})
    matrix.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [8, 8]))
    assert ADAPTER.executes_another_graph(ADAPTER.load(matrix)), "what may be replaced is not packed for the kernel"


def test_inputs_of_one_value_are_made_up_too() -> None:
    """A scalar of numpy's is no array: ONNX Runtime refused it, so that nothing was ever compared."""
    nodes = [node("Mul", "x factor", "a"), node("Hardmax", "a", "h", axis=1), node("MatMul", "h w", "y")]
    proto = build(nodes, {"x": ("N", 3, 8), "factor": ()}, {"y": None}, {"w": normal(8, 8)}, opset=12)
    assert any("from Hardmax 'h' on" in note for note in ADAPTER.load(proto).notes)


def test_sizes_are_tried_until_the_model_runs() -> None:
    """Seven positions have no window of 20 in them."""
    pooled = node("AveragePool", "x", "p", kernel_shape=[20, 20], strides=[4, 4])
    nodes = [pooled, node("Hardmax", "p", "y", axis=1)]
    proto = build(nodes, {"x": ("N", "C", "H", "W")}, {"y": None}, {}, opset=12)
    assert any("from Hardmax 'y' on" in note for note in ADAPTER.load(proto).notes)
