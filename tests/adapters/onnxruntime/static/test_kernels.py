"""ONNX Runtime must find an integer kernel for every int8 op: the graph that it executes is read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest

from autotune.adapter import Array, Execution
from autotune.adapters.onnx.session import optimized_graph, optimized_op_counts
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from autotune.config import (
    MINMAX,
    Granularity,
    OpConfig,
    Precision,
    QuantizationConfig,
    QuantizedType,
    TensorScheme,
)
from tests.adapters.onnx.graphs import around, build, image_batches, node, normal
from tests.adapters.onnxruntime.saturating import EXACT_HERE

pytestmark = pytest.mark.numeric

ADAPTER = OnnxRuntimeAdapter()
BATCHES = image_batches()
PER_CHANNEL = TensorScheme(dtype=QuantizedType.S8, symmetric=True, granularity=Granularity.PER_CHANNEL)
U8 = TensorScheme(dtype=QuantizedType.U8)


def int8(activation: TensorScheme = U8) -> OpConfig:
    return OpConfig(precision=Precision.INT8, activation=activation, weight=PER_CHANNEL, calibration=MINMAX)


def candidate(proto: onnx.ModelProto, activation: TensorScheme = U8) -> tuple[OnnxModel, OnnxModel]:
    model = ADAPTER.load(proto)
    statistics = ADAPTER.calibrate(model, BATCHES, seed=0)
    return model, ADAPTER.apply(model, ADAPTER.space(model).uniform(int8(activation)), statistics)


def output(model: OnnxModel) -> Array:
    return ADAPTER.runner(model, Execution())(BATCHES[0])[0]


def sqnr_db(model: OnnxModel, quantized: OnnxModel) -> float:
    reference = output(model)
    noise = np.square(reference - output(quantized)).mean()
    return float(10 * np.log10(np.square(reference).mean() / noise))


def second_conv(name: str = "b") -> onnx.NodeProto:
    return node("Conv", "x w3 b1", name, pads=[1, 1, 1, 1])


def scalar(value: float) -> Array:
    return np.array(value, dtype=np.float32)


CASES: dict[str, tuple[Sequence[onnx.NodeProto], Mapping[str, Array], dict[str, int]]] = {
    "add": ([second_conv(), node("Add", "a b", "m")], {"w3": normal(8, 3, 3, 3, seed=4)}, {"QLinearAdd": 1}),
    "mul by a constant": (
        [node("AveragePool", "a", "p", kernel_shape=[2, 2]), node("Mul", "p c", "m")],
        {"c": scalar(-1.5)},
        {"QLinearAveragePool": 1, "QLinearMul": 1},
    ),
    "silu": ([node("Sigmoid", "a", "s"), node("Mul", "a s", "m")], {}, {"QLinearSigmoid": 1, "QLinearMul": 1}),
    "concat": (
        [second_conv(), node("Relu", "b", "r"), node("Concat", "a r", "m", axis=2)],
        {"w3": normal(8, 3, 3, 3, seed=4)},
        {"QLinearConcat": 1},
    ),
    "average pool": ([node("AveragePool", "a", "m", kernel_shape=[2, 2])], {}, {"QLinearAveragePool": 1}),
    "global average pool": ([node("GlobalAveragePool", "a", "m")], {}, {"QLinearGlobalAveragePool": 1}),
    "leaky relu": ([node("LeakyRelu", "a", "m", alpha=0.1)], {}, {"QLinearLeakyRelu": 1}),
    "softmax": ([node("Softmax", "a", "m", axis=1)], {}, {"QLinearSoftmax": 1}),
    "matmul": ([node("MatMul", "a c", "m")], {"c": normal(8, 8, seed=9)}, {"QLinearMatMul": 1}),
    "matmul of activations": ([node("MatMul", "a a", "m")], {}, {"QLinearMatMul": 1}),
    "relu": ([node("Relu", "a", "m")], {}, {}),
    "relu6": ([node("Clip", "a low high", "m")], {"low": scalar(0), "high": scalar(1)}, {}),
    "clip on both sides": ([node("Clip", "a low high", "m")], {"low": scalar(-0.7), "high": scalar(0.4)}, {}),
    "relu, max pool": (
        [node("Relu", "a", "r"), node("MaxPool", "r", "m", kernel_shape=[2, 2])],
        {},
        {"MaxPool": 1},
    ),
    "max pool, relu": (
        [node("MaxPool", "a", "p", kernel_shape=[2, 2]), node("Relu", "p", "m")],
        {},
        {"MaxPool": 1},
    ),
    "transpose": ([node("Transpose", "a", "m", perm=[0, 1, 3, 2])], {}, {"Transpose": 1}),
    "reshape": ([node("Reshape", "a shape", "m")], {"shape": np.array([-1, 8, 4, 16])}, {"Reshape": 1}),
    "slice": (
        [node("Slice", "a start end axis", "m")],
        {"start": np.array([0]), "end": np.array([4]), "axis": np.array([2])},
        {"Slice": 1},
    ),
    "split": ([node("Split", "a", "m1 m2", axis=2), node("Add", "m1 m2", "m")], {}, {"Split": 1, "QLinearAdd": 1}),
    "gather": ([node("Gather", "a index", "m", axis=2)], {"index": np.array([0, 1, 2])}, {"Gather": 1}),
}


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_no_stray_quantize_or_dequantize(case: str, symmetric: bool) -> None:
    middle, constants, expected = CASES[case]
    model, quantized = candidate(
        around(middle, "m", constants=constants), TensorScheme(dtype=QuantizedType.U8, symmetric=symmetric)
    )
    counts = optimized_op_counts(quantized.proto)
    convs = sum(n.op_type == "Conv" for n in model.proto.graph.node)
    assert counts == {"QuantizeLinear": 1, "QLinearConv": convs, **expected, "DequantizeLinear": 1}
    assert sqnr_db(model, quantized) > 28.0


def test_nearest_resize_follows_and_linear_resize_stays_fp32() -> None:
    for mode, nodes in (("nearest", 2), ("linear", 4)):
        resize = onnx.helper.make_node("Resize", ["a", "", "scales"], ["m"], name="m", mode=mode)
        _, quantized = candidate(around([resize], "m", constants={"scales": np.array([1, 1, 2, 2], dtype=np.float32)}))
        counts = optimized_op_counts(quantized.proto)
        assert counts["QuantizeLinear"] + counts["DequantizeLinear"] == nodes
        assert counts["QLinearConv"] == 2


def test_s8_fuses_along_a_chain() -> None:
    chain = around([node("Relu", "a", "m")], "m")
    for symmetric in (False, True):
        model, quantized = candidate(chain, TensorScheme(dtype=QuantizedType.S8, symmetric=symmetric))
        assert optimized_op_counts(quantized.proto) == {"QuantizeLinear": 1, "QLinearConv": 2, "DequantizeLinear": 1}
        assert sqnr_db(model, quantized) > 28.0


def test_head_keeps_its_output_in_fp32() -> None:
    nodes = [node("Flatten", "x", "f"), node("Gemm", "f w b", "y")]
    constants = {"w": normal(192, 10), "b": normal(10, seed=1)}
    _, quantized = candidate(build(nodes, {"x": ("N", 3, 8, 8)}, {"y": None}, constants))
    counts = optimized_op_counts(quantized.proto)
    assert counts["QGemm"] == 1
    assert counts["DequantizeLinear"] == 0


def test_relu_with_a_second_reader_before_it_stays() -> None:
    middle = [node("Relu", "a", "r"), node("Add", "a r", "m")]
    model, quantized = candidate(around(middle, "m"))
    assert optimized_op_counts(quantized.proto)["QLinearAdd"] == 1
    assert sqnr_db(model, quantized) > 28.0


def test_relu_that_a_subgraph_reads_across_stays() -> None:
    """A name from outside that an If reads must stay alive, although no node beside it reads it."""
    branches = [
        onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", [name], [f"{name}_out"])],
            name,
            [],
            [onnx.helper.make_tensor_value_info(f"{name}_out", onnx.TensorProto.FLOAT, None)],
        )
        for name in ("a", "r")
    ]
    middle = [
        node("Relu", "a", "r"),
        node("ReduceMax", "x", "top", keepdims=0),
        node("Greater", "top limit", "condition"),
        node("If", "condition", "m", then_branch=branches[0], else_branch=branches[1]),
    ]
    model, quantized = candidate(around(middle, "m", constants={"limit": scalar(0)}))
    assert sqnr_db(model, quantized) > 28.0


@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose", "Gemm"])
def test_fp32_op_between_int8_ops_stays_fp32(op_type: str) -> None:
    """ONNX Runtime would quantize its weight by itself."""
    if op_type == "Gemm":
        nodes = [
            node("Flatten", "x", "f"),
            node("Gemm", "f w1", "a"),
            node("Gemm", "f w2 b", "c"),
            node("Relu", "c", "m"),
            node("Gemm", "m w3", "second"),
        ]
        constants = {"w1": normal(192, 16), "w2": normal(192, 16, seed=1), "b": normal(16), "w3": normal(16, 4, seed=2)}
        proto = build(nodes, {"x": ("N", 3, 8, 8)}, {"second": None, "a": None}, constants)
    else:
        middle = [node(op_type, "a w3 b1", "c", pads=[1, 1, 1, 1]), node("Relu", "c", "m")]
        proto = around(middle, "m", constants={"w3": normal(8, 8, 3, 3, seed=5)})
    model = ADAPTER.load(proto)
    statistics = ADAPTER.calibrate(model, BATCHES, seed=0)
    int8_ops = QuantizationConfig(ops={"a": int8(), "second": int8()}, recipe=EXACT_HERE)
    quantized = ADAPTER.apply(model, int8_ops, statistics)
    counts = optimized_op_counts(quantized.proto)
    assert counts["QLinearConv"] + counts["QGemm"] == 2
    assert counts["Conv"] + counts["FusedConv"] + counts["ConvTranspose"] + counts["Gemm"] + counts["FusedGemm"] == 1
    assert counts["QuantizeLinear"] == 2
    # The fp32 Gemm's input was there in fp32 anyway.
    assert counts["DequantizeLinear"] == (0 if op_type == "Gemm" else 2)
    weights = {tensor.name for tensor in optimized_graph(quantized.proto).graph.initializer}
    assert not any("weight_q" in name for name in weights)
    assert sqnr_db(model, quantized) > 28.0


def test_keeping_an_op_in_fp32_lessens_the_error() -> None:
    middle = [node("Conv", "a w3", "c", pads=[1, 1, 1, 1]), node("Relu", "c", "m")]
    weight = normal(8, 8, 3, 3, seed=5) * np.logspace(-2, 1, 8, dtype=np.float32).reshape(8, 1, 1, 1)
    model = ADAPTER.load(around(middle, "m", constants={"w3": weight}))
    statistics = ADAPTER.calibrate(model, BATCHES, seed=0)
    per_tensor = OpConfig(
        precision=Precision.INT8,
        activation=U8,
        weight=TensorScheme(dtype=QuantizedType.S8, symmetric=True),
        calibration=MINMAX,
    )
    every = QuantizationConfig(ops={"a": int8(), "c": per_tensor, "second": int8()}, recipe=EXACT_HERE)
    without = every.replace({"c": OpConfig()})
    errors = [-sqnr_db(model, ADAPTER.apply(model, config, statistics)) for config in (every, without)]
    assert errors[1] < errors[0] - 0.1


def test_relu_before_concat_and_before_average_pool_keeps_its_meaning() -> None:
    """A Relu disappears into a range; a range that is shared across Concat or an average would cut something else."""
    third = {"w3": normal(8, 3, 3, 3, seed=4)}
    pooled = [node("AveragePool", "a", "p", kernel_shape=[2, 2]), node("Relu", "p", "m")]
    both = [
        node("Relu", "a", "ra"),
        second_conv(),
        node("Relu", "b", "rb"),
        node("Concat", "ra rb", "m", axis=2),
    ]
    for middle, constants in ((pooled, {}), (both, third)):
        model, quantized = candidate(around(middle, "m", constants=constants))
        assert sqnr_db(model, quantized) > 28.0
        assert optimized_op_counts(quantized.proto)["QuantizeLinear"] == 1
