from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, version_converter

from autotune.adapter import Array, Execution
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from autotune.config import MINMAX
from tests.adapters.onnx.graphs import build, image_batches, node, normal, small_cnn
from tests.adapters.onnxruntime.saturating import EXACT_HERE

pytestmark = pytest.mark.numeric

ADAPTER = OnnxRuntimeAdapter()
FEEDS = image_batches(1)[0]
DATA = Path("../shared/data")


def original(proto: onnx.ModelProto, feeds: dict[str, Array]) -> Array:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    output: Array = session.run(None, feeds)[0]
    return output


def prepared(model: OnnxModel, feeds: dict[str, Array]) -> Array:
    return ADAPTER.runner(model, Execution())(feeds)[0]


def op_types(model: OnnxModel) -> list[str]:
    return [n.op_type for n in model.proto.graph.node]


def test_batch_normalization_is_folded_and_outputs_stay() -> None:
    proto = small_cnn()
    model = ADAPTER.load(proto)
    assert "BatchNormalization" not in op_types(model)
    np.testing.assert_allclose(prepared(model, FEEDS), original(proto, FEEDS), atol=1e-5)


@pytest.mark.parametrize(("name", "size"), [("resnet20", 32), ("mobilenetv2", 128)])
def test_real_models_compute_the_same(name: str, size: int) -> None:
    path = DATA / f"{name}_cifar10.onnx"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    feeds = {"data": normal(2, 3, size, size, scale=1.0)}
    model = ADAPTER.load(path)
    np.testing.assert_allclose(prepared(model, feeds), original(onnx.load(path), feeds), rtol=1e-4, atol=1e-4)
    assert {"BatchNormalization", "Identity", "Constant"}.isdisjoint(op_types(model))


def test_preparing_again_changes_nothing() -> None:
    once = ADAPTER.load(small_cnn())
    assert ADAPTER.load(once.proto).fingerprint == once.fingerprint


def test_fixed_shapes_of_three_dimensions() -> None:
    """ONNX Runtime makes a Gemm of each product and its bias, under names that it wants to use again in a session."""
    nodes = [node("MatMul", "x w", "a"), node("Add", "a b", "c"), node("Relu", "c", "d"), node("MatMul", "d v", "y")]
    constants = {"w": normal(8, 8), "b": normal(8), "v": normal(8, 4)}
    proto = build(nodes, {"x": (2, 3, 8)}, {"y": (2, 3, 4)}, constants)
    once = ADAPTER.load(proto)
    assert "Gemm" in op_types(once)
    # A second product with a bias, as fusions leave behind.
    again = onnx.ModelProto()
    again.CopyFrom(once.proto)
    again.graph.initializer.append(onnx.numpy_helper.from_array(normal(4), "late"))
    again.graph.node.append(node("Add", "y late", "z"))
    again.graph.output[0].name = "z"
    feeds = {"x": normal(2, 3, 8)}
    twice = ADAPTER.load(again)
    assert op_types(twice).count("Gemm") == 2
    np.testing.assert_allclose(prepared(twice, feeds), original(proto, feeds) + normal(4), atol=1e-5)
    np.testing.assert_allclose(prepared(ADAPTER.load(twice.proto), feeds), prepared(twice, feeds), atol=1e-6)


def test_unnamed_and_equally_named_nodes_get_names_of_their_own() -> None:
    proto = small_cnn()
    for each in proto.graph.node:
        each.name = "same" if each.op_type == "Conv" else ""
    names = [n.name for n in ADAPTER.load(proto).proto.graph.node]
    assert len(set(names)) == len(names)
    assert all(names)
    assert {"same", "same_2", "same_3"} <= set(names)


def test_weights_behind_identity_constant_and_transpose_are_found() -> None:
    nodes = [
        node("Constant", "", "raw", value=onnx.numpy_helper.from_array(normal(3, 4, 3, 3))),
        node("Transpose", "raw", "turned", perm=[1, 0, 2, 3]),
        node("Identity", "turned", "w"),
        node("Conv", "x w", "y"),
    ]
    model = ADAPTER.load(build(nodes, {"x": ("N", 3, 8, 8)}, {"y": None}, {}))
    assert op_types(model) == ["Conv"]
    assert [op.name for op in ADAPTER.space(model).ops] == ["y"]


def test_value_info_that_contradicts_is_dropped() -> None:
    """PyTorch 2 writes shapes into a graph that contradict it; ONNX Runtime's quantizer then fails."""
    proto = small_cnn()
    for name, shape in (("c3", [384, 7]), ("sum", [2])):
        proto.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    model = ADAPTER.load(proto)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.proto.graph.value_info}
    assert shapes["sum"][1:] == [32, 8, 8]
    statistics = ADAPTER.calibrate(model, [FEEDS], seed=0)
    candidate = ADAPTER.apply(model, ADAPTER.space(model).preferred, statistics)
    np.testing.assert_allclose(prepared(candidate, FEEDS), original(proto, FEEDS), atol=0.2)


def test_constants_listed_as_inputs_are_constants() -> None:
    proto = small_cnn()
    proto.ir_version = 3
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    model = ADAPTER.load(proto)
    assert [spec.name for spec in model.inputs] == ["x"]
    assert "BatchNormalization" not in op_types(model)


def test_old_opset_is_upgraded_with_a_note() -> None:
    proto = build(
        [node("Conv", "x w", "c"), node("Clip", "c", "y", min=0.0, max=6.0)],
        {"x": ("N", 3, 8, 8)},
        {"y": None},
        {"w": normal(4, 3, 3, 3)},
        opset=9,
    )
    model = ADAPTER.load(proto)
    assert any("opset 9 to 13" in note for note in model.notes)
    np.testing.assert_allclose(prepared(model, FEEDS), original(proto, FEEDS), atol=1e-6)
    space = ADAPTER.space(model).ops[0].precisions[0]
    assert [str(scheme.granularity) for scheme in space.weights] == ["per_channel", "per_tensor"]


def test_opset_that_cannot_be_upgraded_offers_no_per_channel_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no adapter for this op\nand more")

    monkeypatch.setattr(version_converter, "convert_version", refuse)
    proto = build([node("Conv", "x w", "y")], {"x": ("N", 3, 8, 8)}, {"y": None}, {"w": normal(4, 3, 3, 3)}, opset=11)
    model = ADAPTER.load(proto)
    assert any("(no adapter for this op)" in note and "per-channel" in note for note in model.notes)
    (conv,) = ADAPTER.space(model).ops
    assert [str(scheme.granularity) for scheme in conv.precisions[0].weights] == ["per_tensor"]
    statistics = ADAPTER.calibrate(model, [FEEDS], seed=0)
    wanted = dataclasses.replace(ADAPTER.space(model).preferred[conv.name], calibration=MINMAX)
    candidate = ADAPTER.apply(model, ADAPTER.space(model).uniform(wanted, EXACT_HERE), statistics)
    np.testing.assert_allclose(prepared(candidate, FEEDS), original(proto, FEEDS), atol=0.1)
