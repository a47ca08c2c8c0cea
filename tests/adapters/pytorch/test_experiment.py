"""Experiment files whose model is a module."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.adapters.pytorch.modules import Network, images, seeded
from tests.cli.conftest import Command

EXPERIMENT = """\
model: {function: my_network:build}
calibration:
  dataset: {npz: {path: data.npz, inputs: images}, batch_size: 4}
quantization:
  op_name: {layer1.0.conv1: {precision: fp32}}
evaluation:
  accuracy:
    metric: topk
    dataset: {npz: {path: data.npz, inputs: images, labels: labels}, batch_size: 4}
tuning:
  strategy: {name: basic}
  accuracy_criterion: {relative: 0.5}
  objective: size
  exit_policy: {max_trials: 1}
  workspace: work
"""

BUILD = """
from tests.adapters.pytorch.modules import Network, seeded

def build():
    return seeded(Network)
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    pictures = images(16)
    with torch.no_grad():
        labels = seeded(Network)(pictures).argmax(1)
    np.savez(tmp_path / "data.npz", images=pictures.numpy(), labels=labels.numpy())
    (tmp_path / "my_network.py").write_text(BUILD)
    path = tmp_path / "experiment.yaml"
    path.write_text(EXPERIMENT)
    return path


def test_a_module_is_tuned_and_inspected(command: Command, experiment: Path, tmp_path: Path) -> None:
    outcome = command("run", experiment)
    assert outcome.status == 0, outcome
    assert (tmp_path / "work" / "best.onnx").exists()
    assert "layer1.0.conv2" in (tmp_path / "work" / "report.html").read_text()
    inspected = command("inspect", experiment, "--ops")
    assert inspected.status == 0, inspected
    assert "layer1.1.conv2" in inspected.out


@pytest.mark.parametrize(
    ("quantization", "model", "message"),
    [
        ("approach: quant_aware_training", "function: my_network:build", r"needs `train: {function: my_module:train}`"),
        ("train: {function: my_training:train}", "function: my_network:build", r"but the approach is auto"),
        (
            "approach: quant_aware_training\n  train: {function: my_training:train}",
            "path: data.npz",
            r"trained.yaml:\d+: quantization.train: needs a model that can be trained, in `model.function`",
        ),
    ],
)
def test_what_training_needs_is_said_with_the_line(
    quantization: str, model: str, message: str, command: Command, experiment: Path, tmp_path: Path
) -> None:
    text = experiment.read_text().replace("function: my_network:build", model)
    path = tmp_path / "trained.yaml"
    path.write_text(text.replace("  op_name: {layer1.0.conv1: {precision: fp32}}", f"  {quantization}"))
    outcome = command("run", path)
    assert outcome.status == 2
    assert re.search(message, outcome.err), outcome.err
