"""Weight-only quantization computes what its blocks stand for, and makes models small."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.adapter import Array, Execution
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from autotune.adapters.onnxruntime.session import optimized_op_counts
from autotune.adapters.onnxruntime.weight_only import BLOCK, pack_blocks
from autotune.calibration import CalibrationStatistics
from autotune.config import OpConfig, Precision, QuantizationConfig
from tests.adapters.onnxruntime.graphs import build, node, normal

ADAPTER = OnnxRuntimeAdapter()
NOTHING = CalibrationStatistics({}, 0)
KINDS = [Precision.INT8_WEIGHT, Precision.INT4_WEIGHT]


def products(inputs: int = 300, outputs: int = 256) -> OnnxModel:
    """A MatMul and a Gemm with a bias."""
    nodes = [node("MatMul", "x w", "m"), node("Gemm", "m v b", "y", transB=1)]
    constants = {"w": normal(inputs, outputs), "v": normal(300, outputs, seed=1), "b": normal(300, seed=2)}
    return ADAPTER.load(build(nodes, {"x": ("N", inputs)}, {"y": ("N", 300)}, constants))


def output(model: OnnxModel, x: Array) -> Array:
    return ADAPTER.runner(model, Execution())({"x": x})[0]


def unpacked(integers: Array, scales: Array, zero_points: Array, bits: int, inputs: int) -> Array:
    """The matrix that the blocks stand for."""
    if bits == 4:
        integers = np.stack([integers & 15, integers >> 4], axis=-1).reshape(*integers.shape[:2], -1)
        zero_points = np.stack([zero_points & 15, zero_points >> 4], axis=-1).reshape(len(zero_points), -1)
    zero_points = zero_points[:, : scales.shape[1]]
    values = (integers.astype(np.float32) - zero_points[..., None].astype(np.float32)) * scales[..., None]
    return np.asarray(values.reshape(len(values), -1)[:, :inputs])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("inputs", [BLOCK, 3 * BLOCK, 70])
def test_no_value_is_off_by_more_than_half_a_step(bits: int, inputs: int) -> None:
    columns = normal(10, inputs)
    integers, scales, zero_points = pack_blocks(columns, bits)
    error = np.abs(unpacked(integers, scales, zero_points, bits, inputs) - columns)
    # Zero points are whole numbers, which shifts a block's ends by up to another half.
    assert (error <= 1.01 * np.repeat(scales, BLOCK, axis=1)[:, :inputs]).all()
    assert error.mean() < 0.3 * scales.mean()


@pytest.mark.parametrize("precision", KINDS)
def test_kernel_computes_with_the_blocks(precision: Precision) -> None:
    model = products()
    candidate = ADAPTER.apply(model, QuantizationConfig(ops={"m": OpConfig(precision=precision)}), NOTHING)
    assert optimized_op_counts(candidate.proto)["MatMulNBits"] == 1
    x = normal(3, 300, seed=5, scale=1.0)
    bits = 4 if precision is Precision.INT4_WEIGHT else 8
    weight = unpacked(*pack_blocks(np.ascontiguousarray(normal(300, 256).T), bits), bits, 300).T
    expected = x @ weight @ normal(300, 256, seed=1).T + normal(300, seed=2)
    # The kernel rounds activations to 8 bits, block by block.
    assert np.abs(output(candidate, x) - expected).max() < 0.03 * np.abs(expected).max()


@pytest.mark.parametrize("precision", KINDS)
def test_model_gets_smaller(precision: Precision) -> None:
    model = products()
    ops = dict.fromkeys(("m", "y"), OpConfig(precision=precision))
    candidate = ADAPTER.apply(model, QuantizationConfig(ops=ops), NOTHING)
    assert optimized_op_counts(candidate.proto)["MatMulNBits"] == 2
    assert candidate.size_bytes < (0.35 if precision is Precision.INT8_WEIGHT else 0.2) * model.size_bytes
    x = normal(3, 300, seed=5, scale=1.0)
    error = np.abs(output(candidate, x) - output(model, x)).max() / np.abs(output(model, x)).max()
    assert error < (0.03 if precision is Precision.INT8_WEIGHT else 0.15)


def test_large_matrices_only() -> None:
    large = ADAPTER.space(products()).by_name["m"]
    assert all(large.space_of(precision) is not None for precision in KINDS)
    small = ADAPTER.space(products(inputs=100)).by_name["m"]
    assert all(small.space_of(precision) is None for precision in KINDS)
