"""SmoothQuant on the graph protocol alone: no fp32 output changes, and outliers move into the weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from autotune.adapter import Array
from autotune.algorithms.graph import Connections, Layer, Node, Scaled
from autotune.algorithms.smoothquant import Smoothed, smooth, smoothing_sites
from autotune.calibration import CalibrationStatistics
from autotune.config import QuantizationConfig, Recipe, SmoothQuant
from tests.algorithms.networks import PER_CHANNEL
from tests.algorithms.numpy_graph import NumpyGraph, add, int8, product

CHANNELS = 24
CHOICES = [choice for choice in SmoothQuant if choice is not SmoothQuant.NONE]
BATCHES = [{"x": np.random.default_rng(seed).standard_normal((8, 10, CHANNELS)).astype(np.float32)} for seed in (1, 2)]


def network(*more: Node, vectors: Sequence[str] = ("g",)) -> NumpyGraph:
    """A vector scales what two MatMuls read, one with its outputs along the first axis; four channels are large."""
    random = np.random.default_rng(0)
    scale = np.where(np.arange(CHANNELS) % 6 == 0, 30.0, 1.0)
    constants: dict[str, Array] = {
        "g": scale,
        "p/w": random.standard_normal((CHANNELS, 16)),
        "q/w": random.standard_normal((16, CHANNELS)),
    }
    scaled = Scaled(name="n", reads=("x", "g"), writes=("n",), vectors=tuple(vectors))
    return NumpyGraph([scaled, *more, product("p", "n"), product("q", "n", axis=0), add("y", "p", "q")], constants)


def smoothed(graph: NumpyGraph, choice: SmoothQuant) -> tuple[Smoothed, CalibrationStatistics]:
    statistics = graph.statistics(BATCHES)
    return smooth(graph, int8(graph, PER_CHANNEL, Recipe(smooth_quant=choice)), statistics), statistics


@pytest.mark.parametrize("choice", CHOICES)
def test_fp32_outputs_stay_while_channels_come_closer(choice: SmoothQuant) -> None:
    graph = network()
    found, before = smoothed(graph, choice)
    assert set(found.constants) == {"g", "p/w", "q/w"}
    assert all(array.shape == graph.constants[name].shape for name, array in found.constants.items())
    expected = graph.output(BATCHES[0])
    np.testing.assert_allclose(graph.output(BATCHES[0], found.constants), expected, atol=1e-4 * np.abs(expected).max())
    spreads = []
    for statistics in (before, found.statistics, NumpyGraph(graph.nodes, found.constants).statistics(BATCHES)):
        channels = statistics.tensors["n"].channels
        assert channels is not None
        spreads.append(channels.absolute_maximum.max() / channels.absolute_maximum.min())
    assert spreads[1] < 0.5 * spreads[0]
    assert spreads[1] == pytest.approx(spreads[2], rel=1e-3)
    assert found.ranges["n"][1] == pytest.approx(found.statistics.tensors["n"].maximum)


def test_no_node_is_run() -> None:
    graph = network()
    statistics = graph.statistics(BATCHES)
    graph.ran.clear()
    smooth(graph, int8(graph, PER_CHANNEL, Recipe(smooth_quant=SmoothQuant.AUTO)), statistics)
    assert not graph.ran


def test_nothing_is_smoothed_for_ops_in_fp32() -> None:
    graph = network()
    found = smooth(graph, QuantizationConfig(recipe=Recipe(smooth_quant=SmoothQuant.HALF)), graph.statistics(BATCHES))
    assert not found.constants
    assert not found.ranges


def test_channels_that_were_not_observed_are_told() -> None:
    graph = network()
    nothing = CalibrationStatistics(tensors={}, samples=0)
    found = smooth(graph, int8(graph, PER_CHANNEL, Recipe(smooth_quant=SmoothQuant.HALF)), nothing)
    assert not found.constants
    assert found.notes == ("SmoothQuant leaves 'n' as it is: its channels were not observed",)


def sites(graph: NumpyGraph) -> list[str]:
    return [site.tensor for site in smoothing_sites(Connections(graph.nodes, graph.outputs))]


def test_other_readers_leave_a_tensor_as_it_is() -> None:
    assert sites(network()) == ["n"]
    assert not sites(network(Node(name="other", reads=("n",), writes=("other",)))), "a residual would change"
    assert not sites(network(Node(name="other", reads=("x", "g"), writes=("other",)))), "the vector is another's too"
    graph = network()
    assert not smoothing_sites(Connections(graph.nodes, {"n", "y"})), "the model returns it"
    shared = next(each for each in graph.nodes if isinstance(each, Layer))
    nodes = [*graph.nodes, Node(name="z", reads=(shared.weight,), writes=("z",))]
    assert not smoothing_sites(Connections(nodes, {"y"})), "the matrix is another's too"
