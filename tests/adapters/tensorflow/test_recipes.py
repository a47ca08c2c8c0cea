"""The graph as the recipes see it, and what they gain."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.adapters.tensorflow.graph import Graph
from autotune.adapters.tensorflow.layers import TensorFlowGraph, channels_first, channels_last
from autotune.adapters.tensorflow.model import TensorFlowModel
from autotune.adapters.tensorflow.recipes import prepare_channels
from autotune.adapters.tensorflow.unfuse import tensor_key
from autotune.algorithms.graph import Clip, Layer, Sum
from autotune.config import BiasCorrection, QuantizationConfig, Recipe, WeightRounding
from tests.adapters.tensorflow.calibrated import ADAPTER, ONE, Calibrated, cnn
from tests.adapters.tensorflow.networks import NONE, RELU, RELU6, VALID, Builder


def spread(seed: int = 3) -> bytes:
    """A network of pairs that can be equalized: channels of the first and third convolution differ by a hundred."""
    rng = np.random.default_rng(seed)
    net = Builder((16, 16, 3))
    factors = np.geomspace(0.1, 10, 16).astype(np.float32)

    def weight(*shape: int, axis: int, inverse: bool = False) -> np.ndarray:
        values = rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)
        form = [1] * len(shape)
        form[axis] = -1
        return (values / factors.reshape(form) if inverse else values * factors.reshape(form)).astype(np.float32)

    first = net.conv(net.input, "first", 16, weight=weight(16, 3, 3, 3, axis=0), act=RELU)
    second = net.conv(first, "second", 16, weight=weight(16, 3, 3, 16, axis=3, inverse=True), act=RELU6)
    third = net.conv(second, "third", 16, 1, weight=weight(16, 1, 1, 16, axis=0), act=RELU6)
    fourth = net.conv(third, "fourth", 16, 1, weight=weight(16, 1, 1, 16, axis=3, inverse=True), act=NONE)
    return net.content(net.dense(net.mean(fourth, "pool"), "head", 10))


def walked(content: bytes, data: np.ndarray) -> dict[str, np.ndarray]:
    """Every tensor of a network, by running its nodes one at a time."""
    graph = TensorFlowGraph(content)
    values = {tensor_key(0): [channels_first(data)]}
    for node in graph.nodes:
        values |= {name: list(found) for name, found in graph.run(node, values).items()}
    return {name: channels_last(found[0]) for name, found in values.items()}


def test_nodes_that_are_run_one_at_a_time_compute_what_the_model_does() -> None:
    model = cnn().model
    found = walked(model.content, cnn().batches[0]["x"])[tensor_key(model.graph.outputs[0])]
    np.testing.assert_allclose(found, cnn().outputs(model), rtol=1e-4, atol=1e-5)


def test_activations_are_nodes_of_their_own_and_layers_tell_how_they_go_over_pictures() -> None:
    graph = TensorFlowGraph(cnn().model.content)
    layers = {node.name: node for node in graph.nodes if isinstance(node, Layer)}
    assert list(layers) == ["stem/weight", "depthwise/weight", "point/weight", "head/weight"]
    stem, depthwise = layers["stem/weight"].convolution, layers["depthwise/weight"].convolution
    assert stem is not None
    assert depthwise is not None
    assert (stem.groups, stem.strides, stem.pads) == (1, (2, 2), (0, 0, 0, 0))
    assert (depthwise.groups, depthwise.strides, depthwise.pads) == (24, (1, 1), (1, 1, 1, 1))
    assert graph.constants[layers["depthwise/weight"].weight].shape == (24, 1, 3, 3)
    assert [node.high for node in graph.nodes if isinstance(node, Clip)] == [np.inf, 6.0, np.inf]
    assert sum(isinstance(node, Sum) for node in graph.nodes) == 1


@pytest.mark.parametrize(("size", "stride", "kernel"), [(16, 2, 3), (15, 2, 3), (16, 1, 5), (16, 3, 2)])
def test_padding_is_where_tensorflow_puts_it(size: int, stride: int, kernel: int) -> None:
    net = Builder((size, size, 2))
    content = net.content(net.conv(net.input, "conv", 4, kernel, stride=stride, act=NONE))
    (layer,) = (node for node in TensorFlowGraph(content).nodes if isinstance(node, Layer))
    assert layer.convolution is not None
    assert layer.convolution.pads is not None
    top, left, bottom, right = layer.convolution.pads
    padded = Builder((size + top + bottom, size + left + right, 2))
    same = padded.content(padded.conv(padded.input, "conv", 4, kernel, stride=stride, act=NONE, padding=VALID))
    data = np.random.default_rng(0).normal(size=(2, size, size, 2)).astype(np.float32)
    around = np.pad(data, ((0, 0), (top, bottom), (left, right), (0, 0)))
    expected = ADAPTER.runner(TensorFlowModel(content=content), ONE)({"x": data})[0]
    found = ADAPTER.runner(TensorFlowModel(content=same), ONE)({"x": around})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_equalized_channels_compute_the_same_and_lose_less_as_integers() -> None:
    subject = Calibrated(spread())
    config = QuantizationConfig(
        ops={name: subject.choice(name) for name in subject.space.by_name}, recipe=Recipe(equalization=True)
    )
    prepared = prepare_channels(subject.model, config, subject.statistics)
    assert prepared.bounds, "a Relu6 of which channels are scaled has a bound for each"
    assert prepared.content != subject.model.content
    bounded = [
        each for each in Graph(prepared.content).operators if tensor_key(int(each.outputs[0])) in prepared.bounds
    ]
    assert bounded
    assert all(each.builtinOptions.fusedActivationFunction == RELU for each in bounded), "a 6 would cut scaled channels"
    plain = subject.noise(subject.applied())
    assert subject.noise(subject.applied(recipe=Recipe(equalization=True))) < 0.5 * plain
    wide = TensorFlowGraph(prepared.content, prepared.bounds)
    values = {tensor_key(0): [channels_first(subject.batches[0]["x"])]}
    for node in wide.nodes:
        values |= {name: list(found) for name, found in wide.run(node, values).items()}
    found = values[tensor_key(subject.model.graph.outputs[0])][0]
    np.testing.assert_allclose(found, subject.outputs(subject.model), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("correction", [BiasCorrection.FAST, BiasCorrection.FULL])
def test_corrected_biases_bring_the_mean_back(correction: BiasCorrection) -> None:
    subject = Calibrated(spread(5))

    def shift(recipe: Recipe) -> float:
        candidate = subject.applied(recipe=recipe)
        runs = [ADAPTER.runner(model, ONE) for model in (candidate, subject.model)]
        means = [np.mean([run(batch)[0].mean(0) for batch in subject.batches], 0) for run in runs]
        return float(np.abs(means[0] - means[1]).mean())

    assert shift(Recipe(bias_correction=correction)) < 0.6 * shift(Recipe())


def test_weights_rounded_by_their_layers_error_lose_less() -> None:
    subject = Calibrated(spread(7))
    assert subject.noise(subject.applied(recipe=Recipe(weight_rounding=WeightRounding.GPTQ))) < subject.noise(
        subject.applied()
    )


def test_a_weight_that_two_ops_share_is_left_as_it_is() -> None:
    net = Builder((16, 16, 8))
    first = net.conv(net.input, "first", 8)
    second = net.conv(first, "second", 8)
    graph = net.graph
    graph.operators[1].inputs = [first, *graph.operators[0].inputs[1:]]
    data = [{"x": np.random.default_rng(1).normal(size=(4, 16, 16, 8)).astype(np.float32)}]
    subject = Calibrated(net.content(second), data)
    candidate = subject.applied(recipe=Recipe(bias_correction=BiasCorrection.FAST))
    assert any("other ops read them too" in note for note in candidate.notes)
    assert subject.noise(candidate) < 1e-2
