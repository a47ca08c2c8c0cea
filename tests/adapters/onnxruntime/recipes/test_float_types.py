"""Recipes leave models and inputs of other float types alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from autotune.adapter import Array
from autotune.errors import ModelError
from tests.adapters.onnx.graphs import build, image_batches, node, normal
from tests.adapters.onnxruntime.recipes.cases import ALL, IMAGE, conv, run, uneven
from tests.adapters.onnxruntime.recipes.chains import ADAPTER, config


def test_float16_model() -> None:
    constants = {"w": normal(8, 3, 3, 3), "b": normal(8), "v": normal(8, 8, 3, 3, seed=1), "d": normal(8, seed=2)}
    nodes = [conv("x w b", "c"), node("Relu", "c", "r"), conv("r v d", "y")]
    halves = {name: value.astype(np.float16) for name, value in constants.items()}
    _check_left_alone(nodes, (3, 8, 8), halves, TensorProto.FLOAT16, "Conv 'c', 'y' stays fp32: its weight is float16")


def test_double_model() -> None:
    # ONNX Runtime has no convolution of doubles on the CPU.
    doubles = {"w": normal(8, 3, 3, 3).astype(np.float64)}
    proto = build([conv("x w", "y")], {"x": IMAGE}, {"y": None}, doubles, elem_type=TensorProto.DOUBLE)
    with pytest.raises(ModelError, match=r"implementation for Conv.*It must run in ONNX Runtime"):
        ADAPTER.load(proto)
    nodes = [node("MatMul", "x w", "a"), node("Relu", "a", "r"), node("MatMul", "r w", "y")]
    _check_left_alone(
        nodes,
        (8,),
        {"w": normal(8, 8).astype(np.float64)},
        TensorProto.DOUBLE,
        "MatMul 'a', 'y' stays fp32: its weight is double",
    )


def _check_left_alone(
    nodes: Sequence[onnx.NodeProto],
    source: tuple[int, ...],
    constants: dict[str, Array],
    elem_type: int,
    note: str,
) -> None:
    model = ADAPTER.load(build(nodes, {"x": ("N", *source)}, {"y": None}, constants, elem_type=elem_type))
    assert ADAPTER.space(model).ops == ()
    assert any(each.startswith(note) for each in model.notes)
    feeds = {"x": normal(4, *source, scale=1.0).astype(constants["w"].dtype)}
    statistics = ADAPTER.calibrate(model, [feeds], seed=0)
    candidate = ADAPTER.apply(model, ADAPTER.space(model).preferred, statistics)
    np.testing.assert_array_equal(run(candidate, feeds)[0], run(model, feeds)[0])


@pytest.mark.parametrize("elem_type", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_inputs_of_another_float_type_before_float32(elem_type: int) -> None:
    nodes = [
        node("Cast", "x", "f", to=TensorProto.FLOAT),
        conv("f w b", "c"),
        node("Relu", "c", "r"),
        conv("r v d", "e"),
        node("Cast", "e", "y", to=elem_type),
    ]
    constants = {"w": uneven(8, 3, 3, 3), "b": normal(8), "v": uneven(8, 8, 3, 3, seed=1), "d": normal(8, seed=2)}
    model = ADAPTER.load(build(nodes, {"x": IMAGE}, {"y": None}, constants, elem_type=elem_type))
    feeds = {"x": image_batches(1)[0]["x"].astype(helper.tensor_dtype_to_np_dtype(elem_type))}
    statistics = ADAPTER.calibrate(model, [feeds], seed=0)
    wanted = config(model, ALL)
    assert set(wanted.ops) == {"c", "e"}
    candidate = ADAPTER.apply(model, wanted, statistics)
    expected, actual = (np.asarray(run(each, feeds)[0], np.float64) for each in (model, candidate))
    assert 10 * np.log10(np.square(expected).mean() / np.square(expected - actual).mean()) > 20
