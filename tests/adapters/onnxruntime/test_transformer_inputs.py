"""Transformers as they come: what cannot be served stays as it is, with a line that says why, and the rest is right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.adapter import Array, Execution
from autotune.adapters.onnx.session import optimized_op_counts
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from autotune.config import Precision
from autotune.errors import ModelError
from tests.adapters.onnx.graphs import node, normal
from tests.adapters.onnx.transformers import CLASSES, HIDDEN, as_exported, small_transformer, token_batches

ADAPTER = OnnxRuntimeAdapter()


def op_types(model: OnnxModel) -> set[str]:
    return {n.op_type for n in model.proto.graph.node}


def answers(model: OnnxModel) -> Array:
    runner = ADAPTER.runner(model, Execution())
    return np.concatenate([runner(feeds)[0] for feeds in token_batches()]).astype(np.float64)


def quantized(model: OnnxModel, precision: Precision) -> OnnxModel:
    statistics = ADAPTER.calibrate(model, token_batches(), seed=0)
    space = ADAPTER.space(model)
    choices = {op.name: space.space_of(precision) for op in space.ops for space in [op]}
    return ADAPTER.apply(
        model,
        space.preferred.replace({name: choice.preferred for name, choice in choices.items() if choice is not None}),
        statistics,
    )


def sqnr_db(reference: Array, actual: Array) -> float:
    return float(10 * np.log10(np.square(reference).mean() / np.square(reference - actual).mean()))


def assert_served(proto: onnx.ModelProto) -> OnnxModel:
    """The prepared model computes what the original does, and both kinds of int8 come near to it."""
    expected, model = answers(as_exported(proto)), ADAPTER.load(proto)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(answers(model), expected, rtol=1e-4, atol=1e-5)
    for precision in (Precision.INT8_DYNAMIC, Precision.INT8):
        assert sqnr_db(expected, answers(quantized(model, precision))) > 15.0
    return model


def test_half_precision_is_left() -> None:
    proto = small_transformer()
    del proto.graph.value_info[:]
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    model = ADAPTER.load(proto)
    assert "Softmax" in op_types(model)
    assert any("float16" in note and "Export it in float32" in note for note in model.notes)
    assert ADAPTER.space(model).tunable == ()
    np.testing.assert_array_equal(answers(model), answers(as_exported(proto)))


def inside_if(body: onnx.GraphProto) -> onnx.NodeProto:
    """``y`` is what the body computes where any token counts, otherwise zeros."""
    zeros = numpy_helper.from_array(np.zeros((1, CLASSES), np.float32), "zeros")
    other = helper.make_graph(
        [node("Identity", "zeros", "nothing")], "else", [], [helper.make_empty_tensor_value_info("nothing")], [zeros]
    )
    return helper.make_node("If", ["any"], ["y"], "branch", then_branch=body, else_branch=other)


def inside_loop(body: onnx.GraphProto) -> onnx.NodeProto:
    """``y`` stacks what the body computes, once."""
    body.input.extend(
        [
            helper.make_tensor_value_info("iteration", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
        ]
    )
    body.node.append(node("Identity", "go_on", "goes_on"))
    condition = helper.make_tensor_value_info("goes_on", TensorProto.BOOL, [])
    outputs = [condition, *body.output]
    del body.output[:]
    body.output.extend(onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in outputs)
    return helper.make_node("Loop", ["once", "any"], ["y"], "loop", body=body)


@pytest.mark.parametrize("wrap", [inside_if, inside_loop])
def test_attention_in_a_graph_inside_is_left(wrap: Callable[[onnx.GraphProto], onnx.NodeProto]) -> None:
    proto = small_transformer()
    body = onnx.GraphProto()
    body.CopyFrom(proto.graph)
    del body.input[:], body.value_info[:]
    node_with_body = wrap(body)
    graph = helper.make_graph(
        [
            node("Cast", "mask", "mask_float", to=TensorProto.FLOAT),
            node("ReduceMax", "mask_float", "highest", keepdims=0),
            node("Cast", "highest", "any", to=TensorProto.BOOL),
            node_with_body,
        ],
        "outer",
        list(proto.graph.input),
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(1), "once")],
    )
    wrapped = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    model = ADAPTER.load(wrapped)
    assert ADAPTER.space(model).tunable == ()
    assert any("MatMul" in note and f"inside of {node_with_body.op_type}" in note for note in model.notes)
    assert "MultiHeadAttention" not in str(model.proto.graph)
    expected = answers(as_exported(proto))
    np.testing.assert_allclose(answers(model).reshape(expected.shape), expected, rtol=1e-5, atol=1e-6)


def test_attention_beside_a_graph_inside_that_reads_its_tensors() -> None:
    """The fused operator keeps the result's name, and what a graph inside reads stays."""
    proto = small_transformer()
    branches = [
        helper.make_graph(
            [node("Identity", name, f"{name}_out")], name, [], [helper.make_empty_tensor_value_info(f"{name}_out")]
        )
        for name in ("context", "p")
    ]
    proto.graph.node.extend(
        [
            node("Cast", "mask", "mask_float", to=TensorProto.FLOAT),
            node("ReduceMax", "mask_float", "highest", keepdims=0),
            node("Cast", "highest", "any", to=TensorProto.BOOL),
            node("If", "any", "seen", then_branch=branches[0], else_branch=branches[1]),
        ]
    )
    proto.graph.output.append(helper.make_tensor_value_info("seen", TensorProto.FLOAT, None))
    model = assert_served(proto)
    assert "MultiHeadAttention" not in op_types(model)
    assert len(model.outputs) == 2


def test_operator_of_a_library_that_is_not_here() -> None:
    proto = small_transformer()
    gelu = next(n for n in proto.graph.node if n.op_type == "Gelu")
    gelu.op_type, gelu.domain = "SecretActivation", "example.company"
    proto.opset_import.append(helper.make_opsetid("example.company", 1))
    with pytest.raises(ModelError, match=r"SecretActivation.*must run in ONNX Runtime"):
        ADAPTER.load(proto)


def test_operator_that_the_model_defines_itself() -> None:
    proto = small_transformer()
    gelu = next(n for n in proto.graph.node if n.op_type == "Gelu")
    gelu.op_type, gelu.domain = "Activation", "example.company"
    opsets = [helper.make_opsetid("", 20)]
    body = [node("Gelu", "a", "b")]
    proto.functions.append(helper.make_function("example.company", "Activation", ["a"], ["b"], body, opsets))
    proto.opset_import.append(helper.make_opsetid("example.company", 1))
    model = assert_served(proto)
    assert "MultiHeadAttention" in op_types(model)


def test_operators_of_onnx_runtime_among_the_nodes() -> None:
    proto = small_transformer()
    gelu = next(n for n in proto.graph.node if n.op_type == "Gelu")
    gelu.op_type, gelu.domain = "FastGelu", "com.microsoft"
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert {"FastGelu", "MultiHeadAttention"} <= op_types(assert_served(proto))


@pytest.mark.parametrize("shared", [("wq", "wk"), ("wk", "wv"), ("wq", "wk", "wv"), ("wq", "wo")])
def test_projections_that_share_a_matrix(shared: tuple[str, ...]) -> None:
    proto = small_transformer()
    for each in proto.graph.node:
        for index, name in enumerate(each.input):
            if name in shared:
                each.input[index] = shared[0]
    assert "MultiHeadAttention" in op_types(assert_served(proto))


def test_query_and_key_that_are_one_tensor() -> None:
    proto = small_transformer()
    for each in proto.graph.node:
        for index, name in enumerate(each.input):
            if name == "k3":
                each.input[index] = "q3"
    assert "MultiHeadAttention" in op_types(assert_served(proto))


def with_mask(values: Array) -> onnx.ModelProto:
    """The transformer with a constant added to its scores instead of what comes from the input."""
    proto = small_transformer()
    for each in proto.graph.node:
        if each.name == "masked":
            each.input[1] = "constant_mask"
    proto.graph.initializer.append(numpy_helper.from_array(values, "constant_mask"))
    return proto


def causal(length: int = 9) -> Array:
    return np.where(np.tri(length, dtype=bool), np.float32(0), np.float32(-np.inf))


def test_constant_mask_with_infinities_in_attention_that_stays_as_exported() -> None:
    """The mask has rank 2, which the fused operator does not take."""
    model = assert_served(with_mask(causal()))
    assert "MultiHeadAttention" not in op_types(model)
    assert any("masked" in note and "infinite" in note for note in model.notes)
    assert "masked" not in ADAPTER.space(model).by_name


def test_constant_mask_that_fits_no_made_up_input() -> None:
    """Its length is the one thing that cannot be made up: the attention stays, with a line."""
    model = assert_served(with_mask(causal()[None, None]))
    assert "MultiHeadAttention" not in op_types(model)
    assert any("could not be found out on made-up inputs" in note for note in model.notes)


def test_constant_mask_with_infinities_is_served_where_the_length_is_fixed() -> None:
    proto = with_mask(causal()[None, None])
    for value in proto.graph.input:
        dim = value.type.tensor_type.shape.dim[1]
        dim.ClearField("dim_param")
        dim.dim_value = 9
    assert "MultiHeadAttention" in op_types(assert_served(proto))


def test_residuals_and_normalizations_stay_two_where_shapes_are_known() -> None:
    """ONNX Runtime would make one slower operator of them."""
    proto = small_transformer(masked_with=-1e4)
    for value in proto.graph.input:
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.INT64, token_batches(1)[0]["ids"].shape))
    proto.graph.node.append(node("LayerNormalization", "residual2 g2 b2", "last", axis=-1))
    next(n for n in proto.graph.node if n.name == "pooled").input[0] = "last"
    proto.graph.node.sort(key=lambda n: n.name in ("pooled", "logits"))
    model = assert_served(proto)
    assert optimized_op_counts(model.proto)["SkipLayerNormalization"] == 2
    for precision in (Precision.INT8_DYNAMIC, Precision.INT8_WEIGHT):
        candidate = quantized(model, precision)
        counts = optimized_op_counts(candidate.proto)
        assert counts["SkipLayerNormalization"] == 0
        assert counts["Sum"] == 2


def test_infinite_mask_from_the_input_is_served() -> None:
    assert "MultiHeadAttention" in op_types(assert_served(small_transformer()))


def test_what_exporters_wrote_down_may_contradict() -> None:
    proto = small_transformer()
    for name, shape in (("q_product", [HIDDEN]), ("residual", [2, HIDDEN]), ("down", [7, 7, 7, 7])):
        proto.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    assert "MultiHeadAttention" in op_types(assert_served(proto))


def test_matrix_that_is_computed_at_run_time_is_left() -> None:
    proto = small_transformer()
    wq = next(t for t in proto.graph.initializer if t.name == "wq")
    proto.graph.initializer.remove(wq)
    proto.graph.initializer.append(numpy_helper.from_array(normal(HIDDEN, HIDDEN, seed=10), "half_wq"))
    proto.graph.node.insert(0, node("Cast", "mask", "mask_float", to=TensorProto.FLOAT))
    proto.graph.node.insert(1, node("ReduceMax", "mask_float", "highest", keepdims=0))
    proto.graph.node.insert(2, node("Mul", "half_wq highest", "wq"))
    model = assert_served(proto)
    precisions = {space.precision for space in ADAPTER.space(model).by_name["q_product"].precisions}
    assert Precision.INT8_DYNAMIC not in precisions
