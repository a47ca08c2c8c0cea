"""Equalization on the graph protocol alone: no fp32 output changes, and int8 gains."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from autotune.adapter import Array
from autotune.algorithms import affine_parameters, weight_parameters
from autotune.algorithms.affine import fake_quantize
from autotune.algorithms.equalization import Equalized, equalize, observed_tensors
from autotune.algorithms.graph import Clip, Convolution, Layer
from autotune.algorithms.layerwise import fake_quantizer
from autotune.calibration import CalibrationStatistics
from autotune.config import CalibrationMethod, QuantizedType, Recipe, TensorScheme
from tests.algorithms.networks import CHANNELS, PER_CHANNEL, PER_TENSOR, chain, pictures, residual
from tests.algorithms.numpy_graph import NumpyGraph, conv, int8, relu

EQUALIZED = Recipe(equalization=True)
SCHEMES = [PER_CHANNEL, PER_TENSOR]


def equalized(
    graph: NumpyGraph, scheme: TensorScheme = PER_CHANNEL, fp32: tuple[str, ...] = ()
) -> tuple[Equalized, CalibrationStatistics]:
    statistics = graph.statistics(pictures())
    return equalize(graph, int8(graph, scheme, EQUALIZED, fp32), statistics), statistics


def difference(graph: NumpyGraph, found: Equalized, scale: float = 1.0) -> float:
    """The largest difference of outputs over the largest output."""
    feeds = pictures(1, scale=scale)[0]
    expected = graph.output(feeds)
    return float(np.abs(graph.output(feeds, found.constants, found.bounds) - expected).max() / np.abs(expected).max())


def spread(statistics: CalibrationStatistics, tensor: str) -> float:
    """The largest range of a channel over the smallest."""
    channels = statistics.tensors[tensor].channels
    assert channels is not None
    reach = channels.absolute_maximum
    return float(reach.max() / reach[reach > 0].min())


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("high", [np.inf, 6.0])
@pytest.mark.parametrize("bias", [True, False])
def test_fp32_outputs_stay(scheme: TensorScheme, high: float, bias: bool) -> None:
    for seed in range(5):
        graph = chain(seed, high=high, bias=bias)
        found, _ = equalized(graph, scheme)
        assert set(found.ranges) == {"ra", "rb"}
        assert any((found.constants[name] != graph.constants[name]).any() for name in ("a/w", "b/w"))
        assert difference(graph, found) < 1e-4


def test_no_node_is_run() -> None:
    graph = chain(high=6.0)
    statistics = graph.statistics(pictures())
    graph.ran.clear()
    equalize(graph, int8(graph, PER_CHANNEL, EQUALIZED), statistics)
    assert not graph.ran


def test_bounds_hold_for_data_beyond_calibration() -> None:
    graph = chain(1, high=6.0)
    found, _ = equalized(graph)
    assert set(found.bounds) == {"ra", "rb"}
    assert found.bounds["ra"].shape == (CHANNELS,)
    assert difference(graph, found, scale=50.0) < 1e-4
    assert difference(graph, dataclasses.replace(found, bounds={}), scale=50.0) > 1e-2
    assert not equalized(chain(1))[0].bounds


def test_statistics_and_ranges_are_those_of_the_equalized_graph() -> None:
    graph = chain(2)
    found, before = equalized(graph)
    again = NumpyGraph(graph.nodes, found.constants).statistics(pictures())
    for name in ("a", "ra", "b", "rb"):
        ours, theirs = found.statistics.tensors[name].channels, again.tensors[name].channels
        assert ours is not None
        assert theirs is not None
        np.testing.assert_allclose(ours.maximum, theirs.maximum, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-2, atol=1e-3)
    # A depthwise convolution reads it: all of its channels come to one range.
    assert spread(before, "ra") > 5.0
    assert spread(again, "ra") < 1.01
    assert found.ranges["ra"][1] == pytest.approx(again.tensors["ra"].maximum, rel=1e-3)


def test_residual_stream_is_scaled_as_one() -> None:
    graph = residual()
    found, before = equalized(graph)
    assert {"stem", "down", "sum"} <= set(found.ranges)
    assert difference(graph, found) < 1e-5
    stem, down = ((found.constants[name] / graph.constants[name])[:, 0, 0, 0] for name in ("stem/w", "down/w"))
    assert stem.max() > 2.0 * stem.min()
    np.testing.assert_allclose(stem / stem[0], down / down[0], rtol=1e-5)  # what `down` reads is scaled as well
    assert spread(found.statistics, "sum") < 2.0 * np.sqrt(spread(before, "sum"))


def test_constant_in_a_sum_keeps_its_stream() -> None:
    found, _ = equalized(residual(between=["shift"]))
    assert "sum" not in found.ranges
    assert any("a constant is added to it" in note for note in found.notes)


def test_clip_without_an_upper_end_is_a_relu() -> None:
    graph = residual()
    nodes = [*graph.nodes[:-1], Clip(name="cut", reads=("sum",), writes=("cut",), low=0.0, high=np.inf)]
    for high, served in ((np.inf, True), (6.0, False)):
        nodes[-1] = relu("cut", "sum", high)
        cut = NumpyGraph([*nodes, conv("head", "cut")], graph.constants)
        found, _ = equalized(cut)
        assert ("sum" in found.ranges) == served
        assert difference(cut, found) < 1e-5


@pytest.mark.parametrize("ends", [(-1.0, 6.0), (np.nan, np.nan)])
def test_clip_that_does_not_start_at_zero_keeps_its_channels(ends: tuple[float, float]) -> None:
    graph = chain()
    nodes = list(graph.nodes)
    nodes[1] = Clip(name="ra", reads=("a",), writes=("ra",), low=ends[0], high=ends[1])
    statistics = graph.statistics(pictures())
    found = equalize(NumpyGraph(nodes, graph.constants), int8(graph, PER_CHANNEL, EQUALIZED), statistics)
    assert "ra" not in found.ranges
    assert "rb" in found.ranges
    assert any("does not start at zero" in note and "'b'" in note for note in found.notes)


def test_shared_weight_keeps_its_channels() -> None:
    graph = chain()
    nodes = list(graph.nodes)
    assert isinstance(nodes[2], Layer)
    nodes.append(dataclasses.replace(nodes[2], name="again", source="c", reads=("c", "b/w", "b/b"), writes=("again",)))
    statistics = graph.statistics(pictures())
    found = equalize(NumpyGraph(nodes, graph.constants), int8(graph, PER_CHANNEL, EQUALIZED), statistics)
    assert not found.ranges
    assert any("'b/w' is shared between ops" in note for note in found.notes)


@pytest.mark.parametrize("padding", ["none", "zeros", "at run time"])
def test_offset_is_absorbed_where_no_zeros_are_padded(padding: str) -> None:
    random = np.random.default_rng(0)
    constants = {
        "a/w": 0.05 * random.standard_normal((4, 3, 1, 1)),
        "a/b": np.array([5.0, 5.0, 0.0, 0.0]),
        "b/w": random.standard_normal((4, 4, 1, 1)),
        "b/b": random.standard_normal(4),
    }
    second = conv("b", "r", pads=1 if padding == "zeros" else 0)
    graph = NumpyGraph([conv("a", "x"), relu("r", "a"), second], constants)
    statistics = graph.statistics(pictures())
    if padding == "at run time":
        unknown = Convolution(strides=(1, 1), dilations=(1, 1), pads=None)
        graph = NumpyGraph([*graph.nodes[:2], dataclasses.replace(second, convolution=unknown)], constants)
    found = equalize(graph, int8(graph, PER_CHANNEL, EQUALIZED), statistics)
    channels = found.statistics.tensors["r"].channels
    assert channels is not None
    assert ((channels.minimum / channels.maximum)[:2].max() < 0.5) == (padding == "none")
    if padding != "at run time":
        assert difference(graph, found) < 1e-5


def noise(graph: NumpyGraph, found: Equalized | None, scheme: TensorScheme) -> float:
    """Mean square that int8 adds to the outputs, with ranges from the smallest to the largest value."""
    statistics = graph.statistics(pictures())
    constants, bounds = (dict(found.constants), found.bounds) if found else ({}, {})
    for node in graph.nodes:
        if isinstance(node, Layer):
            weight: Array = constants.get(node.weight, graph.constants[node.weight])
            parameters = weight_parameters(weight, scheme, 0, CalibrationMethod.MINMAX)
            constants[node.weight] = fake_quantize(weight, parameters, scheme, 0 if parameters.scale.ndim else None)
    quantizers = {}
    for name in ("ra", "rb"):
        observed = statistics.tensors[name]
        low, high = found.ranges[name] if found else (observed.minimum, observed.maximum)
        u8 = TensorScheme(dtype=QuantizedType.U8)
        quantizers[name] = fake_quantizer(affine_parameters(low, high, u8), u8.dtype)
    feeds = pictures(1)[0]
    return float(np.square(graph.output(feeds, constants, bounds, quantizers) - graph.output(feeds)).mean())


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_int8_gains(scheme: TensorScheme) -> None:
    gains = []
    for seed in range(5):
        graph = chain(seed)  # a ReLU6 has brought most channels to one range already
        found, _ = equalized(graph, scheme)
        gains.append(10 * np.log10(noise(graph, None, scheme) / noise(graph, found, scheme)))
    assert np.mean(gains) > 3.0


def test_pair_in_fp32_stays() -> None:
    found, _ = equalized(chain(), fp32=("a", "b"))
    assert set(found.ranges) == {"rb"}


def test_only_tensors_that_are_quantized_are_scaled() -> None:
    graph = chain(high=6.0)
    statistics = graph.statistics(pictures())
    found = equalize(graph, int8(graph, PER_CHANNEL, EQUALIZED), statistics, quantized={"rb"})
    assert set(found.ranges) == set(found.bounds) == {"rb"}
    stream = residual()
    config = int8(stream, PER_CHANNEL, EQUALIZED)
    assert "sum" in equalize(stream, config, stream.statistics(pictures()), quantized={"sum"}).ranges
    assert not equalize(stream, config, stream.statistics(pictures()), quantized=set()).ranges


@pytest.mark.parametrize("graph", [chain(high=6.0), residual()], ids=["chain", "residual"])
def test_what_calibration_has_to_observe_is_enough(graph: NumpyGraph) -> None:
    whole = graph.statistics(pictures())
    observed = {name: whole.tensors[name] for name in observed_tensors(graph)}
    part = dataclasses.replace(whole, tensors=observed)
    config = int8(graph, PER_CHANNEL, EQUALIZED)
    ours, theirs = (equalize(graph, config, statistics) for statistics in (part, whole))
    assert ours.ranges == theirs.ranges
    for name, value in theirs.constants.items():
        np.testing.assert_array_equal(ours.constants[name], value)
