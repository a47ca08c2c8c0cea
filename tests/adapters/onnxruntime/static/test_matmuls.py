"""Static MatMuls that write fp32: the kernel that stands in the file, and whose bias it takes along."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest

from autotune.adapter import Array, Execution
from autotune.adapters.onnx.session import optimized_op_counts
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from autotune.adapters.onnxruntime.static.matmuls import read_originals
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
from tests.adapters.onnx.graphs import build, node, normal

ADAPTER = OnnxRuntimeAdapter()
SEVEN_BITS = Recipe(reduce_range=True)
INT8 = OpConfig(
    precision=Precision.INT8,
    activation=TensorScheme(dtype=QuantizedType.U8),
    weight=TensorScheme(dtype=QuantizedType.S8, symmetric=True, granularity=Granularity.PER_CHANNEL),
    calibration=MINMAX,
)
PER_TENSOR = OpConfig(
    precision=Precision.INT8,
    activation=TensorScheme(dtype=QuantizedType.U8),
    weight=TensorScheme(dtype=QuantizedType.S8, symmetric=True),
    calibration=MINMAX,
)


def quantized(
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[str],
    constants: Mapping[str, Array],
    ops: Mapping[str, OpConfig],
    shape: Sequence[int | str] = ("N", 3, 8),
) -> OnnxModel:
    """Checks the result against fp32 too, which needs weights that saturate on no CPU."""
    model = ADAPTER.load(build(nodes, {"x": shape}, dict.fromkeys(outputs), constants))
    feeds = {"x": normal(4, *[int(size) for size in shape[1:]], seed=9, scale=1.0)}
    candidate = ADAPTER.apply(
        model, QuantizationConfig(ops=ops, recipe=SEVEN_BITS), ADAPTER.calibrate(model, [feeds], seed=0)
    )
    for expected, actual in zip(
        *(ADAPTER.runner(each, Execution())(feeds) for each in (model, candidate)), strict=True
    ):
        assert 10 * np.log10(np.square(expected).mean() / np.square(expected - actual).mean()) > 25.0
    return candidate


def kernels(candidate: OnnxModel) -> Counter[str]:
    return Counter(each.op_type for each in candidate.proto.graph.node)


def inputs(candidate: OnnxModel, name: str) -> int:
    return len(next(each for each in candidate.proto.graph.node if each.name == name).input)


@pytest.mark.parametrize("choice", [INT8, PER_TENSOR], ids=["per channel", "per tensor"])
@pytest.mark.parametrize("order", ["p b", "b p"])
def test_a_bias_goes_into_the_kernel(choice: OpConfig, order: str) -> None:
    nodes = [node("MatMul", "x w", "p"), node("Add", order, "y")]
    candidate = quantized(nodes, ["y"], {"w": normal(8, 5), "b": normal(5, seed=1)}, {"p": choice})
    assert kernels(candidate) == Counter(["QuantizeLinear", "MatMulIntegerToFloat"])
    assert inputs(candidate, "p") == 7
    assert next(each for each in candidate.proto.graph.node if each.name == "p").output[0] == "y"


@pytest.mark.parametrize(
    ("further", "outputs", "bias"),
    [
        ([node("Add", "p b", "y")], ["y"], normal(3, 5, seed=1)),
        ([node("Add", "p b", "y")], ["y"], normal(1, seed=1)),
        ([node("Mul", "p b", "y")], ["y"], normal(5, seed=1)),
        ([node("Add", "p b", "y")], ["y", "p"], normal(5, seed=1)),
        ([node("Add", "p b", "y"), node("Relu", "p", "z")], ["y", "z"], normal(5, seed=1)),
        ([node("Add", "p p", "y")], ["y"], normal(5, seed=1)),
    ],
    ids=["matrix", "number", "factor", "leaves the model", "read twice", "itself"],
)
def test_what_is_no_bias_of_its_own_stays(further: list[onnx.NodeProto], outputs: list[str], bias: Array) -> None:
    candidate = quantized([node("MatMul", "x w", "p"), *further], outputs, {"w": normal(8, 5), "b": bias}, {"p": INT8})
    assert inputs(candidate, "p") == 6
    assert kernels(candidate)["MatMulIntegerToFloat"] == 1
    assert kernels(candidate)[further[0].op_type] == 1


def test_a_matmul_that_int8_ops_read_writes_integers() -> None:
    nodes = [node("MatMul", "x w", "p"), node("MatMul", "p v", "y")]
    candidate = quantized(nodes, ["y"], {"w": normal(8, 6), "v": normal(6, 5)}, {"p": INT8, "y": INT8})
    assert (kernels(candidate)["MatMul"], kernels(candidate)["MatMulIntegerToFloat"]) == (1, 1)
    counts = optimized_op_counts(candidate.proto)
    assert (counts["QLinearMatMul"], counts["MatMulIntegerToFloat"], counts["MatMul"]) == (1, 1, 0)


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "Sigmoid", "Tanh"])
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_a_gemm_before_an_fp32_activation_stays_an_integer_matmul(
    activation: str, transposed: int, *, bias: bool
) -> None:
    """ONNX Runtime would make a FusedGemm of the two, in fp32."""
    nodes = [node("Gemm", "x w b" if bias else "x w", "p", transB=transposed), node(activation, "p", "y")]
    weight = normal(5, 8) if transposed else normal(8, 5)
    constants = {"w": weight, "b": normal(5, seed=1)} if bias else {"w": weight}
    for choice in (INT8, PER_TENSOR):
        candidate = quantized(nodes, ["y"], constants, {"p": choice}, shape=("N", 8))
        counts = optimized_op_counts(candidate.proto)
        assert (counts["QGemm"], counts["Gemm"], counts["FusedGemm"]) == (1, 0, 0)
        assert inputs(candidate, "p") == (7 if bias else 6)


def test_a_gemm_in_integers_is_among_those_that_can_saturate() -> None:
    """Neighbours of one sign and full size can, of opposite signs cannot, whichever way the weight is stored."""
    alike, opposite = np.ones((8, 5), np.float32), np.ones((8, 5), np.float32)
    opposite[::2] = -1.0
    for weight, found in ((alike, ("p",)), (opposite, ())):
        for transposed in (0, 1):
            constants = {"w": np.ascontiguousarray(weight.T) if transposed else weight}
            nodes = [node("Gemm", "x w", "p", transB=transposed), node("Relu", "p", "y")]
            model = ADAPTER.load(build(nodes, {"x": ("N", 8)}, {"y": None}, constants))
            statistics = ADAPTER.calibrate(model, [{"x": normal(4, 8)}], seed=0)
            candidate = ADAPTER.apply(model, QuantizationConfig(ops={"p": INT8}), statistics)
            assert optimized_op_counts(candidate.proto)["QGemm"] == 1
            assert ADAPTER.saturating_ops(candidate) == found


def pairs() -> onnx.ModelProto:
    """``a`` is written by an fp32 node, and read through one pair by an int8 op and by an fp32 one."""
    constants: dict[str, Array] = {
        "s": np.asarray(0.05, np.float32),
        "z": np.asarray(128, np.uint8),
        "w": normal(8, 5),
        "c": normal(8, seed=1),
    }
    nodes = [
        node("Sigmoid", "x", "a"),
        node("QuantizeLinear", "a s z", "q"),
        node("DequantizeLinear", "q s z", "d"),
        node("MatMul", "d w", "int8"),
        node("Mul", "d c", "fp32"),
    ]
    return build(nodes, {"x": ("N", 8)}, {"int8": None, "fp32": None}, constants)


def test_fp32_nodes_read_what_fp32_nodes_wrote() -> None:
    proto = pairs()
    read_originals(proto, {"int8"})
    reads = {each.name: list(each.input) for each in proto.graph.node}
    assert reads["fp32"] == ["a", "c"]
    assert reads["int8"] == ["d", "w"]


def test_a_pair_that_nobody_reads_goes() -> None:
    proto = pairs()
    read_originals(proto, set())
    assert [each.op_type for each in proto.graph.node] == ["Sigmoid", "MatMul", "Mul"]


def test_what_an_int8_op_wrote_is_read_as_it_is_left() -> None:
    proto = pairs()
    read_originals(proto, {"a", "int8"})
    assert {each.name: list(each.input) for each in proto.graph.node}["fp32"] == ["d", "c"]


def test_a_pair_that_leaves_the_model_stays() -> None:
    proto = pairs()
    proto.graph.output.append(onnx.helper.make_tensor_value_info("d", onnx.TensorProto.FLOAT, None))
    read_originals(proto, set())
    assert [each.op_type for each in proto.graph.node].count("DequantizeLinear") == 1
