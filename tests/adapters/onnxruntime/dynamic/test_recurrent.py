"""LSTM in dynamic int8: whatever the operator can do, the integer kernel does; what it cannot stays with a note."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.adapter import Array, Execution
from autotune.adapters.onnx.session import optimized_op_counts
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from autotune.calibration import CalibrationStatistics
from autotune.config import (
    Granularity,
    OpConfig,
    Precision,
    QuantizationConfig,
    QuantizedType,
    Recipe,
    TensorScheme,
)
from autotune.errors import ApplyError
from tests.adapters.onnx.graphs import build, node, normal
from tests.adapters.onnxruntime.saturating import EXACT_HERE

pytestmark = pytest.mark.numeric

ADAPTER = OnnxRuntimeAdapter()
NOTHING = CalibrationStatistics({}, 0)
INPUTS, HIDDEN, STEPS, SAMPLES = 24, 32, 7, 3
OUTPUTS = ("y", "y_h", "y_c")
OPTIONAL = ("b", "lengths", "h0", "c0", "p")


def scheme(granularity: Granularity) -> TensorScheme:
    return TensorScheme(dtype=QuantizedType.S8, symmetric=True, granularity=granularity)


def dynamic(granularity: Granularity = Granularity.PER_CHANNEL) -> OpConfig:
    return OpConfig(precision=Precision.INT8_DYNAMIC, weight=scheme(granularity))


def lstm(
    optional: Sequence[str] = ("b",),
    outputs: Sequence[str] = OUTPUTS,
    *,
    directions: int = 1,
    constants: Mapping[str, Array] | None = None,
    opset: int = 17,
    **attributes: Any,
) -> onnx.ModelProto:
    """``x`` (steps, samples, inputs) through an LSTM with the optional inputs and outputs that are asked for."""
    wide = 4 * HIDDEN
    values: dict[str, Array] = {
        "w": normal(directions, wide, INPUTS),
        "r": normal(directions, wide, HIDDEN, seed=1, scale=0.15),
        "b": normal(directions, 2 * wide, seed=2),
        "lengths": np.array([7, 4, 2], np.int32),
        "h0": normal(directions, SAMPLES, HIDDEN, seed=3, scale=0.5),
        "c0": normal(directions, SAMPLES, HIDDEN, seed=4, scale=0.5),
        "p": normal(directions, 3 * HIDDEN, seed=5),
        **(constants or {}),
    }
    inputs = ["x", "w", "r", *(name if name in optional else "" for name in OPTIONAL)]
    while not inputs[-1]:
        inputs.pop()
    made = helper.make_node("LSTM", inputs, list(outputs), name="lstm", hidden_size=HIDDEN, **attributes)
    return build(
        [made],
        {"x": (STEPS, SAMPLES, INPUTS)},
        {name: None for name in outputs if name},
        {name: values[name] for name in inputs if name in values},
        opset=opset,
    )


def sequences(seed: int = 9) -> Array:
    return normal(STEPS, SAMPLES, INPUTS, seed=seed, scale=1.0)


def outputs_of(model: OnnxModel, x: Array | None = None) -> tuple[Array, ...]:
    return ADAPTER.runner(model, Execution())({"x": sequences() if x is None else x})


def quantized(model: OnnxModel, choice: OpConfig | None = None, recipe: Recipe | None = None) -> OnnxModel:
    config = QuantizationConfig(ops={"lstm": choice or dynamic()}, recipe=recipe or EXACT_HERE)
    candidate = ADAPTER.apply(model, config, NOTHING)
    counts = optimized_op_counts(candidate.proto)
    assert counts["DynamicQuantizeLSTM"] == 1
    assert counts["LSTM"] == 0
    return candidate


def sqnr_db(reference: Array, actual: Array) -> float:
    return float(10 * np.log10(np.square(reference).mean() / np.square(reference - actual).mean()))


CASES: dict[str, tuple[Sequence[str], dict[str, Any]]] = {
    "no bias": ((), {}),
    "bias": (("b",), {}),
    "lengths": (("b", "lengths"), {}),
    "states": (("h0", "c0"), {}),
    "peepholes": (("b", "p"), {}),
    "everything": (OPTIONAL, {}),
    "reverse": (OPTIONAL, {"direction": "reverse"}),
    "bidirectional": (OPTIONAL, {"direction": "bidirectional", "directions": 2}),
    "clip": (("b",), {"clip": 0.3}),
    "coupled gates": (("b",), {"input_forget": 1}),
    "activations": (("b",), {"activations": ["HardSigmoid", "Softsign", "Relu"]}),
    "slope": (("b",), {"activations": ["Sigmoid", "LeakyRelu", "Tanh"], "activation_alpha": [0.3]}),
}


@pytest.mark.parametrize("granularity", Granularity.PLAIN)
@pytest.mark.parametrize("case", CASES)
def test_all_that_the_operator_can_do(case: str, granularity: Granularity) -> None:
    optional, attributes = CASES[case]
    model = ADAPTER.load(lstm(optional, **attributes))
    candidate = quantized(model, dynamic(granularity))
    for reference, actual in zip(outputs_of(model), outputs_of(candidate), strict=True):
        assert reference.shape == actual.shape
        assert sqnr_db(reference, actual) > 25.0
    assert candidate.size_bytes < 0.45 * model.size_bytes


@pytest.mark.parametrize("outputs", [("y",), ("", "y_h"), ("", "", "y_c"), ("y", "", "y_c")])
def test_outputs_that_nobody_wants(outputs: Sequence[str]) -> None:
    model = ADAPTER.load(lstm(outputs=outputs))
    assert [op.name for op in ADAPTER.space(model).ops] == ["lstm"]
    for reference, actual in zip(outputs_of(model), outputs_of(quantized(model)), strict=True):
        assert sqnr_db(reference, actual) > 25.0


def test_dynamic_first_and_never_static() -> None:
    space = ADAPTER.space(ADAPTER.load(lstm()))
    assert [each.precision for each in space.by_name["lstm"].precisions] == [Precision.INT8_DYNAMIC, Precision.FP32]
    static = OpConfig(precision=Precision.INT8, activation=TensorScheme(dtype=QuantizedType.U8))
    with pytest.raises(ApplyError, match="'lstm'"):
        ADAPTER.apply(ADAPTER.load(lstm()), QuantizationConfig(ops={"lstm": static}), NOTHING)


def test_a_model_with_an_lstm_prefers_dynamic_matmuls() -> None:
    proto = lstm(("b",), ("y",))
    proto.graph.node.append(node("MatMul", "y head", "z"))
    proto.graph.node.append(node("Add", "z z", "doubled"))
    proto.graph.initializer.append(numpy_helper.from_array(normal(HIDDEN, 5), "head"))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("doubled", TensorProto.FLOAT, None))
    space = ADAPTER.space(ADAPTER.load(proto))
    assert space.preferred["z"].precision is Precision.INT8_DYNAMIC
    assert space.preferred["doubled"].precision is Precision.FP32


def test_shared_matrices_are_stored_once() -> None:
    proto = lstm(("b",), ("y",), constants={"w": normal(1, 4 * HIDDEN, HIDDEN)})
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = HIDDEN
    proto.graph.node.append(node("Squeeze", "y axis", "s"))
    again = helper.make_node("LSTM", ["s", "w", "r", "b"], ["t"], name="again", hidden_size=HIDDEN)
    proto.graph.node.append(again)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("t", TensorProto.FLOAT, None))
    model = ADAPTER.load(proto)
    x = normal(STEPS, SAMPLES, HIDDEN, seed=9, scale=1.0)
    both = ADAPTER.apply(
        model, QuantizationConfig(ops=dict.fromkeys(("lstm", "again"), dynamic()), recipe=EXACT_HERE), NOTHING
    )
    names = [tensor.name for tensor in both.proto.graph.initializer]
    assert sum(name.endswith("integers") for name in names) == 2
    assert not {"w", "r"} & set(names)
    assert sqnr_db(outputs_of(model, x)[0], outputs_of(both, x)[0]) > 25.0
    one = ADAPTER.apply(model, QuantizationConfig(ops={"again": dynamic()}, recipe=EXACT_HERE), NOTHING)
    assert {"w", "r"} <= {tensor.name for tensor in one.proto.graph.initializer}
    assert sqnr_db(outputs_of(model, x)[0], outputs_of(one, x)[0]) > 25.0


def test_saturation_of_either_matrix_is_seen() -> None:
    model = ADAPTER.load(lstm())
    assert ADAPTER.saturating_ops(quantized(model, recipe=Recipe())) == ("lstm",)
    for granularity in Granularity.PLAIN:
        for safe in (Recipe(reduce_range=True), Recipe(bound_pairs=True)):
            assert ADAPTER.saturating_ops(quantized(model, dynamic(granularity), safe)) == ()
    calm = {"w": np.tile(np.array([[[1.0, -1.0]]], np.float32), (1, 4 * HIDDEN, INPUTS // 2))}
    only_recurrence = quantized(ADAPTER.load(lstm(constants=calm)), recipe=Recipe())
    assert ADAPTER.saturating_ops(only_recurrence) == ("lstm",)


def test_profile_knows_it() -> None:
    model = ADAPTER.load(lstm())
    before, after = ADAPTER.op_seconds([model, quantized(model)], {"x": sequences()}, Execution())
    assert before["lstm"] > 0.0
    assert after["lstm"] > 0.0


def left_out(proto: onnx.ModelProto) -> str:
    model = ADAPTER.load(proto)
    assert not ADAPTER.space(model).ops
    return "\n".join(model.notes)


@pytest.mark.parametrize(("op_type", "gates"), [("GRU", 3), ("RNN", 1)])
def test_gru_and_rnn_have_no_integer_kernel(op_type: str, gates: int) -> None:
    made = node(op_type, "x w r", "y", hidden_size=HIDDEN)
    constants = {"w": normal(1, gates * HIDDEN, INPUTS), "r": normal(1, gates * HIDDEN, HIDDEN)}
    notes = left_out(build([made], {"x": (STEPS, SAMPLES, INPUTS)}, {"y": None}, constants))
    assert f"{op_type} 'y' stays fp32: ONNX Runtime has no integer kernel for it" in notes


def test_matrices_made_at_run_time() -> None:
    proto = lstm(("b",), ("y",))
    proto.graph.node.insert(0, node("Mul", "r factor", "scaled"))
    proto.graph.node[1].input[2] = "scaled"
    proto.graph.input.append(helper.make_tensor_value_info("factor", TensorProto.FLOAT, [1]))
    model = ADAPTER.load(proto)
    assert "lstm" not in ADAPTER.space(model).by_name
    assert any("its recurrence is computed at run time" in note for note in model.notes)


def test_lstm_inside_of_a_subgraph() -> None:
    branches = {}
    for name in ("then_branch", "else_branch"):
        inner = helper.make_node("LSTM", ["x", "w", "r"], [f"{name}_y"], name=f"{name}_lstm", hidden_size=HIDDEN)
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        branches[name] = helper.make_graph([inner], name, [], [out])
    constants = {"w": normal(1, 4 * HIDDEN, INPUTS), "r": normal(1, 4 * HIDDEN, HIDDEN)}
    proto = build([node("If", "flag", "y", **branches)], {"x": (STEPS, SAMPLES, INPUTS)}, {"y": None}, constants)
    proto.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    assert "'then_branch_lstm' stays fp32" in left_out(proto)
    assert "lies in a graph inside of If" in left_out(proto)


def test_old_opset_is_converted() -> None:
    model = ADAPTER.load(lstm(opset=9))
    for reference, actual in zip(outputs_of(model), outputs_of(quantized(model)), strict=True):
        assert sqnr_db(reference, actual) > 25.0


def test_weights_that_are_not_finite() -> None:
    weight = normal(1, 4 * HIDDEN, INPUTS)
    weight[0, 3, 4] = np.inf
    model = ADAPTER.load(lstm(constants={"w": weight}))
    with pytest.raises(ApplyError, match="'w' is not"):
        ADAPTER.apply(model, QuantizationConfig(ops={"lstm": dynamic()}), NOTHING)
