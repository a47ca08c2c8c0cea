"""Ops that recipes cannot serve stay as they are, with a line that says which and why, and the model stays right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotune.adapter import Array, Execution, Feeds
from autotune.adapters.onnx.session import optimized_op_counts
from autotune.adapters.onnxruntime import OnnxModel
from autotune.adapters.onnxruntime.recipes.equalization import equalize
from autotune.calibration import CalibrationStatistics
from autotune.config import FP32, BiasCorrection, Granularity, QuantizationConfig, Recipe, WeightRounding
from autotune.errors import DataError, ModelError
from tests.adapters.onnx.graphs import build, image_batches, node, normal
from tests.adapters.onnxruntime.recipes.chains import ADAPTER, config

ALL = Recipe(equalization=True, bias_correction=BiasCorrection.FULL, weight_rounding=WeightRounding.GPTQ)
IMAGE = ("N", 3, 8, 8)


class Case:
    """A model with every op in int8 and every recipe on."""

    def __init__(
        self,
        nodes: Sequence[onnx.NodeProto],
        constants: dict[str, Array],
        *,
        outputs: Sequence[str] = ("y",),
        shape: Sequence[int | str] | None = None,
        fp32: Sequence[str] = (),
        granularity: Granularity = Granularity.PER_CHANNEL,
    ) -> None:
        self.feeds = image_batches(1, size=8)[0]
        proto = build(nodes, {"x": IMAGE}, dict.fromkeys(outputs, shape), constants)
        self.model: OnnxModel = ADAPTER.load(proto)
        self.statistics: CalibrationStatistics = ADAPTER.calibrate(self.model, image_batches(), seed=0)
        wanted: QuantizationConfig = config(self.model, ALL, granularity=granularity)
        self.config = wanted.replace(dict.fromkeys(fp32, FP32))
        self.equalized = equalize(self.model, self.config, self.statistics)
        self.candidate: OnnxModel = ADAPTER.apply(self.model, self.config, self.statistics)
        onnx.checker.check_model(self.candidate.proto)

    @property
    def notes(self) -> str:
        return "\n".join(self.candidate.notes)

    def check(self, least_db: float = 20.0, feeds: Feeds | None = None) -> None:
        """fp32 outputs must stay after equalization, and int8 ones must be near them."""
        given = feeds or self.feeds
        expected = run(self.model, given)
        for exact, equalized, actual in zip(
            expected, run(self.equalized.model, given), run(self.candidate, given), strict=True
        ):
            np.testing.assert_allclose(equalized, exact, rtol=0, atol=1e-4 * float(np.abs(exact).max()))
            noise = np.square(exact - actual).mean()
            assert 10 * np.log10(np.square(exact).mean() / noise) > least_db

    def constant(self, name: str) -> Array:
        """A constant after equalization."""
        tensor = next(t for t in self.equalized.model.proto.graph.initializer if t.name == name)
        return numpy_helper.to_array(tensor)


def run(model: OnnxModel, feeds: Feeds) -> tuple[Array, ...]:
    return ADAPTER.runner(model, Execution())(feeds)


def uneven(*shape: int, seed: int = 0) -> Array:
    """Weights whose output channels differ by orders of magnitude, so that equalization has something to do."""
    channels = np.exp(1.5 * normal(shape[0], seed=seed + 50, scale=1.0)).reshape(-1, *[1] * (len(shape) - 1))
    return np.asarray(normal(*shape, seed=seed) * channels, np.float32)


def conv(inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return node("Conv", inputs, output, **{"pads": [1, 1, 1, 1], **attributes})


@pytest.mark.parametrize("granularity", Granularity.PLAIN)
def test_weight_that_two_convolutions_share(granularity: Granularity) -> None:
    nodes = [conv("x w b", "c"), node("Relu", "c", "r"), conv("r v d", "e"), node("Relu", "e", "s"), conv("s v d", "y")]
    constants = {"w": uneven(8, 3, 3, 3), "b": normal(8), "v": uneven(8, 8, 3, 3, seed=1), "d": normal(8, seed=2)}
    case = Case(nodes, constants, granularity=granularity)
    case.check()
    assert "Equalization leaves the input of 'e', 'y' as it is: 'v' is shared between ops" in case.notes
    assert "Weights and bias of 'e', 'y' are not corrected: other ops read them too" in case.notes
    np.testing.assert_array_equal(case.constant("v"), constants["v"])


def test_weight_that_a_convolution_shares_with_another_kind_of_op() -> None:
    nodes = [
        conv("x w b", "c"),
        node("Relu", "c", "r"),
        conv("r v", "e"),
        node("ReduceSum", "v", "total", keepdims=0),
        node("Mul", "e total", "y"),
    ]
    constants = {"w": uneven(8, 3, 3, 3), "b": normal(8), "v": uneven(8, 8, 3, 3, seed=1)}
    case = Case(nodes, constants)
    case.check()


def test_bias_that_two_convolutions_share() -> None:
    nodes = [conv("x w b", "c"), node("Relu", "c", "r"), conv("r v b", "y")]
    constants = {"w": uneven(8, 3, 3, 3), "b": normal(8), "v": uneven(8, 8, 3, 3, seed=1)}
    case = Case(nodes, constants)
    case.check()
    assert "'b' is shared between ops" in case.notes
    np.testing.assert_array_equal(case.constant("b"), constants["b"])


def test_weight_computed_at_run_time() -> None:
    nodes = [
        conv("x w b", "c"),
        node("Relu", "c", "r"),
        node("ReduceMean", "x", "m", axes=[0, 1, 2, 3], keepdims=0),
        node("Add", "m v", "computed"),
        conv("r computed", "e"),
        node("Relu", "e", "s"),
        conv("s u d", "y"),
    ]
    constants = {
        "w": uneven(8, 3, 3, 3),
        "b": normal(8),
        "v": uneven(8, 8, 3, 3, seed=1),
        "u": uneven(8, 8, 3, 3, seed=2),
        "d": normal(8, seed=3),
    }
    case = Case(nodes, constants)
    case.check()
    assert "Conv 'e' stays fp32: its weight is computed at run time" in case.notes
    np.testing.assert_array_equal(case.constant("w"), constants["w"])
    np.testing.assert_array_equal(case.constant("u"), constants["u"])


@pytest.mark.parametrize("fp32", [("z",), ("y",), ("z", "y")])
def test_two_consumers_that_disagree(fp32: tuple[str, ...]) -> None:
    nodes = [conv("x w b", "c"), node("Relu", "c", "r"), conv("r v d", "y"), conv("r u d", "z")]
    constants = {
        "w": uneven(8, 3, 3, 3),
        "b": normal(8),
        "v": uneven(8, 8, 3, 3, seed=1),
        "u": uneven(8, 8, 3, 3, seed=2),
        "d": normal(8, seed=3),
    }
    case = Case(nodes, constants, outputs=("y", "z"), fp32=fp32)
    case.check()
    for name in ("w", "v", "u"):
        np.testing.assert_array_equal(case.constant(name), constants[name])
    if len(fp32) == 1:
        assert "another op reads what the convolution before it writes" in case.notes


def test_convolution_whose_output_leaves_the_model_too() -> None:
    nodes = [conv("x w b", "c"), conv("c v d", "y")]
    constants = {"w": uneven(8, 3, 3, 3), "b": normal(8), "v": uneven(8, 8, 3, 3, seed=1), "d": normal(8, seed=2)}
    case = Case(nodes, constants, outputs=("y", "c"))
    case.check()
    assert "another op reads what the convolution before it writes" in case.notes


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


def _branch(name: str, nodes: Sequence[onnx.NodeProto], output: str) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), name, [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)])


def test_branches_that_hold_convolutions_and_read_one_outside() -> None:
    then = _branch("then", [conv("r v d", "t1"), node("Relu", "t1", "t2"), conv("t2 v d", "t3")], "t3")
    other = _branch("other", [conv("r u d", "o1")], "o1")
    nodes = [
        conv("x w b", "c"),
        node("Relu", "c", "r"),
        conv("r q d", "e"),
        node("ReduceMax", "x", "top", keepdims=0),
        node("Cast", "top", "condition", to=TensorProto.BOOL),
        node("If", "condition", "i", then_branch=then, else_branch=other),
        node("Add", "i e", "y"),
    ]
    constants = {
        "w": uneven(8, 3, 3, 3),
        "b": normal(8),
        "d": normal(8, seed=3),
        **{name: uneven(8, 8, 3, 3, seed=seed) for seed, name in enumerate("vuq", 1)},
    }
    case = Case(nodes, constants)
    case.check()
    assert "it lies in a graph inside of If 'i'" in case.notes
    assert "another op reads what the convolution before it writes" in case.notes
    assert "Weights and bias of 'e' are not corrected: other ops read them too" in case.notes
    for name in "wvuq":
        np.testing.assert_array_equal(case.constant(name), constants[name])


def test_loop_that_holds_a_convolution() -> None:
    body = helper.make_graph(
        [
            node("Identity", "going", "still"),
            conv("state v d", "k1"),
            node("Relu", "k1", "k2"),
        ],
        "body",
        [
            helper.make_tensor_value_info("trip", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("k2", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        conv("x w b", "c"),
        node("Relu", "c", "r"),
        helper.make_node("Loop", ["times", "always", "r"], ["l"], "l", body=body),
        conv("l u d", "y"),
    ]
    constants = {
        "w": uneven(8, 3, 3, 3),
        "b": normal(8),
        "v": normal(8, 8, 3, 3, seed=1, scale=0.1),
        "u": uneven(8, 8, 3, 3, seed=2),
        "d": normal(8, seed=3),
        "times": np.array(3, np.int64),
        "always": np.array(True),
    }
    case = Case(nodes, constants, shape=("N", 8, 8, 8))
    case.check()
    assert "Conv 'k1' stays fp32: it lies in a graph inside of Loop 'l'" in case.notes
    np.testing.assert_array_equal(case.constant("w"), constants["w"])
    np.testing.assert_array_equal(case.constant("u"), constants["u"])


def test_operator_that_onnx_runtime_does_not_know() -> None:
    proto = build(
        [conv("x w", "c"), helper.make_node("Magic", ["c"], ["y"], "magic", domain="my.company")],
        {"x": IMAGE},
        {"y": None},
        {"w": normal(8, 3, 3, 3)},
    )
    proto.opset_import.append(helper.make_opsetid("my.company", 1))
    with pytest.raises(ModelError, match=r"my\.company.*must run in ONNX Runtime"):
        ADAPTER.load(proto)


def _with_function(nodes: Sequence[onnx.NodeProto], constants: dict[str, Array]) -> onnx.ModelProto:
    """A model whose function ``my.company::Halve`` holds standard operators."""
    function = helper.make_function(
        "my.company",
        "Halve",
        ["a"],
        ["b"],
        [
            helper.make_node("Constant", [], ["half"], value=numpy_helper.from_array(np.array(0.5, np.float32))),
            helper.make_node("Mul", ["a", "half"], ["b"]),
        ],
        [helper.make_opsetid("", 17)],
    )
    proto = build(nodes, {"x": IMAGE}, {"y": None}, constants)
    proto.opset_import.append(helper.make_opsetid("my.company", 1))
    proto.functions.append(function)
    return proto


def test_function_of_another_domain_between_convolutions() -> None:
    nodes = [
        conv("x w b", "c"),
        helper.make_node("Halve", ["c"], ["h"], "h", domain="my.company"),
        conv("h v d", "y"),
    ]
    constants = {"w": uneven(8, 3, 3, 3), "b": normal(8), "v": uneven(8, 8, 3, 3, seed=1), "d": normal(8, seed=2)}
    model = ADAPTER.load(_with_function(nodes, constants))
    statistics = ADAPTER.calibrate(model, image_batches(), seed=0)
    candidate = ADAPTER.apply(model, config(model, ALL), statistics)
    feeds = image_batches(1, size=8)[0]
    expected, actual = (run(each, feeds)[0] for each in (model, candidate))
    assert 10 * np.log10(np.square(expected).mean() / np.square(expected - actual).mean()) > 20


def test_contrib_operator_between_convolutions() -> None:
    nodes = [
        conv("x w b", "c"),
        helper.make_node("QuickGelu", ["c"], ["g"], "g", domain="com.microsoft"),
        conv("g v d", "y"),
    ]
    constants = {"w": uneven(8, 3, 3, 3), "b": normal(8), "v": uneven(8, 8, 3, 3, seed=1), "d": normal(8, seed=2)}
    proto = build(nodes, {"x": IMAGE}, {"y": None}, constants)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model = ADAPTER.load(proto)
    statistics = ADAPTER.calibrate(model, image_batches(), seed=0)
    candidate = ADAPTER.apply(model, config(model, ALL), statistics)
    feeds = image_batches(1, size=8)[0]
    expected, actual = (run(each, feeds)[0] for each in (model, candidate))
    assert 10 * np.log10(np.square(expected).mean() / np.square(expected - actual).mean()) > 20


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("granularity", Granularity.PLAIN)
def test_automatic_padding(auto_pad: str, granularity: Granularity) -> None:
    first, second = (
        node("Conv", inputs, output, auto_pad=auto_pad, strides=[2, 2])
        for inputs, output in (("x w b", "c"), ("r v d", "y"))
    )
    nodes = [first, node("Relu", "c", "r"), second]
    # The offsets that could be absorbed are there: a convolution that pads must keep them.
    constants = {
        "w": uneven(8, 3, 3, 3) * np.float32(0.05),
        "b": np.full(8, 3.0, np.float32),
        "v": uneven(8, 8, 3, 3, seed=1),
        "d": normal(8, seed=2),
    }
    case = Case(nodes, constants, granularity=granularity)
    case.check()
    assert ("automatic padding" in case.notes) == (auto_pad != "VALID")


@pytest.mark.parametrize("granularity", Granularity.PLAIN)
def test_grouped_convolutions(granularity: Granularity) -> None:
    nodes = [
        conv("x w b", "c"),
        node("Relu", "c", "r"),
        conv("r v d", "e", group=4),
        node("Clip", "e zero six", "s"),
        conv("s u d", "y", group=2),
    ]
    constants = {
        "w": uneven(8, 3, 3, 3),
        "b": normal(8),
        "v": uneven(8, 2, 3, 3, seed=1),
        "u": uneven(8, 4, 3, 3, seed=2),
        "d": normal(8, seed=3),
        "zero": np.array(0, np.float32),
        "six": np.array(6, np.float32),
    }
    case = Case(nodes, constants, granularity=granularity)
    case.check(15.0)
    assert optimized_op_counts(case.candidate.proto)["QLinearConv"] == 3


def test_transposed_convolution_between_convolutions() -> None:
    nodes = [
        conv("x w b", "c"),
        node("Relu", "c", "r"),
        node("ConvTranspose", "r v d", "t", strides=[2, 2]),
        node("Relu", "t", "s"),
        conv("s u d", "y"),
    ]
    constants = {
        "w": uneven(8, 3, 3, 3),
        "b": normal(8),
        "v": uneven(8, 8, 2, 2, seed=1),
        "u": uneven(8, 8, 3, 3, seed=2),
        "d": normal(8, seed=3),
    }
    case = Case(nodes, constants)
    case.check()
    assert "ConvTranspose 't' stays fp32: ONNX Runtime has no integer kernel for it" in case.notes
    for name in "wvu":
        np.testing.assert_array_equal(case.constant(name), constants[name])


def chained() -> Case:
    nodes = [conv("x w b", "c"), node("Relu", "c", "r"), conv("r v d", "y")]
    constants = {"w": uneven(8, 3, 3, 3), "b": normal(8), "v": uneven(8, 8, 3, 3, seed=1), "d": normal(8, seed=2)}
    return Case(nodes, constants)


def test_batch_of_no_samples() -> None:
    case = chained()
    empty = {"x": np.zeros((0, 3, 8, 8), np.float32)}
    assert run(case.model, empty)[0].shape == run(case.candidate, empty)[0].shape == (0, 8, 8, 8)
    with pytest.raises(DataError):
        ADAPTER.calibrate(case.model, [empty], seed=0)
    # Among others it changes nothing.
    batches = image_batches()
    statistics = ADAPTER.calibrate(case.model, [empty, *batches, empty], seed=0)
    again = ADAPTER.apply(case.model, case.config, statistics)
    assert again.fingerprint == case.candidate.fingerprint


def test_constant_without_values() -> None:
    nodes = [
        conv("x w b", "c"),
        node("Concat", "c nothing", "k", axis=1),
        node("Relu", "k", "r"),
        conv("r v d", "y"),
    ]
    constants = {
        "w": uneven(8, 3, 3, 3),
        "b": normal(8),
        "v": uneven(8, 8, 3, 3, seed=1),
        "d": normal(8, seed=2),
        "nothing": np.zeros((4, 0, 8, 8), np.float32),
    }
    proto = build(nodes, {"x": (4, 3, 8, 8)}, {"y": None}, constants)
    model = ADAPTER.load(proto)
    statistics = ADAPTER.calibrate(model, image_batches(), seed=0)
    candidate = ADAPTER.apply(model, config(model, ALL), statistics)
    feeds = image_batches(1)[0]
    expected, actual = (run(each, feeds)[0] for each in (model, candidate))
    assert 10 * np.log10(np.square(expected).mean() / np.square(expected - actual).mean()) > 20


def test_convolution_without_output_channels_that_live() -> None:
    """Weights of zeros: no channel has a range, and no scale may become zero."""
    nodes = [conv("x w b", "c"), node("Relu", "c", "r"), conv("r v d", "y")]
    constants = {
        "w": np.zeros((8, 3, 3, 3), np.float32),
        "b": np.zeros(8, np.float32),
        "v": uneven(8, 8, 3, 3, seed=1),
        "d": normal(8, seed=2),
    }
    case = Case(nodes, constants)
    case.check()


@pytest.mark.parametrize("dims", [1, 3])
def test_convolutions_over_one_and_three_dimensions(dims: int) -> None:
    size = (6,) * dims
    nodes = [
        node("Conv", "x w b", "c", pads=[1] * 2 * dims),
        node("Clip", "c zero six", "r"),
        node("Conv", "r v d", "y", pads=[1] * 2 * dims),
    ]
    constants = {
        "w": uneven(8, 3, *[3] * dims),
        "b": normal(8),
        "v": uneven(8, 8, *[3] * dims, seed=1),
        "d": normal(8, seed=2),
        "zero": np.array(0, np.float32),
        "six": np.array(6, np.float32),
    }
    model = ADAPTER.load(build(nodes, {"x": ("N", 3, *size)}, {"y": None}, constants))
    batches = [{"x": normal(8, 3, *size, seed=seed, scale=1.0)} for seed in range(4)]
    statistics = ADAPTER.calibrate(model, batches, seed=0)
    candidate = ADAPTER.apply(model, config(model, ALL), statistics)
    expected, actual = (run(each, batches[0])[0] for each in (model, candidate))
    assert 10 * np.log10(np.square(expected).mean() / np.square(expected - actual).mean()) > 15
