"""How a config becomes integers in the file, and which kernels run them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from autotune.adapters.tensorflow.candidate import Candidate
from autotune.adapters.tensorflow.graph import FLOAT32, INT8, INT32, Graph, free_shape_of
from autotune.adapters.tensorflow.kernels import kernels
from autotune.algorithms import activation_range, affine_parameters
from autotune.calibration import CalibrationStatistics
from autotune.config import BiasCorrection, Granularity, Precision, QuantizationConfig, Recipe
from autotune.errors import ApplyError
from tests.adapters.tensorflow.calibrated import ADAPTER, ONE, Calibrated, cnn, kinds, names, types
from tests.adapters.tensorflow.networks import NONE, RELU, VALID, Builder, batches

CONVOLUTIONS = ("stem/weight", "point/weight")


def test_ops_are_named_after_their_layers() -> None:
    assert [op.name for op in cnn().space.ops] == [
        "stem/weight", "depthwise/weight", "point/weight", "sum", "pool", "head/weight",
    ]  # fmt: skip


def test_an_int8_op_reads_and_writes_integers_and_others_stay() -> None:
    candidate = cnn().applied("point/weight")
    first, second = types(candidate, "CONV_2D")
    assert first == (FLOAT32, FLOAT32, FLOAT32, FLOAT32)
    assert second == (INT8, INT8, INT32, INT8)
    assert types(candidate, "ADD") == [(FLOAT32, FLOAT32, FLOAT32)]
    assert kinds(candidate).count("QUANTIZE") == kinds(candidate).count("DEQUANTIZE") == 1
    assert 0 < cnn().noise(candidate) < 1e-2


@pytest.mark.parametrize("kind", [bytes, bytearray, list])
def test_no_weight_is_written_byte_by_byte(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[object] = []
    write = flatbuffer_utils.convert_object_to_bytearray

    def watched(model: Any) -> Any:
        written.extend(buffer.data for buffer in model.buffers if buffer.data is not None)
        return write(model)

    graph = Graph(cnn().model.content)
    expected = graph.to_bytes()
    for buffer in graph.model.buffers:
        # The library reads weights behind a file's table as bytearrays, and writes each byte of these by a call.
        buffer.data = None if buffer.data is None else kind(bytes(buffer.data))
    monkeypatch.setattr("autotune.adapters.tensorflow.graph.flatbuffer_utils.convert_object_to_bytearray", watched)
    assert graph.to_bytes() == expected
    assert written
    assert all(isinstance(data, np.ndarray) for data in written)


def test_nothing_is_converted_between_int8_ops() -> None:
    candidate = cnn().applied()
    assert kinds(candidate).count("QUANTIZE") == 1  # the model's input
    assert kinds(candidate).count("DEQUANTIZE") == 1  # and its output
    assert candidate.notes == ()


@pytest.mark.parametrize(("chosen", "integers"), [((), False), (("sum",), False), (("stem/weight",), True)])
def test_an_op_that_passes_integers_on_follows_those_that_read_it(chosen: tuple[str, ...], integers: bool) -> None:
    candidate = cnn().applied(*chosen) if chosen else cnn().model
    ((source, _, target),) = types(candidate, "PAD")
    assert source == target == (INT8 if integers else FLOAT32)


def test_an_op_that_passes_integers_on_follows_the_one_before_it() -> None:
    net = Builder((16, 16, 3))
    first = net.conv(net.input, "first", 8)
    padded = net.pad(first, "pad")
    subject = Calibrated(net.content(net.conv(padded, "second", 8), net.conv(padded, "third", 8)))
    ((source, _, target),) = types(subject.applied("first/weight"), "PAD")
    assert source == target == INT8
    ((source, _, target),) = types(subject.applied("second/weight"), "PAD")
    assert source == target == FLOAT32  # the third convolution reads it too, in fp32


def test_nothing_chosen_moves_the_outputs_by_nothing() -> None:
    same = ADAPTER.apply(cnn().model, QuantizationConfig(), cnn().statistics)
    np.testing.assert_array_equal(cnn().outputs(same), cnn().outputs(cnn().model))


def test_ranges_are_those_of_the_statistics() -> None:
    subject = cnn()
    ranged = dataclasses.replace(
        subject.statistics,
        tensors={
            name: dataclasses.replace(each, minimum=each.minimum / 4, maximum=each.maximum / 4)
            for name, each in subject.statistics.tensors.items()
        },
    )
    config = QuantizationConfig(ops={"point/weight": subject.choice("point/weight")})
    quarter = ADAPTER.apply(subject.model, config, ranged)
    assert subject.noise(quarter) > 30 * subject.noise(subject.applied("point/weight"))


def test_scales_are_exactly_those_of_the_projects_algorithms() -> None:
    subject = cnn()
    op = next(each for each in subject.model.ops if each.name == "point/weight")
    choice = subject.choice(op.name)
    assert choice.activation is not None
    assert choice.calibration is not None
    graph = Graph(subject.applied(op.name).content)
    operator = next(
        each for each in graph.operators if graph.tensors[each.outputs[0]].type == INT8 and len(each.inputs) == 3
    )
    for key, place in ((op.activations[0], operator.inputs[0]), (op.outputs[0], operator.outputs[0])):
        found = subject.statistics.tensors[f"tensor_{key}"]
        wanted = affine_parameters(*activation_range(found, choice.calibration, choice.activation), choice.activation)
        scheme = graph.tensors[place].quantization
        assert scheme.scale[0] == pytest.approx(float(wanted.scale), rel=1e-5)
        assert scheme.zeroPoint[0] == int(wanted.zero_point)


@pytest.mark.parametrize("granularity", [Granularity.PER_CHANNEL, Granularity.PER_TENSOR])
@pytest.mark.parametrize("name", ["depthwise/weight", "point/weight", "head/weight"])
def test_integers_stand_for_the_weight_and_the_bias(name: str, granularity: Granularity) -> None:
    subject = cnn()
    op = next(each for each in subject.model.ops if each.name == name)
    choice = next(
        each
        for each in subject.space.by_name[name].configs()
        if each.precision is Precision.INT8 and each.weight is not None and each.weight.granularity == granularity
    )
    candidate = ADAPTER.apply(subject.model, QuantizationConfig(ops={name: choice}), subject.statistics)
    graph = Graph(candidate.content)
    operator = next(
        each for each in graph.operators if graph.tensors[each.outputs[0]].type == INT8 and len(each.inputs) == 3
    )
    assert op.weight is not None
    assert op.bias is not None
    weight, bias = subject.model.graph.constant(op.weight), subject.model.graph.constant(op.bias)
    assert weight is not None
    assert bias is not None
    for place, wanted in ((operator.inputs[1], weight), (operator.inputs[2], bias)):
        integers, scheme = graph.constant(int(place)), graph.tensors[place].quantization
        assert integers is not None
        scale = np.asarray(scheme.scale, np.float32)
        channels = weight.shape[op.axis]
        assert scale.size == (channels if granularity == Granularity.PER_CHANNEL else 1)
        step = scale if integers.ndim == 1 or op.axis == 3 else scale.reshape(-1, *[1] * (integers.ndim - 1))
        assert (np.abs(integers * step - wanted) <= 0.51 * step).all()


def test_dynamic_int8_quantizes_the_weight_and_leaves_activations() -> None:
    candidate = cnn().applied("point/weight", precision=Precision.INT8_DYNAMIC)
    assert types(candidate, "CONV_2D")[1] == (FLOAT32, INT8, FLOAT32, FLOAT32)
    assert 0 < cnn().noise(candidate) < 1e-2
    assert candidate.notes == ()


def test_weights_alone_are_stored_in_8_bits_and_computed_in_fp32() -> None:
    candidate = cnn().applied("depthwise/weight", precision=Precision.INT8_WEIGHT)
    assert types(candidate, "DEPTHWISE_CONV_2D") == [(FLOAT32, FLOAT32, FLOAT32, FLOAT32)]
    assert candidate.size_bytes < cnn().model.size_bytes
    assert 0 < cnn().noise(candidate) < 1e-3
    assert candidate.notes == ()


def test_names_that_repeat_or_begin_alike_are_told_apart() -> None:
    net = Builder((8, 8, 4))
    one = net.conv(net.input, "a", 4)
    two = net.conv(one, "a", 4)
    three = net.conv(two, "a/weight/out", 4)
    subject = Calibrated(net.content(three), [{"x": each["x"][:, :8, :8, [0, 1, 2, 0]]} for each in batches()])
    assert len({op.name for op in subject.space.ops}) == 3
    for index, op in enumerate(subject.space.ops):
        written = [each[-1] for each in types(subject.applied(op.name), "CONV_2D")]
        assert written == [INT8 if place == index else FLOAT32 for place in range(3)]


def test_names_of_the_file_are_kept() -> None:
    assert set(names(cnn().model)) <= set(names(cnn().applied()))


def test_a_candidate_declares_the_free_axes_of_the_model() -> None:
    candidate = cnn().applied()
    graph = Graph(candidate.content)
    converting = [each for each in graph.operators if graph.kind(each) in ("QUANTIZE", "DEQUANTIZE")]
    ends = [graph.tensors[each] for op in converting for each in (*op.inputs, *op.outputs)]
    assert [free_shape_of(each)[0] for each in ends] == [None] * 4
    again = ADAPTER.load(candidate.content)
    assert (again.inputs, again.outputs) == (cnn().model.inputs, cnn().model.outputs)


def test_free_axes_are_found_behind_a_conversion_that_tells_none() -> None:
    graph = Graph(cnn().applied().content)
    graph.tensors[graph.outputs[0]].shapeSignature = None
    assert ADAPTER.load(graph.to_bytes()).outputs == cnn().model.outputs


def test_what_cannot_be_applied_is_said() -> None:
    subject = cnn()
    dynamic = QuantizationConfig(ops={"sum": subject.choice("point/weight", Precision.INT8_DYNAMIC)})
    with pytest.raises(ApplyError, match="'sum' is to be in int8_dynamic"):
        ADAPTER.apply(subject.model, dynamic, subject.statistics)
    static = QuantizationConfig(ops={"sum": subject.choice("sum")})
    with pytest.raises(ApplyError, match="Calibrate"):
        ADAPTER.apply(subject.model, static, CalibrationStatistics({}, 0))


def test_a_candidate_can_be_no_fp32_model_again() -> None:
    again = ADAPTER.load(cnn().applied().content)
    assert not ADAPTER.space(again).tunable
    assert "quantized already" in again.notes[0]


def test_all_ops_of_a_candidate_run_in_xnnpack() -> None:
    for model in (cnn().model, cnn().applied(), cnn().applied("sum")):
        found = kernels(model.content, model.inputs, ())
        assert [each.kind for each in found] == kinds(model)
        assert all(each.xnnpack for each in found), [each.kind for each in found if not each.xnnpack]


def test_an_op_without_a_kernel_in_xnnpack_is_found_by_the_profile() -> None:
    net = Builder((16, 16, 3))
    model = ADAPTER.load(net.content(net.conv(net.plain("SIGN", net.input, "sign"), "conv", 4)))
    taken = {each.kind: each.xnnpack for each in kernels(model.content, model.inputs, ())}
    assert taken["CONV_2D"]
    assert not taken["SIGN"]


def test_an_op_that_stays_fp32_though_chosen_is_said_and_so_is_one_that_nobody_chose() -> None:
    candidate = cnn().applied("point/weight", "sum")
    assert isinstance(candidate, Candidate)
    assert candidate.notes == ()
    more = {**candidate.asked, "stem/weight": Precision.INT8}
    stayed = dataclasses.replace(candidate, asked=more)
    assert stayed.not_as_asked == ("stem/weight",)
    assert "'stem/weight': LiteRT computes them in fp32 all the same" in stayed.notes
    unasked = dataclasses.replace(candidate, asked={"sum": Precision.INT8})
    assert "'point/weight': LiteRT computes them in int8 though the config does not" in unasked.notes


def test_the_space_leaves_out_what_xnnpack_has_no_kernel_for(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = cnn()
    whole, lines = ADAPTER.calibrated_space(subject.space, subject.model, subject.statistics)
    assert whole == subject.space
    assert not lines
    monkeypatch.setattr(Candidate, "not_as_asked", ("sum",))
    space, lines = ADAPTER.calibrated_space(subject.space, subject.model, subject.statistics)
    assert space.by_name["sum"].space_of(Precision.INT8) is None
    assert "XNNPACK" in lines[0]


def test_infinities_rule_integers_out() -> None:
    net = Builder((16, 16, 3))
    subject = Calibrated(net.content(net.conv(net.conv(net.input, "first", 8, act=RELU), "second", 8, act=NONE)))
    unbounded = dataclasses.replace(subject.statistics, unbounded=frozenset({"tensor_3"}))
    assert subject.model.ops[0].outputs == (3,)
    space, lines = ADAPTER.calibrated_space(subject.space, subject.model, unbounded)
    assert all(op.space_of(Precision.INT8) is None for op in space.ops)
    assert "infinite" in lines[0]


@pytest.mark.numeric
def test_no_sum_of_products_saturates() -> None:
    """The largest integers everywhere: what two products in 16 bits cannot hold comes out whole, VNNI or not."""
    net = Builder((16, 16, 32))
    weight = np.ones((8, 3, 3, 32), np.float32)
    subject = Calibrated(
        net.content(net.conv(net.input, "ones", 8, padding=VALID, act=NONE, weight=weight)),
        [{"x": np.ones((2, 16, 16, 32), np.float32)}, {"x": -np.ones((1, 16, 16, 32), np.float32)}],
    )
    for recipe in (Recipe(), Recipe(reduce_range=True)):
        candidate = subject.applied("ones/weight", recipe=recipe)
        for batch in subject.batches:
            ratio = ADAPTER.runner(candidate, ONE)(batch)[0] / ADAPTER.runner(subject.model, ONE)(batch)[0]
            assert ratio == pytest.approx(1, abs=0.02)


def test_an_op_behind_a_computed_shape_follows_its_neighbours() -> None:
    net = Builder((4, 4, 8))
    conv = net.conv(net.input, "conv", 8)
    sizes = net.graph.add_tensor((4,), INT32, "sizes")
    net.graph.add_operator("SHAPE", [conv], [sizes], ("ShapeOptions", _int32_shape()))
    same = net.tensor((4, 4, 8), "same")
    net.graph.add_operator("RESHAPE", [conv, sizes], [same], ("ReshapeOptions", schema.ReshapeOptionsT()))
    data = [{"x": np.random.default_rng(0).normal(size=(2, 4, 4, 8)).astype(np.float32)}]
    subject = Calibrated(net.content(net.conv(same, "next", 8)), data)
    candidate = subject.applied()
    assert types(candidate, "RESHAPE")[0][::2] == (INT8, INT8)
    assert kinds(candidate).count("QUANTIZE") == kinds(candidate).count("DEQUANTIZE") == 1
    full = subject.applied(recipe=Recipe(bias_correction=BiasCorrection.FULL))
    assert subject.noise(full) < 1e-2


def _int32_shape() -> schema.ShapeOptionsT:
    options = schema.ShapeOptionsT()
    options.outType = INT32
    return options
