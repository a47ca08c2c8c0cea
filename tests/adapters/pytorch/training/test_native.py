"""Modules trained on the grids of PyTorch's own candidates."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import autotune
from autotune.adapter import Example, FakeQuantization
from autotune.adapters.pytorch.adapter import PytorchAdapter
from autotune.adapters.pytorch.source import TorchSource
from autotune.config import FP32, CalibrationAlgorithm, Precision, QuantizationConfig
from autotune.recipe import Recipe
from tests.adapters.pytorch.calibrated import ONE
from tests.adapters.pytorch.networks import SmallCnn, seeded
from tests.adapters.pytorch.training.test_tuning import Digits, digits, fit, trained_and_spread, tune

FRAMEWORK, RUNTIME = TorchSource(), PytorchAdapter()


@pytest.mark.numeric
@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_what_was_trained_is_what_the_candidate_computes(granularity: str) -> None:
    """Least squared error as the algorithm, which would choose other scales for weights without training."""
    module = seeded(SmallCnn(16)).requires_grad_()
    data = torch.randn((8, 3, 16, 16), generator=torch.Generator().manual_seed(3))
    example = Example([data.numpy()])
    model = RUNTIME.load(module, example)
    feeds = {model.inputs[0].name: data.numpy()}
    statistics = RUNTIME.calibrate(model, [feeds], seed=0)
    ops = {}
    for op in RUNTIME.space(model).ops:
        offered = [choice for choice in op.configs() if choice.precision is Precision.INT8]
        wanted = [each for each in offered if each.weight is None or str(each.weight.granularity) == granularity]
        choice = next(iter(wanted or offered), FP32)
        if choice != FP32:
            ops[op.name] = dataclasses.replace(choice, calibration=CalibrationAlgorithm.parse("mse"))
    config = QuantizationConfig(ops=ops, recipe=Recipe(), trained=True)
    assert isinstance(RUNTIME, FakeQuantization)
    grids = RUNTIME.fake_quantization(model, config, statistics)
    assert grids.keys() == ops.keys()
    sums = [grids[name] for name in grids if name.endswith(".add")]
    assert [len(each.inputs) for each in sums] == [1]  # the other side stays in a convolution's kernel
    trainable, notes = FRAMEWORK.fake_quantized(module, example, grids)
    assert not notes
    optimizer = torch.optim.SGD(trainable.parameters(), lr=0.01)
    for _ in range(3):
        loss = trainable(data).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trained = FRAMEWORK.trained(module, trainable)
    assert FRAMEWORK.changed(module, trained)
    again = RUNTIME.load(trained, example)
    candidate = RUNTIME.apply(again, config, statistics)
    (theirs,) = RUNTIME.quick_runner(candidate, ONE)(feeds)
    with torch.no_grad():
        ours, fp32 = trainable(data).numpy(), trained(data).numpy()
    assert _noise(ours, theirs) < 1e-3 * _noise(fp32, theirs), (_noise(ours, theirs), _noise(fp32, theirs))


class DeepDigits(Digits):
    """One more convolution, since PyTorch leaves one that reads a single channel in fp32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.conv1 = nn.Conv2d(16, 16, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(functional.relu(self.stem(x)))


def test_a_run_on_pytorch_itself_trains_where_post_training_misses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = tune(
        lambda model: fit(model, 60, 2e-3),
        tmp_path / "work",
        framework="pytorch",
        module=trained_and_spread(DeepDigits),
    )
    before, after = result.history[1], result.history[2]
    assert set(before.config.ops) == {"conv1", "conv2", "fc"}
    assert before.measurement is not None
    assert before.measurement.verdict is autotune.Verdict.MISSED
    assert before.loss is not None
    assert after.loss is not None
    assert after.config.trained
    assert after.config.ops == before.config.ops
    assert after.loss < before.loss / 2
    assert result.best is after
    pictures, labels = digits()
    right = result.module()(pictures[1000:]).argmax(1) == labels[1000:]
    assert after.measurement is not None
    assert after.measurement.accuracy == pytest.approx(float(right.float().mean()), abs=0.01)


def _noise(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.square(found - expected).mean() / np.square(expected).mean())
