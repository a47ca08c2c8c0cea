"""Ops that are rewritten so that an integer kernel takes them: same values, and the kernel in the session."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from autotune.adapter import Array, Execution
from autotune.adapters.onnx.forms import write_in_known_forms
from autotune.adapters.onnx.session import optimized_op_counts
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from autotune.config import OpConfig, Precision, QuantizationConfig, Recipe
from tests.adapters.onnx.graphs import around, build, image_batches, node, normal

ADAPTER = OnnxRuntimeAdapter()
SEVEN_BITS = Recipe(reduce_range=True)
"""Nothing saturates on CPUs without VNNI."""
BIASES: dict[str, Array | None] = {
    "none": None,
    "vector": normal(6, seed=1),
    "row": normal(1, 6, seed=1),
    "number": normal(seed=1),
    "one": normal(1, seed=1),
    "one by one": normal(1, 1, seed=1),
    "column": normal(4, 1, seed=1),
    "matrix": normal(4, 6, seed=1),
}


def gemm(bias: Array | None, **options: Any) -> onnx.ModelProto:
    """``x`` (4, 5), or its transpose, times a matrix (5, 6), or its transpose; then a Relu."""
    shape = (5, 4) if options.get("transA") else (4, 5)
    weight = normal(6, 5) if options.get("transB") else normal(5, 6)
    constants = {"w": weight} if bias is None else {"w": weight, "b": np.asarray(bias, np.float32)}
    nodes = [node("Gemm", "x w" if bias is None else "x w b", "fc", **options), node("Relu", "fc", "y")]
    return build(nodes, {"x": shape}, {"y": None}, constants)


def run(model: OnnxModel, feeds: dict[str, Array]) -> Array:
    return ADAPTER.runner(model, Execution())(feeds)[0]


def reference(proto: onnx.ModelProto, feeds: dict[str, Array]) -> Array:
    return run(OnnxModel(proto=proto), feeds)


def sqnr_db(expected: Array, actual: Array) -> float:
    return float(10 * np.log10(np.square(expected).mean() / np.square(expected - actual).mean()))


def operators(proto: onnx.ModelProto) -> list[str]:
    return [each.op_type for each in proto.graph.node]


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("factors", [(1.0, 1.0), (0.5, 1.0), (1.0, 2.0), (-0.5, 0.0)], ids=str)
def test_every_gemm_becomes_int8(bias: str, factors: tuple[float, float]) -> None:
    for transposed in itertools.product((0, 1), repeat=2):
        options = dict(zip(("alpha", "beta", "transA", "transB"), (*factors, *transposed), strict=True))
        proto = gemm(BIASES[bias], **options)
        feeds = [{"x": normal(*((5, 4) if transposed[0] else (4, 5)), seed=seed, scale=1.0)} for seed in (7, 8)]
        expected = reference(proto, feeds[0])
        model = ADAPTER.load(proto)
        np.testing.assert_allclose(run(model, feeds[0]), expected, rtol=1e-5, atol=1e-6)
        space = ADAPTER.space(model)
        op = next(each for each in space.ops if each.op_type in ("Gemm", "MatMul"))
        assert op.name.startswith("fc")
        statistics = ADAPTER.calibrate(model, feeds, seed=0)
        for precision, kernels in (
            (Precision.INT8, ("QGemm", "MatMulIntegerToFloat", "QLinearMatMul")),
            (Precision.INT8_DYNAMIC, ("DynamicQuantizeMatMul", "MatMulIntegerToFloat")),
        ):
            within = op.space_of(precision)
            assert within is not None
            config = QuantizationConfig(ops={op.name: within.preferred}, recipe=SEVEN_BITS)
            candidate = ADAPTER.apply(model, config, statistics)
            counts = optimized_op_counts(candidate.proto)
            assert sum(counts[kernel] for kernel in kernels) == 1, counts
            assert counts["Gemm"] + counts["MatMul"] + counts["FusedGemm"] == 0
            assert sqnr_db(expected, run(candidate, feeds[0])) > 25.0


def test_a_bias_that_is_computed_is_added_afterwards() -> None:
    nodes = [node("Relu", "z", "b"), node("Gemm", "x w b", "y")]
    proto = build(nodes, {"x": (4, 5), "z": (4, 6)}, {"y": None}, {"w": normal(5, 6)})
    feeds = {"x": normal(4, 5, seed=3), "z": normal(4, 6, seed=4)}
    model = ADAPTER.load(proto)
    assert operators(model.proto) == ["Relu", "Gemm", "Add"]
    np.testing.assert_allclose(run(model, feeds), reference(proto, feeds), rtol=1e-6)


@pytest.mark.parametrize(
    "proto",
    [
        gemm(BIASES["vector"], transB=1),
        gemm(None),
        build([node("Gemm", "x z", "y", alpha=2.0)], {"x": (4, 5), "z": (5, 6)}, {"y": None}, {}),
        build([node("Gemm", "w x", "y", alpha=2.0)], {"x": (5, 6)}, {"y": None}, {"w": normal(4, 5)}),
        build([node("Gemm", "x w z", "y", beta=2.0)], {"x": (4, 5), "z": (4, 6)}, {"y": None}, {"w": normal(5, 6)}),
    ],
    ids=["known", "no bias", "no constant weight", "constant input", "factor of a computed bias"],
)
def test_what_is_known_or_has_no_kernel_stays(proto: onnx.ModelProto) -> None:
    before = proto.SerializeToString()
    write_in_known_forms(proto)
    assert proto.SerializeToString() == before


def test_a_weight_that_others_read_stays_theirs() -> None:
    nodes = [node("Gemm", "x w", "a", alpha=0.5), node("Gemm", "x w", "b"), node("Add", "a b", "y")]
    proto = build(nodes, {"x": (4, 5)}, {"y": None}, {"w": normal(5, 6), "a/weight": normal(1)})
    feeds = {"x": normal(4, 5, seed=3)}
    expected = reference(proto, feeds)
    write_in_known_forms(proto)
    assert {tensor.name for tensor in proto.graph.initializer} == {"w", "a/weight", "a/weight_"}
    np.testing.assert_allclose(reference(proto, feeds), expected, rtol=1e-5)


def leaky(nodes: list[onnx.NodeProto], **constants: Array) -> onnx.ModelProto:
    return around(nodes, "r", constants=constants)


SLOPE = np.float32(0.1)
LEAKY = {
    "larger of two": leaky([node("Mul", "a c", "m"), node("Max", "a m", "r")], c=np.asarray(SLOPE)),
    "the other way round": leaky([node("Mul", "c a", "m"), node("Max", "m a", "r")], c=SLOPE.reshape(1)),
    "one slope for all": leaky([node("PRelu", "a c", "r")], c=SLOPE.reshape(1, 1, 1)),
}


@pytest.mark.parametrize("kind", LEAKY)
def test_leaky_relus_become_int8(kind: str) -> None:
    proto = LEAKY[kind]
    feeds = image_batches()
    model = ADAPTER.load(proto)
    assert operators(model.proto) == ["Conv", "LeakyRelu", "Conv"]
    assert [op.name for op in ADAPTER.space(model).ops] == ["a", "r", "second"]
    expected = reference(proto, feeds[0])
    np.testing.assert_allclose(run(model, feeds[0]), expected, rtol=1e-5, atol=1e-6)
    config = dataclasses.replace(ADAPTER.space(model).preferred, recipe=SEVEN_BITS)
    candidate = ADAPTER.apply(model, config, ADAPTER.calibrate(model, feeds, seed=0))
    counts = optimized_op_counts(candidate.proto)
    assert (counts["QLinearLeakyRelu"], counts["QLinearConv"], counts["Max"], counts["Mul"]) == (1, 2, 0, 0)
    assert sqnr_db(expected, run(candidate, feeds[0])) > 25.0


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([node("Mul", "a c", "m"), node("Max", "a m", "r")], {"c": np.float32(1.5)}),
        ([node("Mul", "a c", "m"), node("Max", "a m", "r")], {"c": np.float32(-0.5)}),
        ([node("Mul", "a c", "m"), node("Max", "a m", "r")], {"c": normal(8, 1, 1)}),
        ([node("Mul", "a a", "m"), node("Max", "a m", "r")], {}),
        ([node("Add", "a c", "m"), node("Max", "a m", "r")], {"c": np.float32(0.5)}),
        ([node("Relu", "a", "q"), node("Mul", "q c", "m"), node("Max", "a m", "r")], {"c": np.float32(0.5)}),
        ([node("Mul", "a c", "m"), node("Max", "a m a", "r")], {"c": np.float32(0.5)}),
        ([node("PRelu", "a c", "r")], {"c": normal(8, 1, 1)}),
    ],
    ids=["steeper", "negative", "per channel", "square", "sum", "of another", "three", "slopes"],
)
def test_what_is_no_leaky_relu_stays(nodes: list[onnx.NodeProto], constants: dict[str, Array]) -> None:
    proto = around(nodes, "r", constants={name: np.asarray(value) for name, value in constants.items()})
    before = operators(proto)
    write_in_known_forms(proto)
    assert operators(proto) == before


def test_a_product_that_others_read_stays() -> None:
    nodes = [node("Mul", "a c", "m"), node("Max", "a m", "q"), node("Add", "q m", "r")]
    proto = around(nodes, "r", constants={"c": np.asarray(SLOPE)})
    expected = reference(proto, image_batches()[0])
    write_in_known_forms(proto)
    assert Counter(operators(proto)) == Counter(["Conv", "Mul", "LeakyRelu", "Add", "Conv"])
    np.testing.assert_allclose(reference(proto, image_batches()[0]), expected, rtol=1e-5, atol=1e-6)


def test_a_graph_output_keeps_its_product() -> None:
    proto = around([node("Mul", "a c", "m"), node("Max", "a m", "r")], "r", constants={"c": np.asarray(SLOPE)})
    proto.graph.output.append(helper.make_empty_tensor_value_info("m"))
    write_in_known_forms(proto)
    assert "Mul" in operators(proto)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("fixed", [True, False])
def test_products_with_a_bias_are_served_whatever_preparation_makes_of_them(bias: str, *, fixed: bool) -> None:
    """ONNX Runtime makes a Gemm of MatMul and Add where it knows their shapes, with biases of any shape."""
    addend = BIASES[bias]
    nodes = [node("MatMul", "x w", "fc")] + ([] if addend is None else [node("Add", "fc b", "sum")])
    constants = {"w": normal(5, 6)} | ({} if addend is None else {"b": np.asarray(addend, np.float32)})
    proto = build(nodes, {"x": (4 if fixed else "N", 5)}, {nodes[-1].output[0]: None}, constants)
    feeds = [{"x": normal(4, 5, seed=seed, scale=1.0)} for seed in (7, 8)]
    expected = reference(proto, feeds[0])
    model = ADAPTER.load(proto)
    op = next(each for each in ADAPTER.space(model).ops if each.op_type in ("Gemm", "MatMul"))
    statistics = ADAPTER.calibrate(model, feeds, seed=0)
    for precision in (Precision.INT8, Precision.INT8_DYNAMIC):
        within = op.space_of(precision)
        assert within is not None
        choice: OpConfig = within.preferred
        candidate = ADAPTER.apply(model, QuantizationConfig(ops={op.name: choice}, recipe=SEVEN_BITS), statistics)
        counts = optimized_op_counts(candidate.proto)
        assert counts["Gemm"] + counts["MatMul"] == 0, counts
        assert sqnr_db(expected, run(candidate, feeds[0])) > 25.0
