"""Weight-only quantization computes what its blocks stand for, makes models small, and rounds as well as others do."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnxruntime.capi._pybind_state import quantize_matmul_4bits, quantize_matmul_8bits
from onnxruntime.quantization.neural_compressor.weight_only import gptq, qdq_tensor

from autotune.adapter import Array, Execution, Feeds
from autotune.adapters.onnx.session import optimized_op_counts
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from autotune.adapters.onnxruntime.weight_only import BLOCK, pack_blocks
from autotune.algorithms.blocks import block_grid, round_to_grid, values_of
from autotune.algorithms.gptq import matmul_moments, round_by_gptq
from autotune.calibration import CalibrationStatistics
from autotune.config import FP32, OpConfig, Precision, QuantizationConfig, Recipe, WeightOnly
from autotune.errors import ApplyError
from tests.adapters.onnx.graphs import build, node, normal

ADAPTER = OnnxRuntimeAdapter()
NOTHING = CalibrationStatistics({}, 0)
KINDS = [Precision.INT8_WEIGHT, Precision.INT4_WEIGHT]
RTN, HQQ, GPTQ = WeightOnly.RTN, WeightOnly.HQQ, WeightOnly.GPTQ


def matmuls(inputs: int = 300, outputs: int = 256) -> OnnxModel:
    """A MatMul and a Gemm with a bias."""
    nodes = [node("MatMul", "x w", "m"), node("Gemm", "m v b", "y", transB=1)]
    constants = {"w": normal(inputs, outputs), "v": normal(300, outputs, seed=1), "b": normal(300, seed=2)}
    return ADAPTER.load(build(nodes, {"x": ("N", inputs)}, {"y": ("N", 300)}, constants))


def correlated(count: int, inputs: int, seed: int = 5) -> Array:
    """Inputs as layers see them: a few directions carry most of their energy."""
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((count, 24)) @ np.random.default_rng(1).standard_normal((24, inputs))
    return (mixed + 0.3 * random.standard_normal((count, inputs))).astype(np.float32)


def batches(inputs: int = 300) -> list[Feeds]:
    return [{"x": correlated(64, inputs, seed)} for seed in range(16)]


def output(model: OnnxModel, x: Array) -> Array:
    return ADAPTER.runner(model, Execution())({"x": x})[0]


def error_of(rounded: Array, rows: Array, inputs: Array) -> float:
    """Squared error of the product over its square."""
    return float(np.square(inputs @ (rounded - rows).T).sum() / np.square(inputs @ rows.T).sum())


def nearest(rows: Array, bits: int, algorithm: WeightOnly = RTN, block: int = 32) -> Array:
    grid = block_grid(rows, bits, block, algorithm)
    return values_of(round_to_grid(rows, grid), grid, rows.shape[1])


def by_gptq(rows: Array, inputs: Array, bits: int, block: int = 32) -> Array:
    grid = block_grid(rows, bits, block, GPTQ)
    scales, zero_points = (
        np.repeat(each, block, axis=1)[None, :, : rows.shape[1]] for each in (grid.scales, grid.zero_points)
    )
    rounded: Array = round_by_gptq(rows[None], scales, zero_points, matmul_moments([inputs]), (0, 2**bits - 1))
    return np.asarray(rounded[0])


def unpacked(integers: Array, scales: Array, zero_points: Array, bits: int, inputs: int) -> Array:
    """The matrix that the blocks stand for."""
    if bits == 4:
        integers = np.stack([integers & 15, integers >> 4], axis=-1).reshape(*integers.shape[:2], -1)
        zero_points = np.stack([zero_points & 15, zero_points >> 4], axis=-1).reshape(len(zero_points), -1)
    zero_points = zero_points[:, : scales.shape[1]]
    values = (integers.astype(np.float32) - zero_points[..., None].astype(np.float32)) * scales[..., None]
    return np.asarray(values.reshape(len(values), -1)[:, :inputs])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("inputs", [32, 3 * 32, 70])
def test_no_value_is_off_by_more_than_half_a_step(bits: int, inputs: int) -> None:
    rows = normal(10, inputs)
    integers, scales, zero_points = pack_blocks(rows, block_grid(rows, bits, 32, RTN))
    error = np.abs(unpacked(integers, scales, zero_points, bits, inputs) - rows)
    # Zero points are whole numbers, which shifts a block's ends by up to another half.
    assert (error <= 1.01 * np.repeat(scales, 32, axis=1)[:, :inputs]).all()
    assert error.mean() < 0.3 * scales.mean()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [32, 128])
def test_as_accurate_as_the_rounding_that_onnx_runtime_ships(bits: int, block: int) -> None:
    inputs, outputs = 256, 64
    rows, x = normal(outputs, inputs), correlated(500, inputs)
    count = inputs // block
    integers = np.zeros((outputs, count, block * bits // 8), np.uint8)
    scales, zero_points = np.zeros((outputs, count), np.float32), np.zeros((outputs, count * bits // 8), np.uint8)
    kernel = quantize_matmul_4bits if bits == 4 else quantize_matmul_8bits
    kernel(integers, np.ascontiguousarray(rows.T), scales, zero_points, block, outputs, inputs, False)
    shipped = error_of(unpacked(integers, scales, zero_points, bits, inputs), rows, x)
    own, _, _ = pack_blocks(rows, block_grid(rows, bits, block, RTN))
    # The same but for a few values halfway between two integers.
    assert (own == integers).mean() > 0.99
    assert error_of(nearest(rows, bits, RTN, block), rows, x) == pytest.approx(shipped, rel=0.02)
    assert (
        np.square(nearest(rows, bits, HQQ, block) - rows).sum()
        < np.square(nearest(rows, bits, RTN, block) - rows).sum()
    )


@pytest.mark.parametrize("bits", [4, 8])
def test_gptq_is_more_accurate_than_the_one_that_onnx_runtime_ships(bits: int) -> None:
    rows, x = normal(64, 256), correlated(2000, 256)
    moments = np.asarray(x.T @ x / len(x), np.float64)
    theirs = gptq(rows.T.copy(), moments, num_bits=bits, group_size=32).T
    # Its weights are rounded once more, on the grid of their own ends, since these are stored.
    stored = np.asarray(qdq_tensor(np.ascontiguousarray(theirs), bits, 32, "asym", "uint")).reshape(rows.shape)
    ours, fresh = by_gptq(rows, x, bits), correlated(500, 256, seed=9)
    assert error_of(ours, rows, fresh) < min(error_of(theirs, rows, fresh), error_of(stored, rows, fresh))
    assert error_of(ours, rows, fresh) < 0.5 * error_of(nearest(rows, bits, HQQ), rows, fresh)


@pytest.mark.parametrize("precision", KINDS)
def test_kernel_computes_with_the_blocks(precision: Precision) -> None:
    model = matmuls()
    candidate = ADAPTER.apply(model, QuantizationConfig(ops={"m": OpConfig(precision=precision)}), NOTHING)
    assert optimized_op_counts(candidate.proto)["MatMulNBits"] == 1
    x = normal(3, 300, seed=5, scale=1.0)
    bits = 4 if precision is Precision.INT4_WEIGHT else 8
    rows = np.ascontiguousarray(normal(300, 256).T)
    weight = nearest(rows, bits, RTN, BLOCK[bits]).T
    expected = x @ weight @ normal(300, 256, seed=1).T + normal(300, seed=2)
    # The kernel rounds activations to 8 bits, block by block.
    assert np.abs(output(candidate, x) - expected).max() < 0.03 * np.abs(expected).max()


@pytest.mark.parametrize("precision", KINDS)
def test_gptq_lessens_the_error_of_the_model(precision: Precision) -> None:
    model = matmuls()
    statistics = ADAPTER.calibrate(model, batches(), seed=0)
    ops = dict.fromkeys(("m", "y"), OpConfig(precision=precision))
    x = correlated(500, 300, seed=99)
    errors = {}
    for algorithm in WeightOnly:
        config = QuantizationConfig(ops=ops, recipe=Recipe(weight_only=algorithm))
        candidate = ADAPTER.apply(model, config, statistics)
        assert optimized_op_counts(candidate.proto)["MatMulNBits"] == 2
        assert candidate.notes == model.notes
        errors[algorithm] = float(np.square(output(candidate, x) - output(model, x)).mean())
    # With 8 bits, what the kernel makes of the activations outweighs what is done to the weights.
    assert errors[GPTQ] < (0.5 if precision is Precision.INT4_WEIGHT else 1.02) * errors[RTN]


@pytest.mark.parametrize("precision", KINDS)
def test_model_gets_smaller(precision: Precision) -> None:
    model = matmuls()
    ops = dict.fromkeys(("m", "y"), OpConfig(precision=precision))
    candidate = ADAPTER.apply(model, QuantizationConfig(ops=ops), NOTHING)
    assert optimized_op_counts(candidate.proto)["MatMulNBits"] == 2
    assert candidate.size_bytes < (0.35 if precision is Precision.INT8_WEIGHT else 0.2) * model.size_bytes
    x = normal(3, 300, seed=5, scale=1.0)
    error = np.abs(output(candidate, x) - output(model, x)).max() / np.abs(output(model, x)).max()
    assert error < (0.03 if precision is Precision.INT8_WEIGHT else 0.15)


def test_large_matrices_only() -> None:
    large = ADAPTER.space(matmuls())
    assert all(large.by_name["m"].space_of(precision) is not None for precision in KINDS)
    assert set(large.recipe.weight_only) == set(WeightOnly)
    small = ADAPTER.space(matmuls(inputs=100)).by_name["m"]
    assert all(small.space_of(precision) is None for precision in KINDS)


def test_without_samples_or_with_a_shared_matrix_gptq_leaves_a_note() -> None:
    nodes = [node("MatMul", "x w", "m"), node("MatMul", "m w", "y")]
    shared = ADAPTER.load(build(nodes, {"x": ("N", 300)}, {"y": ("N", 300)}, {"w": normal(300, 300)}))
    recipe = Recipe(weight_only=GPTQ)
    four = OpConfig(precision=Precision.INT4_WEIGHT)
    candidate = ADAPTER.apply(shared, QuantizationConfig(ops={"m": four, "y": four}, recipe=recipe), NOTHING)
    assert any("GPTQ leaves the weights of 'm', 'y'" in note for note in candidate.notes)
    assert sum(t.name.endswith("integers") for t in candidate.proto.graph.initializer) == 1
    assert output(candidate, normal(2, 300)).shape == (2, 300)
    candidate = ADAPTER.apply(matmuls(), QuantizationConfig(ops={"m": four}, recipe=recipe), NOTHING)
    assert any("GPTQ need calibration samples" in note for note in candidate.notes)


def table(rows: int = 300, values: int = 256, **attributes: int) -> onnx.ModelProto:
    """Token ids through an embedding table into a classifier."""
    nodes = [node("Gather", "table ids", "e", **attributes), node("MatMul", "e w", "y")]
    constants = {"table": normal(rows, values, scale=1.0), "w": normal(values, 3, seed=1)}
    proto = build(nodes, {"ids": ("N", "T")}, {"y": None}, constants)
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    return proto


def tokens(rows: int = 300) -> Array:
    ids: Array = np.random.default_rng(3).integers(0, rows, (2, 9))
    ids[0, 0], ids[1, 0] = -1, rows - 1
    return ids


def looked_up(model: OnnxModel, ids: Array) -> Array:
    return ADAPTER.runner(model, Execution())({"ids": ids})[0]


@pytest.mark.parametrize(("precision", "bits"), [(KINDS[0], 8), (KINDS[1], 4)])
@pytest.mark.parametrize("values", [256, 250, 302])
@pytest.mark.parametrize("algorithm", list(WeightOnly))
def test_table_is_read_in_blocks(precision: Precision, bits: int, values: int, algorithm: WeightOnly) -> None:
    model = ADAPTER.load(table(values=values))
    config = QuantizationConfig(ops={"e": OpConfig(precision=precision)}, recipe=Recipe(weight_only=algorithm))
    candidate = ADAPTER.apply(model, config, NOTHING)
    assert optimized_op_counts(candidate.proto)["GatherBlockQuantized"] == 1
    rows = nearest(normal(300, values, scale=1.0), bits, algorithm, BLOCK[bits])
    expected = rows[tokens()] @ normal(values, 3, seed=1)
    np.testing.assert_allclose(looked_up(candidate, tokens()), expected, rtol=1e-3, atol=1e-4)
    assert candidate.size_bytes < (0.3 if bits == 8 else 0.2) * model.size_bytes


@pytest.mark.parametrize("precision", KINDS)
@pytest.mark.parametrize("shape", [(300, 4, 64), (300, 3, 120), (2000, 40)])
def test_stacks_and_short_rows(shape: tuple[int, ...], precision: Precision) -> None:
    proto = build([node("Gather", "table ids", "y")], {"ids": ("N", "T")}, {"y": None}, {"table": normal(*shape)})
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT32
    model = ADAPTER.load(proto)
    candidate = ADAPTER.apply(model, QuantizationConfig(ops={"y": OpConfig(precision=precision)}), NOTHING)
    ids = tokens().astype(np.int32)
    expected, actual = looked_up(model, ids), looked_up(candidate, ids)
    assert actual.shape == expected.shape
    error = np.square(actual - expected).mean() / np.square(expected).mean()
    assert error < (1e-4 if precision is Precision.INT8_WEIGHT else 0.01)


def test_table_prefers_fp32_and_offers_four_bits_to_rows_in_pairs() -> None:
    space = ADAPTER.space(ADAPTER.load(table()))
    assert [each.precision for each in space.by_name["e"].precisions] == [Precision.FP32, *KINDS]
    assert space.preferred["e"] == FP32
    for values in (257, 9 * 32):  # values, or blocks, that cannot be paired
        odd = ADAPTER.space(ADAPTER.load(table(values=values))).by_name["e"]
        assert [each.precision for each in odd.precisions] == [Precision.FP32, Precision.INT8_WEIGHT]


def test_profile_knows_tables() -> None:
    model = ADAPTER.load(table())
    candidate = ADAPTER.apply(model, QuantizationConfig(ops={"e": OpConfig(precision=KINDS[1])}), NOTHING)
    before, after = ADAPTER.op_seconds([model, candidate], {"ids": tokens()}, Execution())
    assert before["e"] > 0.0
    assert after["e"] > 0.0


def test_two_readers_of_a_table_share_it() -> None:
    proto = table()
    proto.graph.node.append(node("Gather", "table ids", "again"))
    proto.graph.output.append(onnx.ValueInfoProto(name="again"))
    proto.graph.output[-1].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    model = ADAPTER.load(proto)
    gathers = [op.name for op in ADAPTER.space(model).ops if op.op_type == "Gather"]
    candidate = ADAPTER.apply(
        model, QuantizationConfig(ops=dict.fromkeys(gathers, OpConfig(precision=KINDS[0]))), NOTHING
    )
    assert sum(t.name.endswith("integers") for t in candidate.proto.graph.initializer) == 1
    assert "table" not in {t.name for t in candidate.proto.graph.initializer}
    assert looked_up(candidate, tokens()).shape == (2, 9, 3)


def left_out(proto: onnx.ModelProto) -> str:
    """The notes of a model none of whose Gather nodes is offered."""
    model = ADAPTER.load(proto)
    assert not any(op.op_type == "Gather" for op in ADAPTER.space(model).ops)
    return "\n".join(model.notes)


def test_tables_that_are_left_as_they_are() -> None:
    assert "along the first axis" in left_out(table(256, 300, axis=1))
    assert "Gather" not in left_out(table(rows=10))  # small: nothing to gain, nothing to say
    others = table()
    others.graph.node.append(node("Add", "table offset", "shifted"))
    others.graph.input.append(onnx.helper.make_tensor_value_info("offset", onnx.TensorProto.FLOAT, [1]))
    others.graph.output.append(onnx.helper.make_tensor_value_info("shifted", onnx.TensorProto.FLOAT, None))
    assert "stored twice" in left_out(others)
    half = table()
    constant = next(t for t in half.graph.initializer if t.name == "table")
    constant.CopyFrom(onnx.numpy_helper.from_array(normal(300, 256).astype(np.float16), "table"))
    half.graph.node[0].output[0] = "e16"
    half.graph.node.insert(1, node("Cast", "e16", "e", to=onnx.TensorProto.FLOAT))
    assert "its table is float16, not float32" in left_out(half)


def test_tables_that_are_not_finite() -> None:
    proto = table()
    values = normal(300, 256)
    values[5, 6] = np.nan
    next(t for t in proto.graph.initializer if t.name == "table").CopyFrom(
        onnx.numpy_helper.from_array(values, "table")
    )
    with pytest.raises(ApplyError, match="'table' is not"):
        ADAPTER.apply(ADAPTER.load(proto), QuantizationConfig(ops={"e": OpConfig(precision=KINDS[0])}), NOTHING)


def test_table_made_at_run_time_is_no_table() -> None:
    nodes = [node("MatMul", "x w", "t"), node("Gather", "t ids", "y")]
    proto = build(nodes, {"x": ("N", 300)}, {"y": None}, {"w": normal(300, 300), "ids": np.array([1, 2])})
    assert "Gather" not in left_out(proto)  # it goes along with what it reads


def test_table_read_inside_of_a_subgraph_stays_with_a_note() -> None:
    proto = table()
    branches = {}
    for name, op in (("then_branch", "Gather"), ("else_branch", "Gather")):
        inner = node(op, "table ids", f"{name}_out")
        out = onnx.helper.make_tensor_value_info(f"{name}_out", onnx.TensorProto.FLOAT, None)
        branches[name] = onnx.helper.make_graph([inner], name, [], [out])
    del proto.graph.node[0]
    proto.graph.node.insert(0, node("If", "flag", "e", **branches))
    proto.graph.input.append(onnx.helper.make_tensor_value_info("flag", onnx.TensorProto.BOOL, []))
    assert "lies in a graph inside of If" in left_out(proto)
