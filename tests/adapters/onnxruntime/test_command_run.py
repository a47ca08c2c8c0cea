"""``autotune run`` on a real model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Command
from tests.experiment.sections import RESNET20_STEPS


def test_resnet20_end_to_end(command: Command, shared_resnet20: Path, tmp_path: Path) -> None:
    archives = {"train": "cifar10_calibration.npz", "test": "cifar10_evaluation.npz"}
    train, test = (
        {
            "npz": {"path": str(shared_resnet20.parent / name), "inputs": "images", "labels": "labels"},
            "batch_size": 20,
            "preprocess": RESNET20_STEPS,
        }
        for name in archives.values()
    )
    document: dict[str, Any] = {
        "model": {"path": str(shared_resnet20)},
        "calibration": {"sampling_size": 20, "dataset": train},
        "evaluation": {"accuracy": {"metric": "topk", "k": 1, "dataset": {**test, "limit": 200}}},
        "tuning": {"accuracy_criterion": {"absolute": 0.1}, "exit_policy": {"max_trials": 1}, "workspace": "work"},
    }
    path = tmp_path / "resnet20.yaml"
    path.write_text(json.dumps(document))  # JSON is YAML
    outcome = command("run", path, "--set", "tuning.strategy.name=basic")
    assert outcome.status == 0, outcome
    baseline = next(line.split() for line in outcome.out.splitlines() if line.split()[:1] == ["0"])
    assert baseline[1] == "0.8300"  # 166 of the first 200 pictures
    assert "Target met" in outcome.out


@pytest.fixture
def shared_resnet20() -> Path:
    path = Path(__file__).parents[3] / ".." / "shared" / "data" / "resnet20_cifar10.onnx"
    if not path.is_file():
        pytest.skip("../shared/data is not here")
    return path.resolve()
