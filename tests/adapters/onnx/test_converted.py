"""ONNX files of converters: under the framework's names, and refused where they compute something else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.adapter import Array
from autotune.adapters.onnx.converted import TOLERANCE, adopt
from autotune.conversion import Converted
from autotune.errors import ModelError

X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
W = np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32)


def file(batch: int | str = "unk__7", weight: Array = W) -> bytes:
    """``y = relu(x @ w)`` as converters write it: a Constant node for the weight, and ends under their own names."""
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weight)),
        helper.make_node("MatMul", ["in:0", "w"], ["y"]),
        helper.make_node("Relu", ["y"], ["out:0"]),
    ]
    graph = helper.make_graph(
        nodes,
        "converted",
        [helper.make_tensor_value_info("in:0", TensorProto.FLOAT, [batch, 3])],
        [helper.make_tensor_value_info("out:0", TensorProto.FLOAT, [batch, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def taken(made: bytes, expected: Array | None) -> onnx.ModelProto:
    converted = Converted(
        onnx=made,
        inputs=["x"],
        outputs=["y"],
        feeds=None if expected is None else {"x": X},
        expected=None if expected is None else [expected],
        notes=[],
    )
    content, _ = adopt(
        converted, title="toy2onnx", what="model.toy", name_of=lambda node: "head" if node.op_type == "MatMul" else None
    )
    proto: onnx.ModelProto = onnx.ModelProto.FromString(content)
    onnx.checker.check_model(proto, full_check=True)
    return proto


TRUE = np.maximum(X @ W, 0)


@pytest.mark.parametrize("batch", ["unk__7", 1, 4])
def test_names_are_the_frameworks_and_a_batch_of_any_size_runs(batch: int | str) -> None:
    graph = taken(file(batch), TRUE).graph
    # A tensor inside had the name that the output has in the framework.
    assert [value.name for value in (*graph.input, *graph.output)] == ["x", "y"]
    assert [node.name for node in graph.node if node.op_type == "MatMul"] == ["head"]
    assert [tensor.name for tensor in graph.initializer] == ["w"]
    first = graph.input[0].type.tensor_type.shape.dim[0]
    assert (first.dim_param or first.dim_value) == (4 if batch == 4 else "batch")


def test_a_file_that_computes_something_else_is_refused() -> None:
    apart = TRUE + np.float32(2 * TOLERANCE) * TRUE.max()
    with pytest.raises(ModelError, match=r"toy2onnx.*model\.toy.*within 0\.001.*part by 0\.002"):
        taken(file(), apart)
    taken(file(), TRUE + np.float32(TOLERANCE / 2) * TRUE.max())


@pytest.mark.parametrize("expected", [TRUE.T, TRUE[:2], np.full_like(TRUE, np.nan)])
def test_outputs_of_another_shape_or_without_numbers_are_refused(expected: Array) -> None:
    with pytest.raises(ModelError, match="part by inf"):
        taken(file(), expected)
