from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from autotune.adapter import Array, Execution
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from autotune.calibration import CalibrationStatistics
from autotune.config import (
    KL,
    MINMAX,
    MSE,
    PERCENTILE,
    Granularity,
    OpConfig,
    Precision,
    QuantizationConfig,
    QuantizedType,
    Recipe,
    TensorScheme,
)
from tests.adapters.onnx.graphs import build, image_batches, node, normal, small_cnn

ADAPTER = OnnxRuntimeAdapter()
BATCHES = image_batches()
RESNET = Path("../shared/data/resnet20_cifar10.onnx")
PER_TENSOR = TensorScheme(dtype=QuantizedType.S8, symmetric=True)
PER_CHANNEL = dataclasses.replace(PER_TENSOR, granularity=Granularity.PER_CHANNEL)
INT8 = OpConfig(
    precision=Precision.INT8,
    activation=TensorScheme(dtype=QuantizedType.U8),
    weight=PER_CHANNEL,
    calibration=MINMAX,
)


def change(**fields: object) -> OpConfig:
    return dataclasses.replace(INT8, **fields)  # type: ignore[arg-type]


class Graph:
    """A candidate's graph, with the questions that tests ask of it."""

    def __init__(self, model: OnnxModel) -> None:
        self.nodes = {n.name: n for n in model.proto.graph.node}
        self.producers = {name: n for n in model.proto.graph.node for name in n.output}
        self.constants = {t.name: numpy_helper.to_array(t) for t in model.proto.graph.initializer}

    def parameters(self, op: str, index: int) -> tuple[Array, Array] | None:
        """Scale and zero point of what an op reads; None for fp32."""
        source = self.producers.get(self.nodes[op].input[index])
        if source is None or source.op_type != "DequantizeLinear":
            return None
        return self.constants[source.input[1]], self.constants[source.input[2]]

    def activation(self, op: str) -> tuple[Array, Array]:
        parameters = self.parameters(op, 0)
        assert parameters is not None
        return parameters

    def weight(self, op: str) -> Array:
        """The integers of an op's weight."""
        return self.constants[self.producers[self.nodes[op].input[1]].input[0]]


def loaded(proto: onnx.ModelProto) -> tuple[OnnxModel, CalibrationStatistics]:
    model = ADAPTER.load(proto)
    return model, ADAPTER.calibrate(model, BATCHES, seed=0)


def apply(proto: onnx.ModelProto, ops: Mapping[str, OpConfig], recipe: Recipe | None = None) -> Graph:
    model, statistics = loaded(proto)
    config = QuantizationConfig(ops=ops, recipe=recipe or Recipe())
    candidate = ADAPTER.apply(model, config, statistics)
    onnx.checker.check_model(candidate.proto)
    ADAPTER.runner(candidate, Execution())(BATCHES[0])
    return Graph(candidate)


def test_each_op_gets_its_own_choice_and_the_saved_model_shows_it(tmp_path: Path) -> None:
    if not RESNET.exists():
        pytest.skip(f"{RESNET} is not here")
    model = ADAPTER.load(RESNET)
    batches = image_batches(2, shape=(3, 32, 32), name="data")
    statistics = ADAPTER.calibrate(model, batches, seed=0)
    third, fourth, fifth = [op.name for op in ADAPTER.space(model).ops if op.op_type == "Conv"][3:6]
    config = QuantizationConfig(ops={third: change(calibration=KL), fifth: change(weight=PER_TENSOR)})
    ADAPTER.save(ADAPTER.apply(model, config, statistics), tmp_path / "saved.onnx", {})
    saved = Graph(OnnxModel(proto=onnx.load(tmp_path / "saved.onnx")))

    kl, minmax = saved.activation(third), saved.activation(fifth)
    observed = {name: statistics.tensors[n.input[0]] for name, n in _nodes(model).items() if name in (third, fifth)}
    assert kl[0] < (observed[third].maximum - min(observed[third].minimum, 0)) / 255 * 0.99, "KL clips"
    np.testing.assert_allclose(minmax[0], (observed[fifth].maximum - min(observed[fifth].minimum, 0)) / 255, rtol=1e-5)
    per_channel, per_tensor = saved.parameters(third, 1), saved.parameters(fifth, 1)
    assert per_channel is not None
    assert per_tensor is not None
    assert per_channel[0].shape == (saved.weight(third).shape[0],)
    assert per_tensor[0].shape == ()
    assert saved.parameters(fourth, 1) is None, "its weight is fp32"
    assert saved.nodes[fourth].input[1] in saved.constants


def _nodes(model: OnnxModel) -> dict[str, onnx.NodeProto]:
    return {n.name: n for n in model.proto.graph.node}


@pytest.mark.parametrize("algorithm", [MINMAX, PERCENTILE, KL, MSE])
def test_first_int8_reader_decides(algorithm: object) -> None:
    """``r1`` is read by the depthwise convolution first and by the Add after it."""
    ops = {"c2": change(calibration=algorithm), "sum": INT8}
    decided = apply(small_cnn(), ops).activation("c2")
    reversed_ops = {"c2": INT8, "sum": change(calibration=algorithm)}
    other = apply(small_cnn(), reversed_ops).activation("c2")
    minmax = apply(small_cnn(), {"c2": INT8, "sum": INT8}).activation("c2")
    assert other == minmax
    assert (decided == minmax) == (algorithm is MINMAX)


def test_writer_decides_where_only_fp32_reads() -> None:
    graph = apply(small_cnn(), {"c3": change(activation=TensorScheme(dtype=QuantizedType.U8, symmetric=True))})
    source = graph.producers[graph.nodes["sum"].input[0]]
    assert source.op_type == "DequantizeLinear"
    assert graph.constants[source.input[2]] == 128


def test_connected_ops_use_the_type_of_the_first_and_the_same_values() -> None:
    s8 = TensorScheme(dtype=QuantizedType.S8)
    mixed = apply(small_cnn(), {"c1": INT8, "c2": INT8, "c3": change(activation=s8), "sum": INT8})
    plain = apply(small_cnn(), dict.fromkeys(("c1", "c2", "c3", "sum"), INT8))
    assert mixed.activation("c3")[1].dtype == np.uint8
    assert mixed.activation("c3") == plain.activation("c3")
    shifted = apply(small_cnn(), dict.fromkeys(("c1", "c2", "c3", "sum"), change(activation=s8)))
    for op in ("c1", "c2", "c3", "sum"):
        (scale, zero), (same, moved) = plain.activation(op), shifted.activation(op)
        assert moved.dtype == np.int8
        assert (scale, int(zero) - 128) == (same, int(moved))


@pytest.mark.parametrize(("dtype", "zero_point"), [(QuantizedType.U8, 0), (QuantizedType.S8, -128)])
def test_symmetric_scheme_of_a_tensor_without_negative_values_uses_all_integers(
    dtype: QuantizedType, zero_point: int
) -> None:
    nodes = [node("Abs", "x", "a"), node("Conv", "a w", "y")]
    model = build(nodes, {"x": ("N", 3, 8, 8)}, {"y": None}, {"w": normal(4, 3, 3, 3)})
    loaded = ADAPTER.load(model)
    statistics = ADAPTER.calibrate(loaded, BATCHES, seed=0)
    (conv,) = ADAPTER.space(loaded).ops
    symmetric = change(activation=TensorScheme(dtype=dtype, symmetric=True))
    graph = Graph(ADAPTER.apply(loaded, QuantizationConfig(ops={conv.name: symmetric}), statistics))
    parameters = graph.parameters(conv.name, 0)
    assert parameters is not None
    assert parameters[1] == zero_point
    np.testing.assert_allclose(parameters[0], statistics.tensors["a"].maximum / 255, rtol=1e-6)


def test_symmetric_scheme_of_a_tensor_that_relu_cuts_stays_above_zero() -> None:
    symmetric = change(activation=TensorScheme(dtype=QuantizedType.U8, symmetric=True))
    graph = apply(small_cnn(), {"c1": symmetric, "c2": symmetric})
    assert graph.activation("c1")[1] == 128
    assert graph.activation("c2")[1] == 0


def test_range_lies_within_what_clip_lets_through() -> None:
    proto = small_cnn()
    next(t for t in proto.graph.initializer if t.name == "b2").CopyFrom(
        numpy_helper.from_array(normal(32, scale=20.0), "b2")
    )
    graph = apply(proto, {"c2": INT8, "c3": INT8})
    scale, zero = graph.activation("c3")
    assert zero == 0
    assert scale * 255 <= 6.0 * (1 + 1e-6)


def test_shared_weight_is_quantized_once_per_choice_and_left_to_fp32_readers() -> None:
    chain = zip("xabcd", "abcde", strict=True)
    nodes = [node("Conv", f"{source} weight bias", target, pads=[1, 1, 1, 1]) for source, target in chain]
    constants = {"weight": normal(3, 3, 3, 3), "bias": normal(3)}
    proto = build(nodes, {"x": ("N", 3, 8, 8)}, {"e": None}, constants)
    graph = apply(proto, {"a": INT8, "b": INT8, "c": change(weight=PER_TENSOR)})
    first, second, third = (graph.nodes[name].input[1] for name in "abc")
    assert first == second != third
    assert graph.constants[graph.nodes["d"].input[1]].dtype == np.float32
    assert graph.nodes["d"].input[2] == "bias"
    assert graph.constants["bias"].dtype == np.float32
    biases = {graph.nodes[name].input[2] for name in "abc"}
    assert len(biases) == 3, "a bias has the scale of its op's input"


def test_unread_fp32_weights_are_dropped() -> None:
    graph = apply(small_cnn(), {"logits": INT8})
    assert not any(value.shape == (500, 32) and value.dtype == np.float32 for value in graph.constants.values())


def test_reduce_range_uses_seven_bits() -> None:
    for reduce_range, largest in ((False, 127), (True, 64)):
        graph = apply(small_cnn(), {"c3": INT8}, Recipe(reduce_range=reduce_range))
        assert np.abs(graph.weight("c3").astype(int)).max() == largest


def test_bias_never_exceeds_32_bits() -> None:
    """A channel whose weights are nearly zero would need a bias beyond int32 (onnxruntime issue 21000)."""
    weight, bias = normal(4, 3, 3, 3), normal(4)
    weight[1] *= 1e-9
    bias[1] = 5.0
    proto = build([node("Conv", "x w b", "y")], {"x": ("N", 3, 8, 8)}, {"y": None}, {"w": weight, "b": bias})
    model, statistics = loaded(proto)
    candidate = ADAPTER.apply(model, QuantizationConfig(ops={"y": INT8}), statistics)
    expected, actual = (ADAPTER.runner(each, Execution())(BATCHES[0])[0] for each in (model, candidate))
    np.testing.assert_allclose(actual[:, 1], expected[:, 1], atol=0.05)


def test_weights_of_mse_have_no_larger_error_than_of_minmax() -> None:
    weight = normal(2000, 3, 3, 3)
    weight[0, 0, 0, 0] = 1.6
    proto = build([node("Conv", "x w", "y")], {"x": ("N", 3, 8, 8)}, {"y": None}, {"w": weight})

    def error(algorithm: object) -> float:
        graph = apply(proto, {"y": change(calibration=algorithm, weight=PER_TENSOR)})
        parameters = graph.parameters("y", 1)
        assert parameters is not None
        return float(np.square(graph.weight("y") * parameters[0] - weight).sum())

    assert error(MSE) < error(MINMAX)


def test_dead_channel_and_constant_input_do_no_harm() -> None:
    weight = normal(4, 3, 3, 3)
    weight[2] = 0
    proto = build([node("Conv", "x w", "y")], {"x": ("N", 3, 8, 8)}, {"y": None}, {"w": weight})
    model = ADAPTER.load(proto)
    zeros = {"x": np.zeros((2, 3, 8, 8), np.float32)}
    statistics = ADAPTER.calibrate(model, [zeros], seed=0)
    for algorithm in (MINMAX, PERCENTILE, KL, MSE):
        candidate = ADAPTER.apply(model, QuantizationConfig(ops={"y": change(calibration=algorithm)}), statistics)
        assert np.isfinite(ADAPTER.runner(candidate, Execution())(BATCHES[0])[0]).all()


def test_applying_a_config_does_no_work_twice() -> None:
    """Half a second is the promise for MobileNetV2, a tenth of that was measured; calls are the same on every machine.

    A table of the graph that is made anew for every node takes millions.
    """
    path = RESNET.with_name("mobilenetv2_cifar10.onnx")
    if not path.exists():
        pytest.skip(f"{path} is not here")
    model = ADAPTER.load(path)
    statistics = ADAPTER.calibrate(model, image_batches(1, shape=(3, 128, 128), name="data"), seed=0)
    # Recipes that run examples through the model have a price of their own, see docs/recipes.md.
    config = dataclasses.replace(ADAPTER.space(model).preferred, recipe=Recipe())
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        ADAPTER.apply(model, config, statistics)
    finally:
        sys.setprofile(before)
    assert calls < 400_000  # 142,158 with ONNX Runtime 1.32
