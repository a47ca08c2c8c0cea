"""fp16 and bf16 per op: what is converted and what is not, next to every other precision, and what fp16 cannot hold."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from autotune.adapter import Array, Execution, Feeds
from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnx.session import optimized_op_counts
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from autotune.adapters.onnxruntime.choices.ops import quantizable_ops
from autotune.adapters.onnxruntime.half.convert import supports_half
from autotune.adapters.onnxruntime.half.kernels import has_kernel
from autotune.calibration import CalibrationStatistics
from autotune.config import (
    MINMAX,
    Granularity,
    OpConfig,
    Precision,
    QuantizationConfig,
    QuantizedType,
    Recipe,
    TensorScheme,
)
from autotune.errors import ApplyError
from tests.adapters.onnx.graphs import build, image_batches, node, normal, small_cnn
from tests.adapters.onnx.transformers import small_transformer, token_batches
from tests.adapters.onnxruntime.saturating import EXACT_HERE

pytestmark = pytest.mark.numeric

ADAPTER = OnnxRuntimeAdapter()
FP16 = OpConfig(precision=Precision.FP16)
BF16 = OpConfig(precision=Precision.BF16)
PER_CHANNEL = TensorScheme(dtype=QuantizedType.S8, symmetric=True, granularity=Granularity.PER_CHANNEL)
DYNAMIC = OpConfig(precision=Precision.INT8_DYNAMIC, weight=PER_CHANNEL)
STATIC = OpConfig(
    precision=Precision.INT8, activation=TensorScheme(dtype=QuantizedType.U8), weight=PER_CHANNEL, calibration=MINMAX
)


def prepared(proto: onnx.ModelProto, batches: list[dict[str, Array]]) -> tuple[OnnxModel, CalibrationStatistics]:
    model = ADAPTER.load(proto)
    return model, ADAPTER.calibrate(model, batches, seed=0)


def cnn() -> tuple[OnnxModel, CalibrationStatistics]:
    return prepared(small_cnn(), image_batches())


def applied(
    model: OnnxModel, statistics: CalibrationStatistics, ops: dict[str, OpConfig], recipe: Recipe | None = None
) -> OnnxModel:
    candidate = ADAPTER.apply(model, QuantizationConfig(ops=ops, recipe=recipe or EXACT_HERE), statistics)
    onnx.checker.check_model(candidate.proto)
    return candidate


def output(model: OnnxModel, feeds: Feeds) -> Array:
    return ADAPTER.runner(model, Execution())(feeds)[0]


def by_definition(model: OnnxModel, feeds: Feeds) -> Array:
    """Outputs by the standard: every float16 and bfloat16 result is rounded, whatever kernels this host has."""
    outputs = list(ReferenceEvaluator(model.proto).run(None, dict(feeds)))
    result: Array = outputs[0]
    return result


def relative_error(expected: Array, actual: Array) -> float:
    return float(np.abs(expected - actual).max() / np.abs(expected).max())


def casts(model: OnnxModel) -> Counter[int]:
    """How many Casts there are to each type."""
    return Counter(n.attribute[0].i for n in model.proto.graph.node if n.op_type == "Cast")


def types(model: OnnxModel) -> dict[str, int]:
    """Types of the constants."""
    return {t.name: t.data_type for t in model.proto.graph.initializer}


ALL_OF_CNN = ("c1", "c2", "c3", "sum", "pooled", "logits")


def test_whole_network_in_fp16_is_within_half_precision() -> None:
    model, statistics = cnn()
    feeds = image_batches(1)[0]
    candidate = applied(model, statistics, dict.fromkeys(ALL_OF_CNN, FP16))
    expected = output(model, feeds)
    assert 0 < relative_error(expected, output(candidate, feeds)) < 5e-3
    assert 0 < relative_error(expected, by_definition(candidate, feeds)) < 5e-3
    stored = types(candidate)
    assert TensorProto.FLOAT not in {stored[name] for name in stored if name.startswith(("w", "b"))}
    assert candidate.size_bytes < 0.6 * model.size_bytes


def test_whole_network_in_bf16_is_within_its_precision() -> None:
    nodes = [node("MatMul", "x w1", "a"), node("MatMul", "a w2", "b"), node("Mul", "b c", "y")]
    constants = {"w1": normal(16, 32), "w2": normal(32, 8, seed=1), "c": normal(8, seed=2)}
    batches = [{"x": normal(4, 16, seed=3, scale=1.0)}]
    model, statistics = prepared(build(nodes, {"x": ("N", 16)}, {"y": None}, constants), batches)
    candidate = applied(model, statistics, dict.fromkeys("aby", BF16))
    assert casts(candidate) == {TensorProto.BFLOAT16: 1, TensorProto.FLOAT: 1}
    assert relative_error(output(model, batches[0]), by_definition(candidate, batches[0])) < 0.05


def test_ops_of_one_type_have_no_cast_between_them() -> None:
    model, statistics = cnn()
    # c3 and the Add, which read and write half alike; r1 is converted once, for the Add.
    candidate = applied(model, statistics, {"c3": FP16, "sum": FP16, "pooled": FP16})
    assert casts(candidate) == {TensorProto.FLOAT16: 2, TensorProto.FLOAT: 1}
    nodes = {n.name: n for n in candidate.proto.graph.node}
    assert nodes["sum"].input[0] == nodes["c3"].output[0]


def test_tensor_is_converted_once_for_all_its_readers() -> None:
    nodes = [node("MatMul", f"x w{index}", f"y{index}") for index in range(3)]
    constants = {f"w{index}": normal(8, 4, seed=index) for index in range(3)}
    batches = [{"x": normal(4, 8, scale=1.0)}]
    proto = build(nodes, {"x": ("N", 8)}, {"y0": None, "y1": None, "y2": None}, constants)
    model, statistics = prepared(proto, batches)
    candidate = applied(model, statistics, {"y0": FP16, "y1": FP16})
    assert casts(candidate) == {TensorProto.FLOAT16: 1, TensorProto.FLOAT: 2}
    fp32_reader = next(n for n in candidate.proto.graph.node if n.name == "y2")
    assert list(fp32_reader.input) == ["x", "w2"]


def test_constant_that_two_ops_share_is_stored_once_in_each_type() -> None:
    nodes = [node("MatMul", "x w", "a"), node("MatMul", "a w", "b"), node("MatMul", "b w", "y")]
    batches = [{"x": normal(4, 8, scale=1.0)}]
    model, statistics = prepared(build(nodes, {"x": ("N", 8)}, {"y": None}, {"w": normal(8, 8)}), batches)
    candidate = applied(model, statistics, {"a": FP16, "b": FP16})
    assert types(candidate) == {"w": TensorProto.FLOAT, "w/fp16": TensorProto.FLOAT16}
    candidate = applied(model, statistics, dict.fromkeys("aby", FP16))
    assert types(candidate) == {"w/fp16": TensorProto.FLOAT16}


def test_output_of_the_model_and_reader_in_fp32_get_fp32() -> None:
    nodes = [node("MatMul", "x w", "a"), node("MatMul", "a w", "b"), node("Sigmoid", "a", "c")]
    batches = [{"x": normal(4, 8, scale=1.0)}]
    proto = build(nodes, {"x": ("N", 8)}, {"a": None, "b": None, "c": None}, {"w": normal(8, 8)})
    model, statistics = prepared(proto, batches)
    candidate = applied(model, statistics, {"a": FP16, "b": FP16})
    runner = ADAPTER.runner(candidate, Execution())
    assert {array.dtype for array in runner(batches[0])} == {np.dtype(np.float32)}
    nodes_after = {n.name: n for n in candidate.proto.graph.node}
    assert nodes_after["b"].input[0] == nodes_after["a"].output[0] == "a/fp16"
    assert nodes_after["c"].input[0] == "a"
    assert casts(candidate) == {TensorProto.FLOAT16: 1, TensorProto.FLOAT: 2}


def test_reshaping_between_two_ops_goes_along_where_there_is_a_kernel() -> None:
    nodes = [node("Conv", "x w b", "c"), node("Flatten", "c", "f"), node("Gemm", "f v d", "y")]
    constants = {"w": normal(4, 3, 1, 1), "b": normal(4), "v": normal(256, 5, seed=1), "d": normal(5)}
    model, statistics = prepared(build(nodes, {"x": ("N", 3, 8, 8)}, {"y": None}, constants), image_batches())
    candidate = applied(model, statistics, {"c": FP16, "y": FP16})
    graph = Graph(model.proto)
    assert has_kernel(next(n for n in graph.nodes if n.name == "f"), graph, Precision.FP16)
    assert casts(candidate) == {TensorProto.FLOAT16: 1, TensorProto.FLOAT: 1}
    feeds = image_batches(1)[0]
    assert relative_error(output(model, feeds), by_definition(candidate, feeds)) < 5e-3


@pytest.mark.parametrize("reader", ["fp16", "fp32"])
def test_activation_goes_along_only_where_there_is_a_kernel(reader: str) -> None:
    nodes = [node("Conv", "x w b", "c"), node("Clip", "c low high", "a"), node("Conv", "a v b", "y")]
    constants = {
        "w": normal(4, 3, 1, 1),
        "v": normal(4, 4, 1, 1, seed=1),
        "b": normal(4),
        "low": np.array(0, np.float32),
        "high": np.array(np.finfo(np.float32).max, np.float32),
    }
    model, statistics = prepared(build(nodes, {"x": ("N", 3, 8, 8)}, {"y": None}, constants), image_batches())
    ops = {"c": FP16, "y": FP16} if reader == "fp16" else {"c": FP16}
    candidate = applied(model, statistics, ops)
    graph = Graph(model.proto)
    clip = next(n for n in candidate.proto.graph.node if n.name == "a")
    along = has_kernel(next(n for n in graph.nodes if n.name == "a"), graph, Precision.FP16)
    assert (clip.input[0] == "c/fp16") == along
    feeds = image_batches(1)[0]
    expected = output(model, feeds)
    assert relative_error(expected, by_definition(candidate, feeds)) < 5e-3
    assert relative_error(expected, output(candidate, feeds)) < 5e-3


def test_every_precision_in_one_model() -> None:
    model, statistics = prepared(small_transformer(), token_batches())
    ops = {"q_product": FP16, "k_product": STATIC, "v_product": DYNAMIC, "inner": STATIC, "down": FP16, "logits": FP16}
    candidate = applied(model, statistics, ops)
    counts = optimized_op_counts(candidate.proto)
    assert counts["MatMulIntegerToFloat"] + counts["DynamicQuantizeMatMul"] == 3
    feeds = token_batches(1)[0]
    assert relative_error(output(model, feeds), output(candidate, feeds)) < 0.1


def test_fp16_convolution_between_static_int8_ones() -> None:
    model, statistics = cnn()
    feeds = image_batches(1)[0]
    candidate = applied(model, statistics, {"c1": STATIC, "c2": FP16, "c3": STATIC, "logits": DYNAMIC})
    counts = optimized_op_counts(candidate.proto)
    assert counts["QLinearConv"] == 2, "the one in fp16 must not become int8"
    assert types(candidate)["w2/fp16"] == TensorProto.FLOAT16
    assert relative_error(output(model, feeds), output(candidate, feeds)) < 0.1


def test_recipes_leave_fp16_ops_alone() -> None:
    model, statistics = cnn()
    ops = {"c1": STATIC, "c2": FP16, "c3": STATIC}
    recipe = dataclasses.replace(ADAPTER.space(model).recipe.preferred, equalization=True)
    candidate = applied(model, statistics, ops, recipe)
    weight = next(t for t in candidate.proto.graph.initializer if t.name == "w2/fp16")
    original = next(t for t in model.proto.graph.initializer if t.name == "w2")
    np.testing.assert_array_equal(
        numpy_helper.to_array(weight), numpy_helper.to_array(original).astype(np.float16), strict=True
    )
    feeds = image_batches(1)[0]
    assert relative_error(output(model, feeds), output(candidate, feeds)) < 0.1


def large(scale: float, *, weight: float = 0.3) -> tuple[OnnxModel, CalibrationStatistics, Feeds]:
    nodes = [node("MatMul", "x w", "a"), node("MatMul", "a v", "y")]
    constants = {"w": normal(8, 8, scale=weight), "v": normal(8, 8, seed=1, scale=1e-3)}
    feeds = {"x": normal(4, 8, scale=scale)}
    model, statistics = prepared(build(nodes, {"x": ("N", 8)}, {"y": None}, constants), [feeds])
    return model, statistics, feeds


@pytest.mark.parametrize("scale", [5e4, 1e6])
def test_values_that_fp16_cannot_hold_stay_fp32_with_a_note(scale: float) -> None:
    model, statistics, feeds = large(scale)
    candidate = applied(model, statistics, {"a": FP16, "y": FP16})
    notes = [note for note in candidate.notes if "stays fp32" in note]
    assert [note.split(":")[0] for note in notes] == ["MatMul 'a' stays fp32", "MatMul 'y' stays fp32"]
    assert all("fp16 ends at 65,504" in note for note in notes)
    assert set(types(candidate)) == {"w", "v"}
    np.testing.assert_array_equal(output(model, feeds), output(candidate, feeds))


def test_the_same_values_are_no_matter_to_bf16() -> None:
    model, statistics, feeds = large(1e6)
    candidate = applied(model, statistics, {"a": BF16, "y": BF16})
    assert not any("stays fp32" in note for note in candidate.notes)
    assert relative_error(output(model, feeds), by_definition(candidate, feeds)) < 0.05


def test_values_near_the_end_leave_room_for_what_calibration_did_not_see() -> None:
    model, statistics, _ = large(1e4)
    assert not any("stays fp32" in note for note in applied(model, statistics, {"a": FP16}).notes)
    nearer = dataclasses.replace(statistics.tensors["x"], maximum=40000.0)
    statistics = dataclasses.replace(statistics, tensors={**statistics.tensors, "x": nearer})
    assert any("'x' reaches 4e+04" in note for note in applied(model, statistics, {"a": FP16}).notes)


def test_large_weights_are_neither_offered_nor_applied() -> None:
    model, statistics, feeds = large(1e-3, weight=1e5)
    graph = Graph(model.proto)
    first, second = quantizable_ops(graph)[0]
    assert not supports_half(first, graph, Precision.FP16)
    assert supports_half(first, graph, Precision.BF16)
    assert supports_half(second, graph, Precision.FP16)
    candidate = applied(model, statistics, {"a": FP16})
    assert any("constant 'w' has values beyond 65,504" in note for note in candidate.notes)
    np.testing.assert_array_equal(output(model, feeds), output(candidate, feeds))


def test_statistics_of_another_model_are_an_error() -> None:
    model, _ = cnn()
    with pytest.raises(ApplyError, match="Every tensor around an fp16 op needs statistics, but 'x' has none"):
        ADAPTER.apply(model, QuantizationConfig(ops={"c1": FP16}), CalibrationStatistics({}, 0))


def test_type_that_the_opset_does_not_have_is_an_error() -> None:
    model, statistics = cnn()
    with pytest.raises(ApplyError, match="Conv 'c1' cannot compute in bf16: opset 17 does not have the type"):
        ADAPTER.apply(model, QuantizationConfig(ops={"c1": BF16}), statistics)


def test_kernel_that_is_missing_is_an_error_of_the_candidate() -> None:
    model, statistics, feeds = large(1.0)
    graph = Graph(model.proto)
    candidate = applied(model, statistics, {"a": BF16})
    if has_kernel(next(n for n in graph.nodes if n.name == "a"), graph, Precision.BF16):
        assert relative_error(output(model, feeds), output(candidate, feeds)) < 0.05
    else:
        with pytest.raises(ApplyError, match=r"ONNX Runtime refuses the model: .*NOT_IMPLEMENTED"):
            ADAPTER.runner(candidate, Execution())


def test_op_without_its_own_weight_computes_in_fp16_too() -> None:
    nodes = [node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "x t", "p"), node("Mul", "p s", "y")]
    batches = [{"x": normal(2, 4, 8, scale=1.0)}]
    proto = build(nodes, {"x": ("N", 4, 8)}, {"y": None}, {"s": np.array(0.5, np.float32)})
    model, statistics = prepared(proto, batches)
    candidate = applied(model, statistics, {"p": FP16, "y": FP16})
    assert casts(candidate) == {TensorProto.FLOAT16: 2, TensorProto.FLOAT: 1}
    assert relative_error(output(model, batches[0]), by_definition(candidate, batches[0])) < 5e-3


def test_tensor_that_a_subgraph_reads_stays_there_in_fp32() -> None:
    branches = [
        helper.make_graph(
            [node("Relu" if name == "then" else "Neg", "a", name)],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        )
        for name in ("then", "other")
    ]
    nodes = [
        node("MatMul", "x w", "a"),
        node("ReduceMax", "x", "top", keepdims=0),
        node("Cast", "top", "condition", to=TensorProto.BOOL),
        node("If", "condition", "z", then_branch=branches[0], else_branch=branches[1]),
    ]
    batches = [{"x": normal(4, 8, scale=1.0)}]
    model, statistics = prepared(build(nodes, {"x": ("N", 8)}, {"z": None}, {"w": normal(8, 8)}), batches)
    candidate = applied(model, statistics, {"a": FP16})
    assert relative_error(output(model, batches[0]), output(candidate, batches[0])) < 5e-3


@pytest.mark.parametrize("choice", [FP16, BF16])
def test_configs_of_half_precision_read_what_they_write(choice: OpConfig) -> None:
    config = QuantizationConfig(ops={"a": choice, "b": STATIC})
    assert QuantizationConfig.from_json(config.to_json()) == config
    assert config.to_json()["ops"][0] == {"names": ["a"], "precision": str(choice.precision)}


def test_saved_candidate_is_read_back(tmp_path: Path) -> None:
    model, statistics = cnn()
    candidate = applied(model, statistics, {"c1": FP16, "c2": STATIC, "logits": FP16})
    ADAPTER.save(candidate, tmp_path / "half.onnx", {})
    again = ADAPTER.load(tmp_path / "half.onnx")
    feeds = image_batches(1)[0]
    np.testing.assert_allclose(output(again, feeds), output(candidate, feeds), rtol=1e-3, atol=1e-3)
