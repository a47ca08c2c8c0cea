"""Attention is fused where that changes nothing, and stays as exported otherwise."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from autotune.adapter import Array, Execution
from autotune.adapters.onnx.compare import relative_difference
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from tests.adapters.onnx.graphs import node
from tests.adapters.onnx.transformers import VOCABULARY, as_exported, small_transformer, token_batches

ADAPTER = OnnxRuntimeAdapter()


def types(model: OnnxModel) -> set[str]:
    return {n.op_type for n in model.proto.graph.node}


def output(model: OnnxModel, feeds: dict[str, Array]) -> Array:
    return ADAPTER.runner(model, Execution())(feeds)[0]


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("older", [True, False])
def test_attention_is_fused_exactly(*, guarded: bool, older: bool) -> None:
    proto = small_transformer(guarded=guarded, older=older)
    model = ADAPTER.load(proto)
    assert "MultiHeadAttention" in types(model)
    assert "Softmax" not in types(model)
    assert any("fused into MultiHeadAttention" in note for note in model.notes)
    for feeds in token_batches():
        assert relative_difference(output(as_exported(proto), feeds), output(model, feeds)) < 1e-4


def test_sequence_that_is_masked_altogether() -> None:
    proto = small_transformer()
    feeds = token_batches(1)[0]
    feeds["mask"][1] = 0
    expected, actual = output(as_exported(proto), feeds), output(ADAPTER.load(proto), feeds)
    assert np.isfinite(expected).all()
    assert relative_difference(expected, actual) < 1e-4


@pytest.mark.parametrize("older", [True, False])
def test_fixed_shapes(*, older: bool) -> None:
    """ONNX Runtime writes the way in which keys are turned around anew where it knows all shapes."""
    proto = small_transformer(older=older)
    feeds = token_batches(1)[0]
    for value in proto.graph.input:
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.INT64, feeds["ids"].shape))
    model = ADAPTER.load(proto)
    assert "MultiHeadAttention" in types(model)
    assert "Softmax" not in types(model)
    assert relative_difference(output(as_exported(proto), feeds), output(model, feeds)) < 1e-4


@pytest.mark.parametrize(("masked_with", "guards"), [(-np.inf, 1), (-3.4028235e38, 0), (-1e4, 0)])
def test_guard_stays_where_a_mask_is_infinite(masked_with: float, guards: int) -> None:
    """Checking each result for NaN takes 2 % of MiniLM's time; a finite mask cannot bring one."""
    proto = small_transformer(masked_with=masked_with)
    model = ADAPTER.load(proto)
    assert sum(n.op_type == "IsNaN" for n in model.proto.graph.node) == guards
    feeds = token_batches(1)[0]
    feeds["mask"][1] = 0
    assert relative_difference(output(as_exported(proto), feeds), output(model, feeds)) < 1e-4


@settings(max_examples=30, deadline=None)
@given(
    guarded=st.booleans(),
    older=st.booleans(),
    masked_with=st.sampled_from((-np.inf, -3.4028235e38, -1e4)),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 12)),
    fixed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_attention_keeps_outputs(
    *, guarded: bool, older: bool, masked_with: float, shape: tuple[int, int], fixed: bool, seed: int
) -> None:
    proto = small_transformer(guarded=guarded, older=older, masked_with=masked_with)
    rng = np.random.default_rng(seed)
    for tensor in proto.graph.initializer:
        if len(tensor.dims) == 2:
            values = rng.standard_normal(tensor.dims) * rng.uniform(0.05, 1.0)
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    if fixed:
        for value in proto.graph.input:
            value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.INT64, shape))
    feeds = {"ids": rng.integers(0, VOCABULARY, shape), "mask": (rng.random(shape) < 0.7).astype(np.int64)}
    model = ADAPTER.load(proto)
    assert "MultiHeadAttention" in types(model)
    assert relative_difference(output(as_exported(proto), feeds), output(model, feeds)) < 1e-4


def test_guard_stays_where_a_mask_comes_from_outside() -> None:
    proto = small_transformer()
    next(n for n in proto.graph.node if n.name == "masked").input[1] = "given"
    proto.graph.input.append(
        onnx.helper.make_tensor_value_info("given", onnx.TensorProto.FLOAT, ["batch", 1, "sequence", "sequence"])
    )
    model = ADAPTER.load(proto)
    assert {"MultiHeadAttention", "IsNaN"} <= types(model)
    feeds = token_batches(1)[0]
    given = np.zeros((4, 1, 9, 9), np.float32)
    given[1, :, 2] = -np.inf
    feeds["given"] = given
    assert relative_difference(output(as_exported(proto), feeds), output(model, feeds)) < 1e-4


def test_what_the_exporter_wrote_of_tensors_does_no_harm() -> None:
    assert any(value.name == "projected" for value in small_transformer().graph.value_info)
    assert ADAPTER.space(ADAPTER.load(small_transformer())).tunable


def test_attention_over_other_axes_is_left() -> None:
    proto = small_transformer()
    softmax = next(n for n in proto.graph.node if n.op_type == "Softmax")
    softmax.attribute[0].i = 1
    assert "MultiHeadAttention" not in types(ADAPTER.load(proto))


def test_attention_whose_scores_are_read_elsewhere_is_left() -> None:
    proto = small_transformer()
    proto.graph.node.append(node("Identity", "p", "attention_map"))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("attention_map", onnx.TensorProto.FLOAT, None))
    model = ADAPTER.load(proto)
    assert "MultiHeadAttention" not in types(model)
    assert len(model.outputs) == 2


def test_fusion_that_changes_outputs_is_undone() -> None:
    """Heads of another order look alike in names and ranks; only the outputs tell."""
    proto = small_transformer()
    shape = next(t for t in proto.graph.initializer if t.name == "merged_shape")
    shape.CopyFrom(numpy_helper.from_array(np.array([0, -1, 16]), "merged_shape"))
    double = next(t for t in proto.graph.initializer if t.name == "wo")
    double.CopyFrom(numpy_helper.from_array(np.ones((16, 32), np.float32), "wo"))
    last = [n for n in proto.graph.node if n.name in ("out", "residual")]
    last[1].input[1] = "out"
    model = ADAPTER.load(proto)
    assert "MultiHeadAttention" not in types(model)
    assert any("stay as exported" in note for note in model.notes)
