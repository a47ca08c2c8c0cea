"""The whole way: the core tunes a model on LiteRT as it does on any other framework."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autotune
from autotune.criterion import Criterion
from tests.adapters.tensorflow.calibrated import ADAPTER, ONE, cnn
from tests.adapters.tensorflow.networks import batches, small_cnn
from tests.cli.conftest import Command, command

__all__ = ["command"]  # the fixture

DATA = [batch["x"] for batch in batches()]

EXPERIMENT = """\
model: {path: net.tflite, framework: tensorflow}
calibration:
  dataset: {npz: {path: data.npz, inputs: images}, batch_size: 4}
quantization:
  op_name: {stem/weight: {precision: fp32}}
evaluation:
  accuracy:
    metric: topk
    dataset: {npz: {path: data.npz, inputs: images, labels: labels}, batch_size: 4}
tuning:
  strategy: {name: random}
  accuracy_criterion: {relative: 0.5}
  objective: size
  exit_policy: {max_trials: 3}
  workspace: work
"""


def eval_fn(model: Any) -> float:
    return 10.0 + float(np.mean([np.abs(model(batch)).mean() for batch in DATA]))


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_the_answer_is_saved_as_tflite_and_computes_the_same_bits(isolation: str, tmp_path: Path) -> None:
    tuner = autotune.Tuner(
        framework="tensorflow",
        criterion=Criterion(relative=0.05),
        objective="size",
        strategy="random",
        max_trials=2,
        workspace=tmp_path / "run",
        isolation=isolation,
    )
    result = tuner.tune(small_cnn(24), DATA, eval_fn)
    assert result.verdict == "met"
    assert result.best.config.ops
    result.save(tmp_path / "tuned.tflite")
    run = ADAPTER.runner(ADAPTER.load(tmp_path / "tuned.tflite"), ONE)
    for batch in DATA:
        np.testing.assert_array_equal(run({"x": batch})[0], result.model(batch))


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    (tmp_path / "net.tflite").write_bytes(small_cnn(24))
    images = np.concatenate(DATA)
    labels = ADAPTER.runner(cnn().model, ONE)({"x": images})[0].argmax(1)
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    path = tmp_path / "experiment.yaml"
    path.write_text(EXPERIMENT)
    return path


def test_an_experiment_file_is_run_inspected_and_its_answer_compared(
    command: Command, experiment: Path, tmp_path: Path
) -> None:
    outcome = command("run", experiment)
    assert outcome.status == 0, outcome
    best = tmp_path / "work" / "best.tflite"
    assert best.exists()
    inspected = command("inspect", experiment, "--ops")
    assert inspected.status == 0, inspected
    assert "depthwise/weight" in inspected.out
    compared = command("benchmark", "net.tflite", best, "--framework", "tensorflow", "--warmup", 1)
    assert compared.status == 0, compared.err
    assert "1.00x" in compared.out


def test_a_run_that_was_killed_goes_on(experiment: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "autotune", "run", str(experiment)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    first = subprocess.Popen(line, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    database = tmp_path / "work"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and first.poll() is None and not list(database.glob("*statistics*")):
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    outcome = subprocess.run(
        line, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stdout
    assert (tmp_path / "work" / "best.tflite").exists()
