"""Rounded weights and corrected biases on the graph protocol alone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from autotune.adapter import Array, Feeds
from autotune.algorithms import WeightLimits, affine_parameters, corrections
from autotune.algorithms.affine import representable
from autotune.algorithms.corrections import QuantizedGraph, QuantizedLayer, corrected_constants
from autotune.algorithms.graph import Convolution, Layer
from autotune.algorithms.layerwise import fake_quantizer, walk
from autotune.calibration import CalibrationStatistics
from autotune.config import BiasCorrection, CalibrationMethod, QuantizedType, Recipe, TensorScheme, WeightRounding
from tests.algorithms.networks import PER_CHANNEL, PER_TENSOR, chain, pictures
from tests.algorithms.numpy_graph import AXES, NumpyGraph, product

FAST, FULL = Recipe(bias_correction=BiasCorrection.FAST), Recipe(bias_correction=BiasCorrection.FULL)
GPTQ = Recipe(weight_rounding=WeightRounding.GPTQ)
U8 = TensorScheme(dtype=QuantizedType.U8)


def quantized(graph: NumpyGraph, statistics: CalibrationStatistics, scheme: TensorScheme) -> QuantizedGraph:
    """All that layers read in u8, and all weights in s8 of 7 bits."""
    layers = []
    for node in graph.nodes:
        if isinstance(node, Layer):
            limits = WeightLimits(reduce_range=True)
            weight, axis = graph.constants[node.weight], node.axis or 0
            parameters = limits.parameters(weight, scheme, axis, CalibrationMethod.MINMAX)
            made = functools.partial(WeightLimits, reduce_range=True)
            layers.append(QuantizedLayer(layer=node, scheme=scheme, parameters=parameters, limits=made))
    tensors = {}
    for each in layers:
        observed = statistics.tensors[each.layer.source]
        tensors[each.layer.source] = affine_parameters(observed.minimum, observed.maximum, U8), U8.dtype
    return QuantizedGraph(graph=graph, layers=layers, tensors=tensors)


def corrected(
    graph: NumpyGraph, recipe: Recipe, scheme: TensorScheme = PER_TENSOR
) -> tuple[dict[str, Array], list[str]]:
    statistics = graph.statistics(pictures())
    return corrected_constants(quantized(graph, statistics, scheme), recipe, statistics, AXES)


def output(graph: NumpyGraph, constants: dict[str, Array], scheme: TensorScheme = PER_TENSOR) -> Array:
    """The graph's output with all weights and tensors rounded, those in ``constants`` among them."""
    statistics = graph.statistics(pictures())
    found = quantized(graph, statistics, scheme)
    rounded = dict(constants)
    for each in found.layers:
        weight = constants.get(each.layer.weight, graph.constants[each.layer.weight])
        axis = each.layer.axis if each.parameters.scale.ndim else None
        rounded[each.layer.weight] = each.limits().fake_quantize(weight, each.parameters, scheme, axis)
    quantizers = {name: fake_quantizer(*each) for name, each in found.tensors.items()}
    feeds = {"x": np.concatenate([each["x"] for each in pictures()])}
    return graph.output(feeds, rounded, None, quantizers)


def mean_error(graph: NumpyGraph, constants: dict[str, Array]) -> float:
    """Root mean square over channels of the shift of a channel's mean."""
    feeds = {"x": np.concatenate([each["x"] for each in pictures()])}
    return float(np.sqrt(np.square((output(graph, constants) - graph.output(feeds)).mean(axis=(0, 2, 3))).mean()))


@pytest.mark.parametrize(("recipe", "most"), [(FAST, 0.8), (FULL, 0.1)], ids=["fast", "full"])
def test_shift_of_the_mean_shrinks(recipe: Recipe, most: float) -> None:
    ratios = []
    for seed in range(6):
        graph = chain(seed)
        constants, notes = corrected(graph, recipe)
        assert not notes
        assert {name for name in constants if name.endswith("/b")} == {"a/b", "b/b", "c/b"}
        ratios.append(mean_error(graph, constants) / mean_error(graph, {}))
    assert np.median(ratios) < most


def test_fast_correction_runs_no_node() -> None:
    graph = chain()
    statistics = graph.statistics(pictures())
    graph.ran.clear()
    corrected_constants(quantized(graph, statistics, PER_TENSOR), FAST, statistics, AXES)
    assert not graph.ran


def test_gptq_gives_weights_that_quantize_to_themselves_and_others_than_the_nearest() -> None:
    graph = chain()
    found = quantized(graph, graph.statistics(pictures()), PER_CHANNEL)
    constants, _ = corrected(graph, GPTQ, PER_CHANNEL)
    assert set(constants) == {"a/w", "b/w", "c/w"}
    for each in found.layers:
        rounded = constants[each.layer.weight]
        again, nearest = (
            each.limits().fake_quantize(weight, each.parameters, PER_CHANNEL, 0)
            for weight in (rounded, graph.constants[each.layer.weight])
        )
        np.testing.assert_array_equal(again, rounded)
        assert (rounded != nearest).any()


@pytest.mark.parametrize("axis", [0, 1])
def test_matrix_products_are_rounded_along_their_own_axis(axis: int) -> None:
    random = np.random.default_rng(0)
    mixed = random.standard_normal((24, 24)).astype(np.float32)
    weight = random.standard_normal((16, 24) if axis == 0 else (24, 16))
    graph = NumpyGraph([product("y", "x", axis=axis)], {"y/w": weight})
    batches = [{"x": random.standard_normal((500, 24)).astype(np.float32) @ mixed}]
    statistics = graph.statistics(batches)
    found = quantized(graph, statistics, PER_CHANNEL)
    constants, _ = corrected_constants(found, GPTQ, statistics, AXES)
    (layer,) = found.layers
    nearest = layer.limits().fake_quantize(graph.constants["y/w"], layer.parameters, PER_CHANNEL, axis)
    exact = graph.output(batches[0])
    ours, theirs = (
        np.square(graph.output(batches[0], {"y/w": each}) - exact).mean() for each in (constants["y/w"], nearest)
    )
    assert ours < 0.7 * theirs


@pytest.mark.parametrize("recipe", [FAST, FULL], ids=["fast", "full"])
@pytest.mark.parametrize("axis", [0, 1])
def test_biases_of_matrix_products_are_corrected(axis: int, recipe: Recipe) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((6, 24) if axis == 0 else (24, 6))
    graph = NumpyGraph([product("y", "x", axis=axis, bias=True)], {"y/w": weight, "y/b": random.standard_normal(6)})
    batches = [{"x": (5.0 + random.standard_normal((500, 24))).astype(np.float32)}]
    statistics = graph.statistics(batches)
    found = quantized(graph, statistics, PER_TENSOR)
    constants, notes = corrected_constants(found, recipe, statistics, AXES)
    assert not notes
    (layer,) = found.layers
    rounded = layer.limits().fake_quantize(graph.constants["y/w"], layer.parameters, PER_TENSOR, None)
    shifts = [
        np.abs((graph.output(batches[0], {"y/w": rounded, **more}) - graph.output(batches[0])).mean(axis=0)).max()
        for more in ({"y/b": constants["y/b"]}, {})
    ]
    assert shifts[0] < 0.1 * shifts[1]


def test_a_mean_over_few_values_corrects_no_bias() -> None:
    graph = chain()
    statistics = graph.statistics(pictures(1, size=3))  # 192 values of a channel
    constants, _ = corrected_constants(quantized(graph, statistics, PER_TENSOR), FULL, statistics, AXES)
    assert not {name for name in constants if name.endswith("/b")}


def test_a_bias_becomes_no_larger_than_32_bits_can_say() -> None:
    graph = chain()
    statistics = graph.statistics(pictures())
    found = quantized(graph, statistics, PER_TENSOR)
    scale = np.float32(1e-10)
    fine = [
        dataclasses.replace(each, parameters=dataclasses.replace(each.parameters, scale=np.asarray(scale)))
        for each in found.layers
    ]
    constants, _ = corrected_constants(dataclasses.replace(found, layers=fine), FAST, statistics, AXES)
    for each in fine:
        most = float(found.tensors[each.layer.source][0].scale) * float(scale) * np.iinfo(np.int32).max
        assert np.abs(constants[str(each.layer.bias)]).max() <= most


def test_without_examples_biases_are_corrected_from_statistics() -> None:
    graph = chain()
    statistics = dataclasses.replace(graph.statistics(pictures()), examples=())
    everything = dataclasses.replace(FULL, weight_rounding=WeightRounding.GPTQ)
    found = quantized(graph, statistics, PER_TENSOR)
    constants, notes = corrected_constants(found, everything, statistics, AXES)
    fast, _ = corrected_constants(found, FAST, statistics, AXES)
    assert any("none was kept" in note for note in notes)
    assert set(constants) == set(fast)
    assert all((constants[name] == fast[name]).all() for name in fast)


def test_layers_that_cannot_be_served_are_named() -> None:
    graph = chain()
    nodes = list(graph.nodes)
    first, third = nodes[0], nodes[2]
    assert isinstance(first, Layer)
    assert isinstance(third, Layer)
    nodes[0] = dataclasses.replace(first, convolution=Convolution(strides=(1, 1), dilations=(1, 1), pads=None))
    nodes.append(dataclasses.replace(third, name="again", reads=("ra", "b/w", "b/b"), writes=("again",)))
    statistics = graph.statistics(pictures())
    found = quantized(NumpyGraph(nodes, graph.constants), statistics, PER_TENSOR)
    constants, notes = corrected_constants(found, FAST, statistics, AXES)
    assert set(constants) == {"c/b"}
    assert any("'b', 'again' are not corrected: other ops read them too" in note for note in notes)
    assert any("'a' are not corrected: a stack of matrices, or automatic padding" in note for note in notes)


def test_nothing_is_done_without_a_recipe() -> None:
    assert corrected(chain(), Recipe()) == ({}, [])


@dataclass(frozen=True)
class _Positions:
    """The part of a layer that :func:`corrections._enough` asks for."""

    positions: float


def _chosen(written: int, positions: Sequence[float], kept: int = 32) -> list[int]:
    """Indices of the examples that biases are corrected from where one makes the model write ``written`` values."""
    observed = chain().statistics(pictures(1)).tensors["a"]
    tensor = dataclasses.replace(observed, count=100 * written)
    examples = tuple({"x": np.full(1, index, np.float32)} for index in range(kept))
    of_one = CalibrationStatistics(tensors={"x": tensor}, samples=100, examples=examples)
    layers: Any = [_Positions(each) for each in positions]
    return [int(each["x"].item()) for each in corrections._enough(layers, of_one)]


@pytest.mark.parametrize(
    ("written", "used"), [(480_000, 32), (4_300_000, 32), (14_800_000, 9), (27_600_000, 4), (500_000_000, 4)]
)
def test_biases_are_corrected_from_as_few_examples_as_the_model_writes_much(written: int, used: int) -> None:
    """All 32 text lines of a recogniser took 10.6 s of processor time, once for each candidate."""
    chosen = _chosen(written, [1.0, 100.0])
    assert len(chosen) == used
    assert chosen == sorted(set(chosen))
    assert chosen[-1] >= 24  # from all over the data


def test_no_layer_that_all_examples_would_correct_is_left_out() -> None:
    assert len(_chosen(50_000_000, [40.0, 3840.0])) == 7  # 256 values of a channel's mean
    assert len(_chosen(50_000_000, [8.0])) == 32
    assert len(_chosen(50_000_000, [7.9, 40.0])) == 7, "the first has too few, whatever is run"
    assert len(_chosen(50_000_000, [40.0], kept=6)) == 4, "six are too few for it, too"


def test_the_positions_of_a_layer_are_those_of_one_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[float] = []
    enough = corrections._enough

    def watched(layers: Sequence[Any], statistics: CalibrationStatistics) -> Sequence[Feeds]:
        found.extend(layer.positions for layer in layers)
        return enough(layers, statistics)

    monkeypatch.setattr(corrections, "_enough", watched)
    corrected(chain(), FULL)
    assert found == [64.0] * 3  # 8 x 8


def test_gptq_reads_all_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corrections, "_ENOUGH_VALUES", 1)
    monkeypatch.setattr(corrections, "_FEWEST_VALUES", 1)
    walked: list[int] = []

    def counted(graph: NumpyGraph, examples: Sequence[Feeds], *rest: Any) -> dict[str, Array]:
        walked.append(len(examples))
        return walk(graph, examples, *rest)

    monkeypatch.setattr(corrections, "walk", counted)
    graph = chain()
    statistics = graph.statistics(pictures(6))
    for recipe in (FULL, GPTQ):
        corrected_constants(quantized(graph, statistics, PER_TENSOR), recipe, statistics, AXES)
    assert walked == [4, 6]


def test_exact_values_are_cut_at_the_ends_of_ranges() -> None:
    """An outlier that a range leaves out on purpose is not made up for in the biases after it."""
    graph = chain()
    statistics = graph.statistics(pictures())
    found = quantized(graph, statistics, PER_TENSOR)
    tensors = {"x": found.tensors["x"]}
    for name in ("ra", "rb"):
        tensors[name] = affine_parameters(0.0, 0.25 * statistics.tensors[name].maximum, U8), U8.dtype
    constants, _ = corrected_constants(dataclasses.replace(found, tensors=tensors), FULL, statistics, AXES)
    feeds = {"x": np.concatenate([each["x"] for each in pictures()])}

    def mean(given: dict[str, Array], made: dict[str, Callable[[Array], Array]]) -> Array:
        return np.asarray(graph.output(feeds, given, None, made).mean(axis=(0, 2, 3)))

    ends = {name: representable(*tensors[name]) for name in ("ra", "rb")}
    cut = mean({}, {name: functools.partial(np.clip, a_min=low, a_max=high) for name, (low, high) in ends.items()})
    ours = mean(constants, {name: fake_quantizer(*each) for name, each in tensors.items()})
    assert np.abs(ours - cut).max() < 0.05 * np.abs(mean({}, {}) - cut).max()
