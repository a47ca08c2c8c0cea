from __future__ import annotations

from collections import Counter

import numpy as np
import openvino as ov
import pytest

from autotune.adapter import Array
from autotune.adapters.openvino import OpenVinoModel
from autotune.adapters.openvino.ops import op_name, quantizable_ops
from autotune.adapters.openvino.quantize import ActivationGrids
from autotune.algorithms import activation_range, affine_parameters
from autotune.config import (
    KL,
    LEAST_ERROR,
    MINMAX,
    BiasCorrection,
    CalibrationAlgorithm,
    Granularity,
    OpConfig,
    Precision,
    QuantizationConfig,
    QuantizedType,
    Recipe,
    TensorScheme,
)
from autotune.errors import ApplyError
from tests.adapters.onnx.graphs import build, image_batches, node, normal
from tests.adapters.openvino.calibrated import ADAPTER, ONE_THREAD, calibrated, wide

U8 = TensorScheme(dtype=QuantizedType.U8)
S8 = TensorScheme(dtype=QuantizedType.S8, symmetric=True)


def nodes(model: OpenVinoModel, kind: str) -> dict[str, ov.Node]:
    return {op_name(op): op for op in model.graph.get_ordered_ops() if op.get_type_name() == kind}


def reads_integers(op: ov.Node) -> list[bool]:
    return [port.get_node().get_type_name() == "FakeQuantize" for port in op.input_values()]


def output(model: OpenVinoModel, *feeds: Array) -> Array:
    return ADAPTER.runner(model, ONE_THREAD)({"x": feeds[0]} if feeds else wide().batches[0])[0]


def sqnr_db(reference: Array, value: Array) -> float:
    return float(10 * np.log10(np.square(reference).mean() / np.square(reference - value).mean()))


def test_ops_bear_the_names_of_the_onnx_nodes_and_openvinos_kinds() -> None:
    space = ADAPTER.space(wide().model)
    assert [(op.name, op.op_type) for op in space.ops] == [
        ("c1", "Convolution"),
        ("c2", "GroupConvolution"),
        ("c3", "Convolution"),
        ("sum", "Add"),
        ("logits", "MatMul"),
    ]


def test_weights_become_integers_that_the_file_holds() -> None:
    candidate = wide().int8()
    for kind in ("Convolution", "GroupConvolution", "MatMul"):
        for op in nodes(candidate, kind).values():
            scaled = op.input_value(1).get_node()
            convert = scaled.input_value(0).get_node()
            assert [scaled.get_type_name(), convert.get_type_name()] == ["Multiply", "Convert"]
            assert convert.input_value(0).get_element_type() == ov.Type.i8
    assert len(candidate.files[1]) < 0.3 * len(wide().model.files[1])


@pytest.mark.parametrize("algorithm", [MINMAX, KL, LEAST_ERROR, CalibrationAlgorithm.parse("percentile:99.9")])
@pytest.mark.parametrize("scheme", [U8, S8], ids=str)
def test_fake_quantize_has_the_range_of_our_own_scale(algorithm: CalibrationAlgorithm, scheme: TensorScheme) -> None:
    candidate = wide().int8("c1", activation=scheme, calibration=algorithm)
    (quantizer,) = nodes(candidate, "FakeQuantize").values()
    low, high, low_out, high_out = (float(port.get_node().data) for port in quantizer.input_values()[1:])
    found = wide().statistics.tensors["x"]
    parameters = affine_parameters(*activation_range(found, algorithm, scheme), scheme)
    smallest, largest = (-128, 127) if scheme is S8 else (0, 255)
    assert quantizer.get_attributes()["levels"] == 256
    assert low == low_out == pytest.approx(float(parameters.scale) * (smallest - int(parameters.zero_point)))
    assert high == high_out == pytest.approx(float(parameters.scale) * (largest - int(parameters.zero_point)))


def test_one_tensor_has_one_quantizer_and_fp32_ops_read_the_tensor_itself() -> None:
    both = wide().int8("c2", "sum")  # both read what the first Relu writes
    first, add = nodes(both, "GroupConvolution")["c2"], nodes(both, "Add")["sum"]
    shared = [port.get_node().get_friendly_name() for port in add.input_values()]
    assert first.input_value(0).get_node().get_friendly_name() in shared
    assert len(nodes(both, "FakeQuantize")) == 2
    alone = wide().int8("c2")
    assert reads_integers(nodes(alone, "Add")["sum"]) == [False, False]
    assert reads_integers(nodes(alone, "GroupConvolution")["c2"]) == [True, False]


def test_each_op_alone_is_what_changes_and_what_openvino_computes_in_integers() -> None:
    reference = output(wide().model)
    for name in ("c1", "c2", "c3", "logits"):
        candidate = wide().int8(name)
        quantized = output(candidate)
        assert 25 < sqnr_db(reference, quantized) < 80
        assert candidate.notes == ()


def test_a_scale_per_channel_is_closer_than_one_for_all() -> None:
    reference = output(wide().model)
    per_tensor = wide().int8(weight=TensorScheme(dtype=QuantizedType.S8, symmetric=True))
    per_channel = wide().int8(
        weight=TensorScheme(dtype=QuantizedType.S8, symmetric=True, granularity=Granularity.PER_CHANNEL)
    )
    assert sqnr_db(reference, output(per_channel)) > sqnr_db(reference, output(per_tensor)) + 1


@pytest.mark.parametrize(
    ("name", "proto", "shape"),
    [
        (
            "transposed",
            build([node("MatMul", "x w", "y")], {"x": ("N", 6, 8)}, {"y": None}, {"w": normal(8, 16)}),
            (6, 8),
        ),
        (
            "gemm",
            build([node("Gemm", "x w", "y", transB=1)], {"x": ("N", 8)}, {"y": None}, {"w": normal(16, 8)}),
            (8,),
        ),
        (
            "grouped",
            build([node("Conv", "x w", "y", group=2)], {"x": ("N", 8, 6, 6)}, {"y": None}, {"w": normal(16, 4, 3, 3)}),
            (8, 6, 6),
        ),
        (
            "one dimension",
            build([node("Conv", "x w", "y")], {"x": ("N", 8, 9)}, {"y": None}, {"w": normal(16, 8, 3)}),
            (8, 9),
        ),
        (
            "stacked",
            build([node("MatMul", "x w", "y")], {"x": ("N", 3, 6, 8)}, {"y": None}, {"w": normal(3, 8, 16)}),
            (3, 6, 8),
        ),
    ],
)
def test_weights_of_every_layout_keep_their_channels(name: str, proto: object, shape: tuple[int, ...]) -> None:
    del name
    subject = calibrated(proto, image_batches(shape=shape))  # type: ignore[arg-type]
    weight = ADAPTER.space(subject.model).ops[0].preferred.weight
    assert weight is not None
    feeds = subject.batches[0]["x"]
    candidate = subject.int8("y")
    assert sqnr_db(output(subject.model, feeds), output(candidate, feeds)) > 35
    assert candidate.notes == ()


@pytest.mark.parametrize("scheme", [U8, S8], ids=str)
def test_a_product_of_two_activations_has_no_zero_point(scheme: TensorScheme) -> None:
    proto = build(
        [
            node("MatMul", "x q", "query"),
            node("MatMul", "x k", "key"),
            node("Transpose", "key", "turned", perm=[0, 2, 1]),
            node("MatMul", "query turned", "y"),
        ],
        {"x": ("N", 6, 8)},
        {"y": None},
        {"q": normal(8, 16), "k": normal(8, 16, seed=1)},
    )
    subject = calibrated(proto, image_batches(shape=(6, 8)))
    candidate = subject.int8(activation=scheme)
    second = nodes(candidate, "MatMul")["y"].input_value(1).get_node()
    low, high = (float(port.get_node().data) for port in second.input_values()[1:3])
    assert low == pytest.approx(-high * 128 / 127)
    grids = ActivationGrids(subject.statistics, {})
    op = next(op for op in quantizable_ops(subject.model.graph)[0] if op.name == "y")
    grids.choose(op, ADAPTER.space(subject.model).by_name["y"].preferred)
    assert set(grids.tensors()) == {"query", "turned"}
    assert candidate.notes == ()


def test_bias_correction_takes_the_mean_shift_back() -> None:
    reference = output(wide().model)
    coarse = Recipe(reduce_range=True)
    corrected = Recipe(reduce_range=True, bias_correction=BiasCorrection.FAST)
    plain, better = (
        np.abs((output(wide().int8(recipe=recipe)) - reference).mean(axis=0)).mean() for recipe in (coarse, corrected)
    )
    assert better < 0.8 * plain


def test_an_op_without_a_bias_gets_one_and_the_output_keeps_its_name() -> None:
    proto = build([node("MatMul", "x w", "y")], {"x": ("N", 8)}, {"y": None}, {"w": normal(8, 16)})
    subject = calibrated(proto, [{"x": normal(64, 8, scale=1.0) + 2}])
    candidate = subject.int8(recipe=Recipe(bias_correction=BiasCorrection.FAST))
    assert [spec.name for spec in candidate.outputs] == ["y"]
    feeds = subject.batches[0]["x"]
    shift = (output(candidate, feeds) - output(subject.model, feeds)).mean(axis=0)
    plain = (output(subject.int8(), feeds) - output(subject.model, feeds)).mean(axis=0)
    assert np.abs(shift).mean() < 0.5 * np.abs(plain).mean()


def test_precisions_without_a_kernel_are_refused() -> None:
    config = QuantizationConfig(ops={"c1": OpConfig(precision=Precision.INT8_DYNAMIC)})
    with pytest.raises(ApplyError, match=r"int8, fp32, bf16 or fp16, but 'c1' is to be in int8_dynamic"):
        ADAPTER.apply(wide().model, config, wide().statistics)


def test_batch_normalization_is_folded_and_names_stay() -> None:
    prepared, given = wide().model, ADAPTER.as_given(wide().model)
    kinds = Counter(op.get_type_name() for op in prepared.graph.get_ordered_ops())
    assert not kinds["BatchNormInference"]
    assert kinds["ShapeOf"] < Counter(op.get_type_name() for op in given.graph.get_ordered_ops())["ShapeOf"]
    np.testing.assert_allclose(output(prepared), output(given), rtol=1e-4, atol=1e-4)
    assert prepared.outputs == given.outputs


def test_what_openvino_leaves_in_fp32_is_no_choice_and_a_note() -> None:
    proto = build(
        [node("Add", "x z", "s"), node("Conv", "s w", "y")],
        {"x": ("N", 8, 6, 6), "z": ("N", 8, 6, 6)},
        {"y": None},
        {"w": normal(4, 8, 3, 3)},
    )
    batches = [{"x": normal(4, 8, 6, 6, scale=1.0), "z": normal(4, 8, 6, 6, seed=1, scale=1.0)}]
    subject = calibrated(proto, batches)
    space, notes = ADAPTER.calibrated_space(ADAPTER.space(subject.model), subject.model, subject.statistics)
    assert {op.name: len(op.precisions) for op in space.ops} == {"s": 1, "y": 2}
    assert notes == ["'s': no int8, since OpenVINO computes them in fp32 all the same"]
    assert subject.int8().notes == ("'s': OpenVINO computes them in fp32 all the same",)


def test_values_beyond_any_range_rule_integers_out() -> None:
    proto = build(
        [node("Add", "x mask", "masked"), node("Relu", "masked", "m"), node("Conv", "m w", "y")],
        {"x": ("N", 8, 6, 6)},
        {"y": None},
        {"w": normal(4, 8, 3, 3), "mask": np.where(normal(8, 6, 6) > 0, np.inf, 0).astype(np.float32)},
    )
    subject = calibrated(proto, image_batches(shape=(8, 6, 6)))
    space, notes = ADAPTER.calibrated_space(ADAPTER.space(subject.model), subject.model, subject.statistics)
    assert not space.tunable
    assert "'y': no integers, since values around it are infinite" in notes[0]
