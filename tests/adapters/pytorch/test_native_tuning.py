"""A module tuned on PyTorch itself, candidates in a worker process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import autotune
from autotune.adapter import Example
from autotune.adapters.pytorch.adapter import PytorchAdapter
from tests.adapters.pytorch.calibrated import ONE
from tests.adapters.pytorch.networks import SmallCnn, seeded


def test_a_module_is_tuned_natively_in_a_worker_and_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = seeded(SmallCnn())  # wide enough that integers make the file smaller
    generator = torch.Generator().manual_seed(3)
    pictures = torch.randn((16, 3, 16, 16), generator=generator)
    loader = DataLoader(pictures, batch_size=8)
    tuner = autotune.Tuner(
        framework="pytorch",
        criterion=autotune.Criterion(relative=0.5),
        objective="size",
        strategy="basic",
        max_trials=1,
        warmup=1,
        latency_max_s=0.1,
        isolation="process",
    )
    result = tuner.tune(module, loader, metric="cosine", eval_dataloader=loader)
    assert result.verdict is autotune.Verdict.MET
    assert not result.best.config.is_fp32
    assert set(result.best.config.ops) <= {
        "stem",
        "block.conv1",
        "block.conv2",
        "block.add",
        "depthwise",
        "wide",
        "head",
    }
    assert result.best.measurement is not None
    assert result.best.measurement.speedup is not None
    assert result.best.measurement.peak_memory_bytes is not None
    saved = result.save(tmp_path / "tuned.pt2")
    adapter = PytorchAdapter()
    expected = adapter.runner(adapter.load(saved), ONE)({"x": pictures.numpy()})[0]
    given = result.module()(pictures)
    assert isinstance(given, torch.Tensor)
    np.testing.assert_array_equal(given.numpy(), expected)
    assert [file.name for file in tmp_path.iterdir()] == ["tuned.pt2"], "nothing else lies in the working folder"


class Named(nn.Module):
    """Two inputs that a loader gives by name."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 8)

    def forward(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.body(values)
        return hidden * mask


def test_batches_that_are_dicts_run_on_the_exported_graph() -> None:
    module = seeded(Named())
    batches = [{"values": torch.randn(4, 8), "mask": torch.ones(4, 8)}]
    adapter = PytorchAdapter()
    model = adapter.load(module, Example(batches))
    feeds = {name: value.numpy() for name, value in batches[0].items()}
    (output,) = adapter.quick_runner(model, ONE)(feeds)
    np.testing.assert_allclose(output, module(**batches[0]).detach().numpy(), rtol=1e-5, atol=1e-6)
    assert adapter.calibrate(model, [feeds], seed=0).samples == 4
