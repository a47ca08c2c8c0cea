"""Which tensors are quantized, which share a scale, and whose config decides: exact expectations on small graphs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
from onnx import helper

from autotune.adapter import Array
from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnxruntime.choices.ops import quantizable_ops
from autotune.adapters.onnxruntime.static.placement import Placement, place
from autotune.config import (
    KL,
    MINMAX,
    MSE,
    CalibrationAlgorithm,
    OpConfig,
    Precision,
    QuantizationConfig,
    QuantizedType,
    TensorScheme,
)
from tests.adapters.onnx.graphs import build, node, normal

WEIGHTS = {"w1": normal(8, 3, 3, 3), "w2": normal(4, 8, 3, 3, seed=1), "w3": normal(8, 8, 1, 1, seed=2)}
IMAGE = ("N", 3, 8, 8)


def int8(algorithm: CalibrationAlgorithm = MINMAX, dtype: QuantizedType = QuantizedType.U8) -> OpConfig:
    weight = TensorScheme(dtype=QuantizedType.S8, symmetric=True)
    return OpConfig(
        precision=Precision.INT8, activation=TensorScheme(dtype=dtype), weight=weight, calibration=algorithm
    )


def placed(
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[str],
    config: Mapping[str, OpConfig],
    *,
    constants: Mapping[str, Array] | None = None,
    opset: int = 17,
    inputs: Mapping[str, Sequence[int | str]] | None = None,
) -> Placement:
    known = {name: value for name, value in WEIGHTS.items() if any(name in each.input for each in nodes)}
    proto = build(nodes, inputs or {"x": IMAGE}, dict.fromkeys(outputs), {**known, **(constants or {})}, opset=opset)
    proto = onnx.shape_inference.infer_shapes(proto)
    graph = Graph(proto)
    return place(graph, quantizable_ops(graph)[0], QuantizationConfig(ops=config))


def clipped(low: float | None, high: float | None, opset: int = 17) -> Placement:
    """A convolution, a Clip and a convolution."""
    if opset < 11:
        bounds = {name: value for name, value in (("min", low), ("max", high)) if value is not None}
        middle, constants = node("Clip", "a", "c", **bounds), {}
    else:
        names = [name if value is not None else "" for name, value in (("low", low), ("high", high))]
        middle = helper.make_node("Clip", ["a", *names], ["c"], "c")
        values = {"low": low, "high": high}
        constants = {name: np.asarray(value, np.float32) for name, value in values.items() if value is not None}
    nodes = [node("Conv", "x w1", "a"), middle, node("Conv", "c w2", "y")]
    return placed(nodes, ["y"], {"a": int8(), "y": int8()}, constants=constants, opset=opset)


@pytest.mark.parametrize("opset", [10, 17])
@pytest.mark.parametrize(
    ("low", "high", "bounds"),
    [
        (0.0, 6.0, (0.0, 6.0)),
        (-1.0, 1.0, (-1.0, 1.0)),
        (-1.0, 0.0, (-1.0, 0.0)),
        (None, 6.0, (-math.inf, 6.0)),
        (0.0, None, (0.0, math.inf)),
        (None, None, (-math.inf, math.inf)),
    ],
)
def test_a_clip_around_zero_disappears_into_the_range(
    low: float | None, high: float | None, bounds: tuple[float, float], opset: int
) -> None:
    placement = clipped(low, high, opset)
    assert placement.followers == {"c"}
    group = placement.groups["c"]
    assert placement.groups["a"] is group
    assert (group.tensors, group.observed) == (["a", "c"], "c")
    assert (group.low, group.high) == pytest.approx(bounds)


@pytest.mark.parametrize("opset", [10, 17])
@pytest.mark.parametrize(("low", "high"), [(1.0, 6.0), (-6.0, -1.0), (0.5, None), (None, -0.5), (0.0, 0.0)])
def test_a_clip_without_zero_stays_an_op(low: float | None, high: float | None, opset: int) -> None:
    """Zero is one of the integers always: a range could not do such a Clip's work."""
    placement = clipped(low, high, opset)
    assert placement.followers == frozenset()
    assert sorted(placement.groups) == ["a", "c", "x", "y"]
    assert placement.groups["a"] is not placement.groups["c"]
    assert placement.groups["a"].low == -math.inf


def test_a_clip_with_bounds_computed_at_run_time_stays_an_op() -> None:
    nodes = [node("Conv", "x w1", "a"), node("Clip", "a low", "c"), node("Conv", "c w2", "y")]
    placement = placed(nodes, ["y"], {"a": int8(), "y": int8()}, inputs={"x": IMAGE, "low": ()})
    assert placement.followers == frozenset()


def test_two_clips_leave_what_both_let_through() -> None:
    nodes = [
        node("Conv", "x w1", "a"),
        node("Relu", "a", "r"),
        node("Clip", "r low high", "c"),
        node("Conv", "c w2", "y"),
    ]
    constants = {"low": np.asarray(-2, np.float32), "high": np.asarray(6, np.float32)}
    placement = placed(nodes, ["y"], {"a": int8(), "y": int8()}, constants=constants)
    group = placement.groups["a"]
    assert placement.followers == {"r", "c"}
    assert (group.tensors, group.observed, group.low, group.high) == (["a", "r", "c"], "c", 0.0, 6.0)


RELU = [node("Conv", "x w1", "a"), node("Relu", "a", "r"), node("Conv", "r w2", "y")]


def test_a_relu_whose_input_others_read_keeps_its_own_tensor() -> None:
    placement = placed([*RELU, node("Conv", "a w3", "z")], ["y", "z"], dict.fromkeys("ayz", int8()))
    assert placement.followers == frozenset()
    assert placement.groups["a"] is not placement.groups["r"]


def test_a_relu_whose_input_leaves_the_model_keeps_its_own_tensor() -> None:
    assert placed(RELU, ["y", "a"], dict.fromkeys("ay", int8())).followers == frozenset()


def test_a_relu_after_an_fp32_op_is_an_op() -> None:
    placement = placed(RELU, ["y"], {"y": int8()})
    assert placement.followers == frozenset()
    assert sorted(placement.groups) == ["r", "y"]


def test_what_moves_values_shares_the_scale_of_what_it_reads() -> None:
    pool = node("MaxPool", "a", "p", kernel_shape=[2, 2])
    turned = node("Transpose", "p", "t", perm=[0, 1, 3, 2])
    placement = placed(
        [node("Conv", "x w1", "a"), pool, turned, node("Conv", "t w2", "y")], ["y"], dict.fromkeys("ay", int8())
    )
    assert placement.followers == {"p", "t"}
    assert placement.groups["a"] is placement.groups["p"] is placement.groups["t"]
    assert placement.groups["t"].observed == "a"


def test_only_matmuls_that_int8_ops_read_write_integers() -> None:
    nodes = [node("MatMul", "x w", "a"), node("Reshape", "a shape", "r"), node("Gemm", "r v", "y")]
    constants = {"w": normal(8, 8), "v": normal(8, 4), "shape": np.array([-1, 8], np.int64)}
    inputs = {"x": ("N", 8)}
    both = placed(nodes, ["y"], dict.fromkeys("ay", int8()), constants=constants, inputs=inputs)
    assert sorted(both.groups) == ["a", "r", "x"]
    assert both.followers == {"r"}
    first = placed(nodes, ["y"], {"a": int8()}, constants=constants, inputs=inputs)
    assert sorted(first.groups) == ["x"]
    assert first.followers == frozenset()


def concat(*middle: onnx.NodeProto, names: str, outputs: Sequence[str] = ("y",), **config: OpConfig) -> Placement:
    nodes = [
        node("Conv", "x w1", "a", pads=[1, 1, 1, 1]),
        node("Conv", "x w4", "b", pads=[1, 1, 1, 1]),
        *middle,
        node("Concat", names, "c", axis=1),
        node("GlobalAveragePool", "c", "y"),
    ]
    ops = dict.fromkeys("abcy", int8()) | config
    return placed(nodes, outputs, ops, constants={"w4": normal(8, 3, 3, 3, seed=7)})


def test_inputs_of_a_concat_share_its_scale() -> None:
    groups = concat(names="a b").groups
    assert groups["a"] is groups["b"] is groups["c"]
    assert groups["c"].observed == "c"


def test_an_input_that_others_read_keeps_its_scale() -> None:
    groups = concat(node("GlobalAveragePool", "a", "z"), names="a b", outputs=("y", "z")).groups
    assert groups["a"] is not groups["c"]
    assert groups["b"] is groups["c"]


def test_an_input_with_a_relu_inside_keeps_its_scale_unless_all_have_one() -> None:
    groups = concat(node("Relu", "a", "r"), names="r b").groups
    assert groups["r"] is groups["a"]
    assert groups["r"] is not groups["c"]
    assert groups["b"] is groups["c"]
    groups = concat(node("Relu", "a", "r"), node("Relu", "b", "s"), names="r s").groups
    assert groups["r"] is groups["s"] is groups["c"]
    assert groups["c"].low == 0.0


def test_the_first_reader_decides_and_the_writer_where_none_reads() -> None:
    nodes = [node("Conv", "x w1", "a"), node("Conv", "a w3", "b"), node("Conv", "a w2", "c")]
    config = {"a": int8(KL), "b": int8(MSE), "c": int8(MINMAX)}
    groups = placed(nodes, ["b", "c"], config).groups
    decided = {name: group.choice.calibration for name, group in groups.items()}
    assert decided == {"x": KL, "a": MSE, "b": MSE, "c": MINMAX}


def test_connected_ops_use_the_integer_type_of_the_first() -> None:
    nodes = [node("Conv", "x w1", "a"), node("Conv", "a w3", "b"), node("Conv", "b w3", "c"), node("Conv", "c w2", "y")]
    s8 = QuantizedType.S8
    ops = {"a": int8(dtype=s8), "b": int8(), "c": int8(), "y": int8(dtype=s8)}
    connected = placed(nodes, ["y"], ops).groups
    assert {name: group.dtype for name, group in connected.items()} == dict.fromkeys("xabcy", s8)
    apart = placed(nodes, ["y"], {"a": int8(dtype=s8), "c": int8(), "y": int8(dtype=s8)}).groups
    assert {name: group.dtype for name, group in apart.items()} == {
        **dict.fromkeys("xa", s8),
        **dict.fromkeys("bcy", QuantizedType.U8),
    }


def test_ops_that_are_not_static_place_nothing() -> None:
    dynamic = dataclasses.replace(int8(), precision=Precision.INT8_DYNAMIC, activation=None, calibration=None)
    placement = placed(RELU, ["y"], {"y": dynamic})
    assert (placement.ops, placement.groups, placement.followers) == ((), {}, frozenset())
