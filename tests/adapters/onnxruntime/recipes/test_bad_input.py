"""Ops that recipes cannot serve stay as they are, with a line that says which and why, and the model stays right."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.config import Granularity
from autotune.errors import DataError
from tests.adapters.onnx.graphs import build, image_batches, node, normal
from tests.adapters.onnxruntime.recipes.cases import ALL, Case, conv, run, uneven
from tests.adapters.onnxruntime.recipes.chains import ADAPTER, config


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
