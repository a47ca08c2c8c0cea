"""Q/DQ pairs: the graphs that ONNX Runtime's own quantizer makes, in work that grows with the graph and no faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import TensorData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from autotune.adapter import Execution
from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnx.rewriting import sort_nodes
from autotune.adapters.onnx.session import open_session, session_options
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter, apply
from autotune.adapters.onnxruntime.choices.ops import quantizable_ops
from autotune.adapters.onnxruntime.static.insertion import insert_pairs
from autotune.adapters.onnxruntime.static.placement import Placement, place
from autotune.adapters.onnxruntime.static.weights import quantize_weights
from autotune.algorithms import AffineParameters
from autotune.config import Precision, QuantizationConfig, QuantizedType
from tests.adapters.onnx.graphs import around, build, image_batches, node, normal, small_cnn
from tests.adapters.onnxruntime.test_apply import INT8

ADAPTER = OnnxRuntimeAdapter()
Parameters = Mapping[str, tuple[AffineParameters, QuantizedType]]


class Reference(QDQQuantizer):  # type: ignore[misc]  # ONNX Runtime ships no types
    """ONNX Runtime's own quantizer, told what to quantize and with which parameters."""

    def __init__(self, proto: onnx.ModelProto, placement: Placement, parameters: Parameters) -> None:
        self.quantized = set(parameters)
        types = {QuantizedType.U8: (QuantType.QUInt8, np.uint8), QuantizedType.S8: (QuantType.QInt8, np.int8)}
        overrides = {
            name: [
                {
                    "quant_type": types[dtype][0],
                    "scale": np.asarray(values.scale, np.float32).reshape(()),
                    "zero_point": np.asarray(values.zero_point).astype(types[dtype][1]).reshape(()),
                }
            ]
            for name, (values, dtype) in parameters.items()
        }
        unused = TensorData(lowest=np.float32(0), highest=np.float32(1))
        super().__init__(
            proto,
            per_channel=False,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=dict.fromkeys(placement.groups, unused),
            nodes_to_quantize=[op.name for op in placement.ops] + sorted(placement.followers),
            nodes_to_exclude=[],
            op_types_to_quantize=list({each.op_type for each in proto.graph.node}),
            extra_options={
                "TensorQuantOverrides": overrides,
                "ForceQuantizeNoInputCheck": True,
                "QDQDisableWeightAdjustForInt32Bias": True,
            },
        )

    def quantize_activation_tensor(self, tensor_name: str) -> None:
        if tensor_name in self.quantized:
            super().quantize_activation_tensor(tensor_name)

    def quantize_output_same_as_input(self, output_name: str, input_name: str, node_name: str) -> None:  # noqa: ARG002
        self.quantize_activation_tensor(output_name)


def by_onnxruntime(proto: onnx.ModelProto, placement: Placement, parameters: Parameters) -> None:
    """The work of ``insert_pairs``, done by ONNX Runtime."""
    producer = proto.producer_name, proto.producer_version
    proto.metadata_props.add(key="onnx.infer", value="onnxruntime.quant")
    made = Reference(proto, placement, parameters).quantize_model()
    sort_nodes(made)
    proto.CopyFrom(made)
    del proto.metadata_props[:]
    proto.producer_name, proto.producer_version = producer


def branches() -> onnx.ModelProto:
    """Ops that share tensors, constants read like activations, ops that move values, and an output read inside."""
    nodes = [
        node("Relu", "a", "r"),
        node("Transpose", "r", "t", perm=[0, 1, 3, 2]),
        node("Add", "t shift", "s"),
        node("Mul", "r s", "m"),
        node("Concat", "r m", "joined", axis=1),
        node("Slice", "joined zero eight one", "cut"),
        node("Clip", "cut low high", "clipped"),
        node("AveragePool", "clipped", "pooled", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Sigmoid", "pooled", "gate"),
        node("Mul", "gate r", "gated"),
    ]
    constants = {
        "shift": normal(8, 1, 1, seed=5),
        "low": np.array(-1, np.float32),
        "high": np.array(4, np.float32),
        "zero": np.array([0], np.int64),
        "eight": np.array([8], np.int64),
        "one": np.array([1], np.int64),
    }
    model = around(nodes, "gated", constants=constants)
    model.graph.output.append(onnx.helper.make_tensor_value_info("m", onnx.TensorProto.FLOAT, None))
    return model


def product() -> onnx.ModelProto:
    nodes = [node("Gemm", "x w b", "g"), node("Relu", "g", "r"), node("MatMul", "r v", "p"), node("Add", "p c", "y")]
    constants = {"w": normal(8, 16), "b": normal(16), "v": normal(16, 4), "c": normal(4)}
    return build(nodes, {"x": ("N", 8)}, {"y": ("N", 4)}, constants)


MODELS: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[int, ...]]] = {
    "cnn": (small_cnn, (3, 8, 8)),
    "branches": (branches, (3, 8, 8)),
    "product": (product, (8,)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("left_out", [None, 0, 1, 2, 3, 4])
def test_the_graph_is_the_one_that_onnxruntimes_own_quantizer_makes(
    name: str, left_out: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, shape = MODELS[name]
    model = ADAPTER.load(make())
    statistics = ADAPTER.calibrate(model, image_batches(shape=shape), seed=0)
    static = [
        (op.name, each.preferred)
        for op in ADAPTER.space(model).tunable
        for each in op.precisions
        if each.precision is Precision.INT8
    ]
    chosen = [each for index, each in enumerate(static) if left_out is None or index % 5 != left_out]
    config = QuantizationConfig(ops=dict(chosen))
    ours = ADAPTER.apply(model, config, statistics).proto
    monkeypatch.setattr(apply, "insert_pairs", by_onnxruntime)
    theirs = ADAPTER.apply(model, config, statistics).proto
    assert [str(each) for each in ours.graph.node] == [str(each) for each in theirs.graph.node]
    constants = [{t.name: numpy_helper.to_array(t) for t in each.graph.initializer} for each in (ours, theirs)]
    assert list(constants[0]) == list(constants[1])
    for tensor, values in constants[0].items():
        assert values.dtype == constants[1][tensor].dtype
        np.testing.assert_array_equal(values, constants[1][tensor])
    assert list(ours.graph.input) == list(theirs.graph.input)


def test_names_that_the_model_has_already_are_left_to_it() -> None:
    """A user's constant ``a_scale`` is no scale of ours, nor is a user's node ``a_QuantizeLinear``."""
    nodes = [
        node("Relu", "a", "r"),
        node("Mul", "r r_scale", "m"),
        node("Add", "m r_zero_point", "r_QuantizeLinear_Output"),
        node("Identity", "r_QuantizeLinear_Output", "b1_quantized"),
        onnx.helper.make_node("Relu", ["b1_quantized"], ["last"], name="r_QuantizeLinear"),
    ]
    constants = {
        "r_scale": np.full((1, 1, 1, 1), 3, np.float32),
        "r_zero_point": np.full((1, 1, 1, 1), 0.25, np.float32),
    }
    model = ADAPTER.load(around(nodes, "last", constants=constants))
    batches = image_batches()
    statistics = ADAPTER.calibrate(model, batches, seed=0)
    candidate = ADAPTER.apply(model, ADAPTER.space(model).preferred, statistics)
    onnx.checker.check_model(candidate.proto, full_check=True)
    names = [each.name for each in candidate.proto.graph.node]
    assert len(set(names)) == len(names)
    want = ADAPTER.runner(model, Execution())(batches[0])[0]
    have = ADAPTER.runner(candidate, Execution())(batches[0])[0]
    assert np.square(have - want).mean() < 0.01 * np.square(want).mean()


def test_inputs_and_constants_that_are_outputs_too_are_passed_on_as_they_are() -> None:
    nodes = [node("Relu", "a", "r"), node("Add", "r shift", "last")]
    proto = around(nodes, "last", constants={"shift": normal(8, 1, 1, seed=5)})
    for name in ("x", "shift", "b2"):
        proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    proto = onnx.shape_inference.infer_shapes(proto)
    parameters = (AffineParameters(np.array(0.02, np.float32), np.array(128)), QuantizedType.U8)
    graph = Graph(proto)
    ops, _ = quantizable_ops(graph)
    config = QuantizationConfig(ops={op.name: INT8 for op in ops if op.name in ("a", "last")})
    placement = place(graph, ops, config)
    assert {"x", "last"} <= set(placement.groups)
    plain = onnx.ModelProto.FromString(proto.SerializeToString())
    quantize_weights(proto, OnnxModel(proto=plain), placement.ops, config, {"a": _grid(8)})
    insert_pairs(proto, placement, dict.fromkeys([*placement.groups, "shift"], parameters))
    feeds = image_batches()[0]
    have = open_session(proto, None, session_options(Execution())).run(["x", "shift", "b2"], feeds)
    want = open_session(plain, None, session_options(Execution())).run(["x", "shift", "b2"], feeds)
    for mine, theirs in zip(have, want, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def _grid(channels: int) -> AffineParameters:
    return AffineParameters(np.full(channels, 0.01, np.float32), np.zeros(channels, np.int8))
