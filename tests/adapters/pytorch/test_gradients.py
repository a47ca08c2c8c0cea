"""Hessian probes, against Hessians that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import autotune
from autotune.adapter import Example
from autotune.adapters.pytorch.export import exported
from autotune.adapters.pytorch.gradients import ModuleGradients
from autotune.adapters.pytorch.onnx import to_onnx
from autotune.config import MINMAX, OpConfig, Precision, QuantizationConfig, QuantizedType, TensorScheme
from autotune.errors import DataError
from autotune.tuning.gradients import SourceGradients
from autotune.tuning.history import read_study
from tests.adapters.pytorch.modules import Network, Text, images, seeded, tokens
from tests.adapters.pytorch.test_source import agreement, loader, tuner


def gradients(module: nn.Module, *batches: object) -> ModuleGradients:
    return ModuleGradients(exported(module, Example(batches)))


def traces(of: ModuleGradients, feeds: dict[str, np.ndarray], probes: int) -> dict[str, float]:
    found = [of.hessian_probe(feeds, seed=seed) for seed in range(probes)]
    return {op: float(np.mean([each[op] for each in found])) for op in found[0]}


def test_the_trace_of_a_linear_layer_is_that_of_its_inputs() -> None:
    """The output is ``x W``, so that the loss is ``|x dW|^2``, of trace ``2 outputs |x|^2``, over the spread."""
    x = torch.randn(16, 4)
    layer = nn.Sequential(nn.Linear(4, 3, bias=False)).eval()
    with torch.no_grad():
        output = layer(x)
    spread = float((output - output.mean()).square().sum())
    want = 2 * 3 * float(x.square().sum()) / spread
    found = traces(gradients(layer, x), {"input": x.numpy()}, 400)
    assert found == {"0": pytest.approx(want, rel=0.1)}


def test_batch_norm_is_part_of_the_weight_that_a_runtime_quantizes() -> None:
    """Weights are those of the ONNX graph, and a probe is about them, not about what training had."""
    network = seeded(Network)
    program = exported(network, Example([images(2)]))
    weights = ModuleGradients(program).weights()
    graph = onnx.load_from_string(to_onnx(program)).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    convolutions = {node.name: constants[node.input[1]] for node in graph.node if node.op_type == "Conv"}
    assert set(weights) == {*convolutions, "fc"}
    for name, want in convolutions.items():
        found, axis = weights[name]
        assert axis == 0
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)


def test_scaling_channels_in_batch_norm_changes_no_second_order_error() -> None:
    """Twice the batch norm of half the weight is the same layer: trace times squared error is the same too."""
    first = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)).eval()
    second = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)).eval()
    with torch.no_grad():
        second[0].weight.copy_(first[0].weight / 2)
        second[1].weight.mul_(2)
    feeds = {"input": images(4).numpy()}
    one, other = (gradients(module, images(4)) for module in (first, second))
    np.testing.assert_allclose(one.weights()["0"][0], other.weights()["0"][0], rtol=1e-6)
    assert one.hessian_probe(feeds, seed=1) == pytest.approx(other.hessian_probe(feeds, seed=1), rel=1e-4)


def test_probes_follow_the_seed_and_leave_the_module_alone() -> None:
    network = seeded(Network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    of, feeds = gradients(network, images(4)), {"x": images(4).numpy()}
    assert of.hessian_probe(feeds, seed=0) == of.hessian_probe(feeds, seed=0) != of.hessian_probe(feeds, seed=1)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_no_single_probe_is_negative() -> None:
    """A machine under load affords few probes, and their mean must still be a trace."""
    of, feeds = gradients(seeded(Network), images(4)), {"x": images(4).numpy()}
    assert all(value > 0 for seed in range(40) for value in of.hessian_probe(feeds, seed=seed).values())


def test_the_trace_by_labels_is_that_of_the_cross_entropy() -> None:
    """A linear layer has ``sum p (1 - p) |x|^2`` over the classes, as a mean over the samples."""
    x, labels = torch.randn(16, 4), torch.arange(16) % 3
    layer = nn.Sequential(nn.Linear(4, 3, bias=False)).eval()
    with torch.no_grad():
        p = layer(x).softmax(1)
    want = float(((p * (1 - p)).sum(1) * x.square().sum(1)).mean())
    of, feeds = gradients(layer, x), {"input": x.numpy()}
    found = [of.hessian_probe(feeds, seed=seed, labels=labels.numpy())["0"] for seed in range(400)]
    assert float(np.mean(found)) == pytest.approx(want, rel=0.1)


def test_labels_change_the_hessian_of_a_network() -> None:
    network, pictures = seeded(Network), images(4)
    of, feeds = gradients(network, pictures), {"x": pictures.numpy()}
    ones, others = (of.hessian_probe(feeds, seed=0, labels=np.full(4, label)) for label in (0, 1))
    assert ones["stem"] != others["stem"]


@pytest.mark.parametrize(
    "labels", [np.zeros(4, np.float32), np.zeros(3, int), np.zeros((4, 2), int), np.full(4, 99), np.full(4, -1)]
)
def test_labels_that_are_no_classes(labels: np.ndarray) -> None:
    of, feeds = gradients(seeded(Network), images(4)), {"x": images(4).numpy()}
    with pytest.raises(DataError, match="loss='outputs', which needs no labels"):
        of.hessian_probe(feeds, seed=0, labels=labels)


def test_hawq_by_labels(tmp_path: Path) -> None:
    options = {"strategy": "hawq", "criterion": autotune.Criterion(relative=1e-9), "workspace": tmp_path}
    tuner(**options, strategy_options={"loss": "labels"}).tune(seeded(Network), loader(), agreement)
    _, about = read_study(tmp_path)
    assert set(about["hessian sensitivity by labels"]) > {"stem", "fc"}
    assert "hessian sensitivity" not in about


def test_hawq_by_labels_that_are_not_there() -> None:
    hawq = tuner(strategy="hawq", strategy_options={"loss": "labels"})
    with pytest.raises(DataError, match=r"yields `\(inputs, labels\)`.*loss='outputs'"):
        hawq.tune(seeded(Network), [images(4), images(4)], agreement)


def test_inputs_by_name() -> None:
    batch = tokens(4, 6)
    of = gradients(seeded(Text), batch)
    feeds = {name: batch[name].numpy() for name in ("input_ids", "attention_mask")}
    assert of.hessian_probe(feeds, seed=0)["fc"] > 0


def test_weights_are_rounded_as_a_config_says() -> None:
    source = SourceGradients(gradients(seeded(Network), images(2)))
    scheme = TensorScheme(dtype=QuantizedType.S8, symmetric=True)
    op = OpConfig(precision=Precision.INT8, activation=scheme, weight=scheme, calibration=MINMAX)
    before, after = source.weights(None), source.weights(QuantizationConfig(ops={"fc": op}))
    step = np.abs(before["fc"]).max() / 127
    assert 0 < np.abs(after["fc"] - before["fc"]).max() <= step
    np.testing.assert_array_equal(after["stem"], before["stem"])


def test_hawq_ranks_the_ops_of_a_module_on_another_runtime(tmp_path: Path) -> None:
    hawq = tuner(strategy="hawq", criterion=autotune.Criterion(relative=1e-9), workspace=tmp_path)
    result = hawq.tune(seeded(Network), loader(), agreement)
    assert result.history[1].note == "every op as preferred"
    _, about = read_study(tmp_path)
    ranking = about["hessian sensitivity"]
    assert set(ranking) == {"stem", "fc", *(f"layer1.{block}.conv{number}" for block in (0, 1) for number in (1, 2))}
    assert all(value > 0 for value in ranking.values())
