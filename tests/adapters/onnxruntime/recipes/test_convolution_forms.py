"""Recipes on convolutions of every padding, grouping and rank."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.adapters.onnx.session import optimized_op_counts
from autotune.config import Granularity
from tests.adapters.onnx.graphs import build, node, normal
from tests.adapters.onnxruntime.recipes.cases import ALL, Case, conv, run, uneven
from tests.adapters.onnxruntime.recipes.chains import ADAPTER, config


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
