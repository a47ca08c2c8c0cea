from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from autotune.adapter import Execution
from autotune.cli import main
from tests.numpy_adapter import NumpyAdapter


@dataclass(frozen=True)
class Outcome:
    """Result of a command as a shell sees it."""

    status: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Command]:
    """Runs ``autotune`` in this process, in a folder of its own, on a terminal of 120 columns that is none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*args: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["autotune", *map(str, args)])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return Outcome(int(caught.value.code), captured.out, captured.err)

    yield run
    for name, module in list(sys.modules.items()):  # the next test may have a file of the same name
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


EXPERIMENT = """\
model: {path: network.npz, framework: numpy}
calibration:
  sampling_size: 16
  dataset: {npz: {path: data.npz, inputs: images}, batch_size: 8}
evaluation:
  accuracy:
    metric: topk
    k: 1
    dataset: {npz: {path: data.npz, inputs: images, labels: labels}, batch_size: 16}
  isolation: none               # a worker takes seconds to start; test_run.py has a run with one
  performance: {warmup: 2}
tuning:
  strategy: {name: basic}
  accuracy_criterion: {absolute: 0.2}
  objective: size               # unlike latency the same in every run
  exit_policy: {max_trials: 2}
  workspace: work
"""


@pytest.fixture
def experiment(network_file: Path, tmp_path: Path) -> Path:
    """An experiment on a small network, whose labels are the network's own answers."""
    images = np.random.default_rng(2).normal(size=(64, 3, 16, 16)).astype(np.float32)
    adapter = NumpyAdapter()
    runner = adapter.runner(adapter.load(network_file), Execution())
    labels = runner({"data": images})[0].argmax(axis=1)
    np.savez(tmp_path / "data.npz", images=images, labels=labels, few=labels[:5], bytes=images.astype(np.uint8))
    path = tmp_path / "experiment.yaml"
    path.write_text(EXPERIMENT)
    return path
