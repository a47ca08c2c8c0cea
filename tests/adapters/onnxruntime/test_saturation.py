from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.adapter import Array, Execution
from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnx.session import optimized_op_counts
from autotune.adapters.onnxruntime import OnnxRuntimeAdapter
from autotune.adapters.onnxruntime.dynamic.quantize import DYNAMIC_KERNEL
from autotune.adapters.onnxruntime.saturation import saturating_ops
from autotune.calibration import CalibrationStatistics
from autotune.config import (
    MINMAX,
    MSE,
    BiasCorrection,
    CalibrationMethod,
    Granularity,
    OpConfig,
    Precision,
    QuantizationConfig,
    QuantizedType,
    Recipe,
    SmoothQuant,
    TensorScheme,
    WeightRounding,
)
from tests.adapters.onnx.graphs import build, image_batches, node, normal, small_cnn
from tests.adapters.onnx.transformers import small_transformer, token_batches
from tests.adapters.onnxruntime.saturating import integer_product, patches

pytestmark = pytest.mark.numeric

Weight = npt.NDArray[np.int8]


def one_op(op_type: str, weight: npt.NDArray[np.generic], shape: list[int], **attributes: Any) -> OnnxModel:
    """An op between DequantizeLinears, with this integer weight."""
    constants = [
        numpy_helper.from_array(weight, "w"),
        numpy_helper.from_array(np.zeros((), weight.dtype), "w_zero"),
        numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
        numpy_helper.from_array(np.array(0, np.uint8), "zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dx"]),
        helper.make_node("DequantizeLinear", ["w", "scale", "w_zero"], ["dw"]),
        helper.make_node(op_type, ["dx", "dw"], ["y"], "op", **attributes),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "one", inputs, outputs, constants)
    return OnnxModel(proto=helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))


def column(*values: int) -> Weight:
    return np.array(values, np.int8)[:, None]


@pytest.mark.parametrize(
    ("weight", "at_risk"),
    [
        (column(64, 64, -64, -64), False),  # 7 bits: 2 x 255 x 64 = 32,640
        (column(64, 65, 0, 0), True),  # 255 x 129 = 32,895
        (column(127, 1), False),  # 255 x 128 = 32,640
        (column(127, -127, 127, -127), False),  # products of opposite signs cannot exceed one of them
        (column(-127, -2), True),  # -32,895
        (column(-64, -64), False),
        (column(127, 0, 127, 0), False),  # never neighbours
        (column(0, 127, 127, 0), True),  # which neighbour begins a pair depends on the packing
        (column(127), False),  # nothing to add it to
    ],
)
def test_two_neighbouring_weights_decide(weight: Weight, at_risk: bool) -> None:
    model = one_op("MatMul", weight, [1, len(weight)])
    assert saturating_ops(model) == (("op",) if at_risk else ())
    transposed = one_op("Gemm", np.ascontiguousarray(weight.T), [1, len(weight)], transB=1)
    assert saturating_ops(transposed) == saturating_ops(model)


def test_the_check_is_the_arithmetic_of_the_instruction() -> None:
    """Against all activations at their two extremes, for random pairs of weights."""
    rng = np.random.default_rng(0)
    for pair in rng.integers(-128, 128, (200, 2)):
        sums = [a * int(pair[0]) + b * int(pair[1]) for a in (0, 255) for b in (0, 255)]
        saturates = min(sums) < -32768 or max(sums) > 32767
        model = one_op("MatMul", pair.astype(np.int8)[:, None], [1, 2])
        assert bool(saturating_ops(model)) == saturates, pair


def test_channels_of_one_position_are_neighbours_in_a_convolution() -> None:
    along_channels = np.zeros((1, 2, 1, 3), np.int8)
    along_channels[0, :, 0, 1] = 100
    along_width = np.zeros((1, 2, 1, 3), np.int8)
    along_width[0, 0, 0, :2] = 100  # the other channel, which is zero, lies between them
    assert saturating_ops(one_op("Conv", along_channels, [1, 2, 4, 4])) == ("op",)
    assert saturating_ops(one_op("Conv", along_width, [1, 2, 4, 4])) == ()


def test_depthwise_convolutions_and_u8_weights_are_widened_before_they_are_multiplied() -> None:
    depthwise = np.full((4, 1, 3, 3), 127, np.int8)
    assert saturating_ops(one_op("Conv", depthwise, [1, 4, 8, 8], group=4)) == ()
    assert saturating_ops(one_op("MatMul", np.full((4, 4), 255, np.uint8), [1, 4])) == ()


def test_dynamic_int8_is_checked_by_the_same_rule_under_the_ops_own_name() -> None:
    for weight, expected in ((column(100, 100), ("op",)), (column(64, 64), ())):
        constants = [numpy_helper.from_array(weight, "w")]
        nodes = [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
            helper.make_node("MatMulInteger", ["q", "w", "zero"], ["y"], f"op{DYNAMIC_KERNEL}"),
        ]
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])]
        outputs = [helper.make_tensor_value_info("y", TensorProto.INT32, None)]
        graph = helper.make_graph(nodes, "dynamic", inputs, outputs, constants)
        assert saturating_ops(OnnxModel(proto=helper.make_model(graph))) == expected


def test_an_op_in_fp32_is_at_no_risk(network: onnx.ModelProto) -> None:
    assert saturating_ops(OnnxModel(proto=network)) == ()


@pytest.mark.parametrize(("dtype", "expected"), [(np.int8, ("op",)), (np.uint8, ())])
def test_a_product_of_two_activations_is_at_risk_where_the_second_is_s8(
    dtype: type[np.generic], expected: tuple[str, ...]
) -> None:
    constants = [
        numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
        numpy_helper.from_array(np.zeros((), dtype), "zero"),
        numpy_helper.from_array(np.array([0, 2, 1], np.int64), "unused"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Transpose", ["q"], ["t"], perm=[0, 2, 1]),
        helper.make_node("DequantizeLinear", ["t", "scale", "zero"], ["dt"]),
        helper.make_node("MatMul", ["d", "dt"], ["y"], "op"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 4])]
    graph = helper.make_graph(nodes, "two", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    assert saturating_ops(OnnxModel(proto=model)) == expected


ADAPTER = OnnxRuntimeAdapter()
PER_CHANNEL = TensorScheme(dtype=QuantizedType.S8, symmetric=True, granularity=Granularity.PER_CHANNEL)
PER_TENSOR = TensorScheme(dtype=QuantizedType.S8, symmetric=True)
MATMULS = ("MatMul", "Gemm")
NOTHING = CalibrationStatistics({}, 0)


def random_integers(*shape: int, seed: int = 0) -> Array:
    """Weights of which most pairs can saturate, and some do not."""
    return np.random.default_rng(seed).choice(np.array([127, 100, 64, 1, -64, -127], np.int8), shape)


def random_activations(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).choice(np.array([0, 1, 128, 200, 255], np.uint8), shape)


def run_integers(nodes: Sequence[onnx.NodeProto], x: Array, constants: dict[str, Array]) -> Array:
    """The first output of nodes that read ``x``, u8."""
    proto = build(nodes, {"x": x.shape}, {"y": None}, constants, elem_type=TensorProto.UINT8)
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.INT32, None))
    if nodes[-1].op_type == "QLinearConv":
        proto.graph.output[0].type.tensor_type.elem_type = TensorProto.UINT8
    return ADAPTER.runner(OnnxModel(proto=proto), Execution())({"x": x})[0]


@pytest.mark.parametrize("summed", [2, 5, 37, 64, 300])
@pytest.mark.parametrize("count", [1, 7])
def test_products_are_what_this_cpu_is_said_to_compute(summed: int, count: int) -> None:
    """The emulation that other tests rely on, with saturation or without, and by which host the CPU is one of those."""
    x, weight = random_activations(count, summed), random_integers(summed, 19)
    found = run_integers([node("MatMulInteger", "x w", "y")], x, {"w": weight})
    np.testing.assert_array_equal(found, integer_product(x, weight))


def convolved(x: Array, weight: Array, scale: float, **attributes: Any) -> Array:
    """QLinearConv with zero points of 0 and an output around 128, in steps of ``scale`` sums."""
    constants: dict[str, Array] = {
        "one": np.array(1, np.float32),
        "zero": np.array(0, np.uint8),
        "w": weight,
        "w_zero": np.array(0, np.int8),
        "scale": np.array(scale, np.float32),
        "middle": np.array(128, np.uint8),
    }
    inputs = "x one zero w one w_zero scale middle"
    return run_integers([node("QLinearConv", inputs, "y", **attributes)], x, constants)


@pytest.mark.parametrize("channels", [3, 4, 8, 16])
def test_convolutions_sum_channels_of_one_position_first(channels: int) -> None:
    x, weight = random_activations(2, channels, 6, 7), random_integers(8, channels, 3, 3)
    columns = weight.transpose(2, 3, 1, 0).reshape(-1, 8)
    sums = integer_product(patches(x, (3, 3)), columns).reshape(2, 4, 5, 8).transpose(0, 3, 1, 2)
    scale = float(np.abs(sums).max() / 120)
    found = convolved(x, weight, scale).astype(int)
    assert np.abs(found - (np.rint(sums / scale) + 128)).max() <= 1


@pytest.mark.parametrize("kernel", [(3,), (3, 3), (5, 5), (2, 4), (3, 3, 3)])
def test_depthwise_convolutions_are_exact_on_every_cpu(kernel: tuple[int, ...]) -> None:
    shape = [8] * len(kernel)
    x = np.full((1, 16, *shape), 255, np.uint8)
    weight = np.full((16, 1, *kernel), 127, np.int8)
    total = 255 * 127 * int(np.prod(kernel))
    assert (convolved(x, weight, total / 100, group=16) == 228).all()


def convolution_cases() -> dict[str, Recipe]:
    full, gptq = BiasCorrection.FULL, WeightRounding.GPTQ
    return {
        "plain": Recipe(bound_pairs=True),
        "equalization": Recipe(bound_pairs=True, equalization=True),
        "full bias correction": Recipe(bound_pairs=True, bias_correction=full),
        "GPTQ": Recipe(bound_pairs=True, weight_rounding=gptq),
        "all": Recipe(bound_pairs=True, equalization=True, bias_correction=full, weight_rounding=gptq),
    }


def static(weight: TensorScheme, method: CalibrationMethod = CalibrationMethod.MINMAX) -> OpConfig:
    activation = TensorScheme(dtype=QuantizedType.U8)
    algorithm = MSE if method is CalibrationMethod.MSE else MINMAX
    return OpConfig(precision=Precision.INT8, activation=activation, weight=weight, calibration=algorithm)


def integer_weights(model: OnnxModel) -> dict[str, Array]:
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.proto.graph.initializer
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) > 1
    }


@pytest.mark.parametrize("weight", [PER_CHANNEL, PER_TENSOR])
@pytest.mark.parametrize("method", [CalibrationMethod.MINMAX, CalibrationMethod.MSE])
@pytest.mark.parametrize("case", convolution_cases())
def test_whatever_alters_weights_leaves_pairs_within_the_bound(
    case: str, method: CalibrationMethod, weight: TensorScheme
) -> None:
    model = ADAPTER.load(small_cnn())
    statistics = ADAPTER.calibrate(model, image_batches(), seed=0)
    config = QuantizationConfig(
        ops={op.name: static(weight, method) for op in ADAPTER.space(model).ops}, recipe=convolution_cases()[case]
    )
    candidate = ADAPTER.apply(model, config, statistics)
    assert ADAPTER.saturating_ops(candidate) == ()
    seven = dataclasses.replace(config.recipe, bound_pairs=False, reduce_range=True)
    narrow = ADAPTER.apply(model, dataclasses.replace(config, recipe=seven), statistics)
    assert optimized_op_counts(candidate.proto) == optimized_op_counts(narrow.proto)  # as fast
    free = ADAPTER.apply(model, QuantizationConfig(ops=config.ops), statistics)
    assert len(ADAPTER.saturating_ops(free)) >= 3
    largest = {name: np.abs(values.astype(int)).max() for name, values in integer_weights(candidate).items()}
    assert max(largest.values()) > 64  # more than 7 bits
    depthwise = [name for name, values in integer_weights(candidate).items() if values.shape[1:] == (1, 3, 3)]
    assert [largest[name] for name in depthwise] == [127]  # cannot saturate, so that nothing is taken from it


@pytest.mark.parametrize("weight", [PER_CHANNEL, PER_TENSOR])
@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT8_DYNAMIC])
def test_matmuls_of_a_transformer_stay_within_the_bound(precision: Precision, weight: TensorScheme) -> None:
    model = ADAPTER.load(small_transformer())
    choice = static(weight) if precision is Precision.INT8 else OpConfig(precision=precision, weight=weight)
    ops = {op.name: choice for op in ADAPTER.space(model).ops if op.space_of(precision) and op.op_type in MATMULS}
    statistics = ADAPTER.calibrate(model, token_batches(), seed=0) if precision is Precision.INT8 else NOTHING
    for rounding in WeightRounding:
        for smooth in (SmoothQuant.NONE, SmoothQuant.HALF):
            recipe = Recipe(bound_pairs=True, weight_rounding=rounding, smooth_quant=smooth)
            candidate = ADAPTER.apply(model, QuantizationConfig(ops=ops, recipe=recipe), statistics)
            assert ADAPTER.saturating_ops(candidate) == ()
            assert max(np.abs(each.astype(int)).max() for each in integer_weights(candidate).values()) > 64


def test_bounded_pairs_are_nearer_to_fp32_than_seven_bits() -> None:
    """The same integers on every CPU, so that the comparison holds on every CPU."""
    weight, x = normal(96, 32), normal(64, 96, seed=1, scale=1.0)
    model = ADAPTER.load(build([node("MatMul", "x w", "y")], {"x": ("N", 96)}, {"y": ("N", 32)}, {"w": weight}))
    choice = OpConfig(precision=Precision.INT8_DYNAMIC, weight=PER_CHANNEL)
    noise = []
    for recipe in (Recipe(bound_pairs=True), Recipe(reduce_range=True)):
        candidate = ADAPTER.apply(model, QuantizationConfig(ops={"y": choice}, recipe=recipe), NOTHING)
        weights = integer_weights(candidate)
        (integers,) = weights.values()
        scales = next(numpy_helper.to_array(t) for t in candidate.proto.graph.initializer if t.name.endswith("/scale"))
        noise.append(10 * np.log10(np.square(integers * scales - weight).mean()))
        assert np.square(ADAPTER.runner(candidate, Execution())({"x": x})[0] - x @ weight).mean() < 0.01
    assert noise[1] - noise[0] > 2.0
