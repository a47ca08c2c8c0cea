"""Training as the last resort of a run: digits, which come with scikit-learn."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import autotune
from autotune.adapters.pytorch.session import threads
from autotune.config import Granularity, Precision
from autotune.criterion import Verdict
from autotune.errors import InputError
from autotune.restriction import OpRestriction, SchemeRestriction, SpaceRestriction
from autotune.trial import TrialState
from tests.adapters.pytorch.modules import images


class Digits(nn.Module):
    """Two convolutions, whose channels in between have been spread, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.fc = nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        return self.fc(functional.max_pool2d(functional.relu(self.conv2(x)), 2).flatten(1))


@functools.cache
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    pictures, labels = load_digits(return_X_y=True)
    return torch.from_numpy((pictures / 16).astype(np.float32).reshape(-1, 1, 8, 8)), torch.from_numpy(labels).long()


def fit(model: nn.Module, steps: int, rate: float) -> None:
    """Train on the first 1,000 digits, the same way in every process.

    On one thread: several wait for each other on a machine that is busy.
    """
    pictures, labels = digits()
    optimizer, random = torch.optim.Adam(model.parameters(), rate), torch.Generator().manual_seed(0)
    with threads(1):
        for _ in range(steps):
            chosen = torch.randperm(1000, generator=random)[:100]
            loss = functional.cross_entropy(model(pictures[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@functools.cache
def trained_and_spread(kind: type[Digits] = Digits) -> Digits:
    """A network whose output channels of ``conv1`` differ by orders of magnitude, as weights per tensor do not bear."""
    torch.manual_seed(0)
    model = kind()
    fit(model.train(), 60, 1e-2)
    factors = torch.exp(2.0 * torch.randn(16, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        model.bn1.weight *= factors
        model.bn1.bias *= factors
        model.conv2.weight /= factors[None, :, None, None]
    return model.eval()


def tune(
    train_fn: Any, workspace: Path | None = None, module: nn.Module | None = None, **changes: Any
) -> autotune.TuningResult:
    """One candidate with per-tensor weights that no recipe mends; for size, which is the same in every run."""
    pictures, labels = digits()
    per_tensor = OpRestriction(
        precision=(Precision.INT8,), weight=SchemeRestriction(granularity=(Granularity.parse("per_tensor"),))
    )
    restriction = SpaceRestriction(  # by name, since runtimes call kinds of ops differently
        op_name={"conv1": per_tensor, "conv2": per_tensor},
        recipe={"equalization": (False,), "bias_correction": ("none",)},
    )
    options: dict[str, Any] = {
        "strategy": "basic",
        "max_trials": 1,
        "objective": "size",
        "latency_max_s": 0.2,
        "restriction": restriction,
        "train_fn": train_fn,
        "workspace": workspace,
        **changes,
    }
    return autotune.Tuner(**options).tune(
        module or trained_and_spread(),
        [pictures[:64]],
        metric="topk",
        eval_dataloader=[(pictures[1000:], labels[1000:])],
    )


def test_training_recovers_half_of_the_loss_and_is_not_done_twice(tmp_path: Path) -> None:
    result = tune(lambda model: fit(model, 60, 2e-3), tmp_path)
    before, after = result.history[1], result.history[2]
    assert before.measurement is not None
    assert before.measurement.verdict is Verdict.MISSED
    assert before.loss is not None
    assert after.loss is not None
    assert after.config.trained
    assert after.note == "trial 1, trained"
    assert after.loss < before.loss / 2
    assert result.seconds["train"] > 0
    assert result.nearest is after or result.best is after
    assert len(list((tmp_path / "cache").glob("trained-*.pt"))) == 1

    def again(_model: object) -> None:
        raise AssertionError("trained again")

    resumed = tune(again, tmp_path)
    assert [trial.config for trial in resumed.history] == [trial.config for trial in result.history]
    # A run that is killed between training and its trial goes on without training, too.
    for file in tmp_path.glob("study.db*"):
        file.unlink()
    killed = tune(again, tmp_path)
    assert killed.history[2].loss == after.loss


def test_candidates_of_several_runtimes_are_trained_and_measured_in_worker_processes(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs `pip install 'autotune-quantization[openvino]'`")
    both = ("onnxruntime", "openvino")
    result = tune(lambda model: fit(model, 60, 2e-3), tmp_path, runtimes=both, isolation="process", max_trials=2)
    losses = {trial.number: trial.loss for trial in result.history}
    trained = [trial for trial in result.history if trial.config.trained]
    assert {trial.config.runtime for trial in result.history if trial.config.ops} == set(both)
    assert trained
    for trial in trained:
        assert trial.config.runtime in both
        assert trial.note is not None
        before = losses[int(trial.note.split()[1].rstrip(","))]
        assert before is not None
        assert trial.loss is not None
        assert trial.loss < before / 2


def diverge(model: nn.Module) -> None:
    nn.init.constant_(model.get_parameter("fc.bias"), float("nan"))


@pytest.mark.parametrize(
    ("train_fn", "reason"),
    [
        (lambda model: model.fc.no_such_thing, "AttributeError: .*no_such_thing"),
        (diverge, "training diverged"),
        (lambda _model: "done", "`train_fn` must train the module that it is given.*str"),
    ],
)
def test_training_that_fails_is_a_failed_trial(train_fn: Any, reason: str) -> None:
    result = tune(train_fn)
    failed = result.history[-1]
    assert failed.config.trained
    assert failed.state is TrialState.FAILED
    assert failed.reason is not None
    assert re.search(reason, failed.reason)
    assert result.best.config.is_fp32


def test_training_that_changes_nothing_is_noted() -> None:
    assert any("has changed no weight" in note for note in tune(lambda _model: None).notes)


def test_nothing_is_trained_where_the_target_is_kept() -> None:
    result = tune(lambda _model: 1 / 0, criterion=autotune.Criterion(relative=0.9))
    assert not any(trial.config.trained for trial in result.history)


def test_what_cannot_be_trained_is_refused_before_anything_is_measured() -> None:
    tuner = autotune.Tuner(train_fn=lambda _model: None)
    with pytest.raises(InputError, match=r"needs a model that can be trained, such as an nn\.Module, but got a str"):
        tuner.tune("model.onnx", [images(4).numpy()], lambda _model: 1.0)
    with pytest.raises(InputError, match="`train_fn` must be callable"):
        autotune.Tuner(train_fn="train")  # type: ignore[arg-type]
