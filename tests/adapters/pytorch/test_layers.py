"""The graph protocol: nodes run one by one give what the module gives, and say what the algorithms need."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from autotune.adapters.pytorch.graph import graph_fingerprint
from autotune.adapters.pytorch.layers import PytorchGraph
from autotune.adapters.pytorch.model import PytorchModel
from autotune.adapters.pytorch.recipes import prepare_channels
from autotune.algorithms.graph import Clip, Layer, Scaled, Sum, Values
from autotune.config import Precision, Recipe
from tests.adapters.pytorch.calibrated import Calibrated, cnn, encoder
from tests.adapters.pytorch.networks import SmallCnn, exported, seeded


def layers(model: PytorchModel) -> PytorchGraph:
    assert model.graph is not None
    return PytorchGraph(model.graph, model.ops)


@pytest.mark.parametrize("network", [cnn, encoder])
def test_nodes_one_by_one_compute_what_the_graph_does(network: object) -> None:
    tried: Calibrated = network()  # type: ignore[operator]  # one of the two above
    graph = layers(tried.model)
    values: dict[str, Values] = {"x": [tried.batches[0]["x"], tried.batches[1]["x"]]}
    for node in graph.nodes:
        values.update(graph.run(node, values))
    (output,) = graph.outputs
    np.testing.assert_allclose(values[output][0], tried.outputs(tried.model), rtol=1e-5, atol=1e-6)
    assert len(values[output]) == 2


def test_a_node_runs_with_other_constants() -> None:
    tried = cnn()
    graph = layers(tried.model)
    stem = next(node for node in graph.nodes if isinstance(node, Layer) and node.name == "stem")
    values: dict[str, Values] = {"x": [tried.batches[0]["x"]]}
    plain = graph.run(stem, values)[stem.output][0]
    doubled = {stem.weight: 2 * graph.constants[stem.weight], str(stem.bias): 0 * graph.constants[str(stem.bias)]}
    bias = graph.constants[str(stem.bias)].reshape(1, -1, 1, 1)
    np.testing.assert_allclose(
        graph.run(stem, values, doubled)[stem.output][0], 2 * (plain - bias), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(graph.run(stem, values)[stem.output][0], plain)


def test_layers_activations_and_sums_are_described() -> None:
    graph = layers(cnn().model)
    by_name = {node.name: node for node in graph.nodes}
    depthwise = by_name["depthwise"]
    assert isinstance(depthwise, Layer)
    assert depthwise.convolution is not None
    assert (depthwise.groups, depthwise.convolution.strides, depthwise.convolution.pads) == (16, (2, 2), (1, 1, 1, 1))
    head = by_name["head"]
    assert isinstance(head, Layer)
    assert head.convolution is None
    assert isinstance(by_name["block.add"], Sum)
    ends = [(node.low, node.high) for node in graph.nodes if isinstance(node, Clip)]
    assert ends.count((0.0, math.inf)) == 4
    assert ends.count((0.0, 6.0)) == 1
    (norm,) = (node for node in layers(encoder().model).nodes if isinstance(node, Scaled))
    assert len(norm.vectors) == 2


def test_batch_norms_are_folded_and_nothing_writes_in_place() -> None:
    module = seeded(SmallCnn(16))
    model = cnn().model
    assert model.graph is not None
    targets = [str(node.target) for node in model.graph.graph.nodes]
    assert not any("batch_norm" in target or "relu_" in target for target in targets)
    assert [op.name for op in model.ops] == [
        "stem", "block.conv1", "block.conv2", "block.add", "depthwise", "wide", "head"
    ]  # fmt: skip
    x = torch.from_numpy(cnn().batches[0]["x"])
    with torch.no_grad():
        np.testing.assert_allclose(cnn().outputs(model), module(x).numpy(), rtol=1e-3, atol=1e-5)


def test_the_users_program_is_left_as_it_is() -> None:
    program = exported(seeded(SmallCnn(16)), 3, 16, 16)
    before = {name: value.clone() for name, value in program.state_dict.items()}
    tried = Calibrated(program, (3, 16, 16))
    tried.applied({"stem": Precision.INT8, "head": Precision.INT8_DYNAMIC})
    for name, value in before.items():
        torch.testing.assert_close(program.state_dict[name], value, rtol=0, atol=0)
    assert tried.model.fingerprint == cnn().model.fingerprint


@pytest.mark.parametrize(
    ("network", "recipe"),
    [(cnn, Recipe(equalization=True)), (encoder, Recipe.from_json({"smooth_quant": "auto"}))],
)
def test_moving_ranges_between_channels_changes_constants_and_no_output(network: object, recipe: Recipe) -> None:
    tried: Calibrated = network()  # type: ignore[operator]  # one of the two above
    assert tried.model.graph is not None
    config = tried.config({op.name: Precision.INT8 for op in tried.model.ops}, recipe)
    prepared = prepare_channels(tried.model, config, tried.statistics)
    assert graph_fingerprint(prepared.graph) != tried.model.fingerprint
    graph = PytorchGraph(prepared.graph, tried.model.ops)
    values: dict[str, Values] = {"x": [tried.batches[0]["x"]]}
    for node in graph.nodes:
        values.update(graph.run(node, values))
        if node.writes[0] in prepared.bounds:
            caps = prepared.bounds[node.writes[0]].reshape(1, -1, 1, 1)
            values[node.writes[0]] = [np.minimum(values[node.writes[0]][0], caps)]
    (output,) = graph.outputs
    expected = tried.outputs(tried.model)
    # Ranges end at many deviations, so that biases that were moved on leave less than a thousandth.
    assert np.square(values[output][0] - expected).mean() < 1e-3 * np.square(expected).mean()
