from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnxruntime import OnnxRuntimeAdapter
from autotune.adapters.onnxruntime.choices.ops import quantizable_ops
from autotune.adapters.onnxruntime.choices.space import observed_tensors, tuning_space
from autotune.config import LEAST_ERROR, Precision
from autotune.host import current_host
from tests.adapters.onnx.graphs import build, node, normal, small_cnn

ADAPTER = OnnxRuntimeAdapter()
IMAGE = ("N", 3, 8, 8)


def notes_and_ops(proto: onnx.ModelProto) -> tuple[tuple[str, ...], list[str]]:
    model = ADAPTER.load(proto)
    return model.notes, [op.name for op in ADAPTER.space(model).ops]


def test_choices_of_a_convolution_preferred_ones_first() -> None:
    conv = ADAPTER.space(ADAPTER.load(small_cnn())).by_name["c1"]
    int8 = conv.precisions[0]
    assert [space.precision for space in conv.precisions] == [Precision.INT8, Precision.INT8_DYNAMIC, Precision.FP32]
    assert [str(scheme) for scheme in int8.activations] == [
        "u8 asymmetric per_tensor",
        "u8 symmetric per_tensor",
        "s8 asymmetric per_tensor",
        "s8 symmetric per_tensor",
    ]
    assert [str(scheme) for scheme in int8.weights] == ["s8 symmetric per_channel", "s8 symmetric per_tensor"]
    assert int8.algorithms[0] == LEAST_ERROR
    assert {str(algorithm) for algorithm in int8.algorithms} == {
        "minmax",
        "percentile:99.9",
        "percentile:99.99",
        "percentile:99.999",
        "kl",
        "least_error",
        "mse",
    }


def test_ops_come_in_graph_order_with_their_types() -> None:
    space = ADAPTER.space(ADAPTER.load(small_cnn()))
    assert [(op.name, op.op_type) for op in space.ops] == [
        ("c1", "Conv"),
        ("c2", "Conv"),
        ("c3", "Conv"),
        ("sum", "Add"),
        ("pooled", "GlobalAveragePool"),
        ("logits", "Gemm"),
    ]


def test_what_cannot_saturate_is_offered_first_where_products_saturate() -> None:
    graph = Graph(ADAPTER.load(small_cnn()).proto)
    wide = dataclasses.replace(current_host(), architecture="x86_64", features=("avx2", "avx512_vnni"))
    recipe = tuning_space(graph, wide).recipe
    assert (recipe.bound_pairs, recipe.reduce_range) == ((False,), (False,))
    recipe = tuning_space(graph, dataclasses.replace(wide, features=("avx2",))).recipe
    assert (recipe.bound_pairs, recipe.reduce_range) == ((True, False), (False, True))


def test_softmax_prefers_fp32() -> None:
    proto = build([node("Softmax", "x", "y")], {"x": ("N", 8)}, {"y": None}, {})
    space = ADAPTER.space(ADAPTER.load(proto))
    assert space.preferred.is_fp32
    assert space.ops[0].space_of(Precision.INT8) is not None


def test_weight_computed_at_run_time_stays_fp32_with_a_note() -> None:
    proto = build([node("Conv", "x w", "y")], {"x": IMAGE, "w": (4, 3, 3, 3)}, {"y": None}, {})
    notes, ops = notes_and_ops(proto)
    assert (notes, ops) == (("Conv 'y' stays fp32: its weight is computed at run time",), [])


def test_float16_stays_as_it_is_with_a_note() -> None:
    proto = build(
        [node("Conv", "x w", "y")],
        {"x": IMAGE},
        {"y": None},
        {"w": normal(4, 3, 3, 3).astype(np.float16)},
        elem_type=TensorProto.FLOAT16,
    )
    notes, ops = notes_and_ops(proto)
    assert ops == []
    assert "Conv 'y' stays fp32: its weight is float16, not float32" in notes
    assert any("float16" in note and "not folded" in note for note in notes)


def test_an_einsum_is_named_as_one_without_an_integer_kernel() -> None:
    proto = build([node("Einsum", "x w", "y", equation="bi,io->bo")], {"x": ("N", 3)}, {"y": None}, {"w": normal(3, 4)})
    notes, ops = notes_and_ops(proto)
    assert "Einsum 'y' stays fp32: ONNX Runtime has no integer kernel for it" in notes
    assert ops == []


def test_arithmetic_of_shapes_has_no_note() -> None:
    nodes = [
        node("Shape", "x", "size"),
        node("Mul", "size twos", "twice"),
        node("Concat", "one twice", "wide", axis=0),
        node("ConstantOfShape", "wide", "y"),
    ]
    constants = {"twos": np.full(4, 2, np.int64), "one": np.ones(1, np.int64)}
    notes, ops = notes_and_ops(build(nodes, {"x": IMAGE}, {"y": None}, constants))
    assert ops == []
    assert not [line for line in notes if "stays fp32" in line]


def test_many_ops_of_one_kind_share_a_note() -> None:
    nodes = [node("ConvTranspose", f"x{index} w", f"x{index + 1}") for index in range(5)]
    proto = build(nodes, {"x0": ("N", 3, 4, 4)}, {"x5": None}, {"w": normal(3, 3, 1, 1)})
    notes, ops = notes_and_ops(proto)
    assert notes == ("ConvTranspose 'x1', 'x2', 'x3' and 2 more stays fp32: ONNX Runtime has no integer kernel for it",)
    assert ops == []


def test_op_inside_of_a_subgraph_stays_fp32_with_a_note() -> None:
    branch = helper.make_graph(
        [node("Conv", "x w", "inner")], "branch", [], [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)]
    )
    other = helper.make_graph(
        [node("Conv", "x v", "outer")], "other", [], [helper.make_tensor_value_info("outer", TensorProto.FLOAT, None)]
    )
    proto = build(
        [
            node("ReduceMax", "x", "top", keepdims=0),
            node("Cast", "top", "condition", to=TensorProto.BOOL),
            node("If", "condition", "y", then_branch=branch, else_branch=other),
        ],
        {"x": IMAGE},
        {"y": None},
        {"w": normal(4, 3, 3, 3), "v": normal(4, 3, 3, 3, seed=1)},
    )
    notes, ops = notes_and_ops(proto)
    assert ops == []
    assert notes == ("Conv 'outer', 'inner' stays fp32: it lies in a graph inside of If 'y'",)


def test_gemm_that_the_integer_kernel_cannot_do_is_left_out() -> None:
    """Preparation writes these in another form where it can: not with weights in files."""
    proto = build(
        [node("Gemm", "x w", "y", transA=1), node("Gemm", "y v c", "z")],
        {"x": (8, 8)},
        {"z": None},
        {"w": normal(8, 8), "v": normal(8, 8, seed=1), "c": normal(8, 8, seed=2)},
    )
    ops, notes = quantizable_ops(Graph(onnx.shape_inference.infer_shapes(proto)))
    assert ops == []
    assert notes == [
        "Gemm 'y' stays fp32: it transposes its input",
        "Gemm 'z' stays fp32: its bias has shape [8, 8], not one value for each output channel",
    ]


def test_observed_tensors_and_their_channels() -> None:
    tensors, axes = observed_tensors(Graph(ADAPTER.load(small_cnn()).proto))
    assert tensors == ("x", "n1", "r1", "c2", "r2", "c3", "sum", "pooled", "flat", "logits")
    assert {axes[name] for name in ("x", "r1", "r2", "c3")} == {1}
    assert axes["flat"] == 1


TAILS = {
    "log": [node("Log", "s", "y")],
    "reciprocal": [node("Reciprocal", "s", "y")],
    "denominator": [node("Div", "x s", "y")],
    "negative power": [node("Pow", "s minus", "y")],
    "deviation": [node("Sqrt", "s", "r"), node("Div", "x r", "y")],
    "moved": [node("Transpose", "s", "t", perm=[0, 2, 1]), node("Relu", "t", "r"), node("Log", "r", "y")],
    "one of several": [node("Sigmoid", "s", "g"), node("Log", "s", "l"), node("Add", "g l", "y")],
}
HARMLESS = {
    "numerator": [node("Div", "s x", "y")],
    "square": [node("Pow", "s two", "y")],
    "clipped": [node("Clip", "s small", "c"), node("Log", "c", "y")],
    "exp": [node("Exp", "s", "y")],
    "something else": [node("Softmax", "s", "p"), node("Log", "p", "y")],
}


def before(tail: list[onnx.NodeProto]) -> onnx.ModelProto:
    constants = {
        "eps": np.asarray(1e-7, np.float32),
        "minus": np.asarray(-1, np.float32),
        "two": np.asarray(2, np.float32),
        "small": np.asarray(1e-5, np.float32),
    }
    nodes = [node("Mul", "x x", "m"), node("Add", "m eps", "s"), *tail]
    return build(nodes, {"x": (2, 4, 4)}, {"y": None}, constants)


@pytest.mark.parametrize("tail", TAILS)
def test_what_a_zero_would_make_infinite_stays_fp32(tail: str) -> None:
    """Small values become zero in int8, and a log-spectrum minus infinity."""
    graph = Graph(ADAPTER.load(before(TAILS[tail])).proto)
    ops, notes = quantizable_ops(graph)
    assert "m" in [op.name for op in ops]
    assert "s" not in [op.name for op in ops]
    assert any("small values would become zero, which it makes infinite" in note and "'s'" in note for note in notes)


@pytest.mark.parametrize("tail", HARMLESS)
def test_what_takes_a_zero_leaves_the_choice(tail: str) -> None:
    assert "s" in [op.name for op in quantizable_ops(Graph(ADAPTER.load(before(HARMLESS[tail])).proto))[0]]


def test_a_convolution_before_a_logarithm_is_dynamic_at_most() -> None:
    nodes = [node("Conv", "x w", "a"), node("Relu", "a", "r"), node("Log", "r", "y")]
    space = ADAPTER.space(ADAPTER.load(build(nodes, {"x": IMAGE}, {"y": None}, {"w": normal(4, 3, 3, 3)})))
    assert [each.precision for each in space.by_name["a"].precisions] == [Precision.INT8_DYNAMIC, Precision.FP32]
