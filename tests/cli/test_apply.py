"""``autotune apply``."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.results.summary import read_summary
from tests.cli.conftest import Command
from tests.conftest import dense_network
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import read


@pytest.fixture
def workspace(command: Command, experiment: Path, tmp_path: Path) -> Path:
    assert command("run", experiment).status == 0
    return tmp_path / "work"


def test_the_answer_of_the_workspace_is_the_default(
    command: Command, experiment: Path, workspace: Path, tmp_path: Path
) -> None:
    outcome = command("apply", experiment, "-o", "again.npz")
    assert outcome.status == 0, outcome
    assert "Model:  again.npz, 4 ops quantized; nothing was measured" in outcome.out
    assert read(tmp_path / "again.npz")[0].fingerprint == read(workspace / "best.npz")[0].fingerprint


def test_retrained_weights_take_the_place_of_the_old_ones(
    command: Command, experiment: Path, workspace: Path, tmp_path: Path
) -> None:
    NumpyAdapter().save(dense_network(3), tmp_path / "retrained.npz", {})
    for config in ("work", "work:1", "work/best.npz"):
        outcome = command("apply", experiment, "--config", config, "--set", "model.path=retrained.npz", "-o", "new.npz")
        assert outcome.status == 0, outcome
        made = read(tmp_path / "new.npz")[0]
        assert made.fingerprint != read(workspace / "best.npz")[0].fingerprint
        config_of = read_summary(workspace).trial(1 if config.endswith(":1") else read_summary(workspace).best.number)
        assert {name for name, layer in made.dense.items() if layer.weight_scheme} == set(config_of.config.ops)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--config", "nowhere"), "there is nothing of that name"),
        (("--config", "work:77"), "there is no trial 77"),
        (("--set", "model.path=gone.npz"), "gone.npz"),
    ],
)
def test_what_cannot_be_used_is_bad_input(
    command: Command, experiment: Path, workspace: Path, options: tuple[str, ...], message: str
) -> None:
    assert workspace.is_dir()
    outcome = command("apply", experiment, "-o", "new.npz", *options)
    assert (outcome.status, message in outcome.err) == (2, True), outcome


def test_any_trial_is_exported_as_it_was_measured(
    command: Command, experiment: Path, workspace: Path, tmp_path: Path
) -> None:
    history = read_summary(workspace).history
    for trial in history:
        outcome = command("export", experiment, "--trial", trial.number, "-o", "trial.npz")
        assert outcome.status == 0, outcome
        assert read(tmp_path / "trial.npz")[0].fingerprint == trial.model_fingerprint
    assert command("export", experiment, "-o", "answer.npz").status == 0
    (made, told), (kept, expected) = read(tmp_path / "answer.npz"), read(workspace / "best.npz")
    assert (made.fingerprint, told) == (kept.fingerprint, expected)


def test_other_data_or_weights_are_no_export(
    command: Command, experiment: Path, workspace: Path, tmp_path: Path
) -> None:
    NumpyAdapter().save(dense_network(3), tmp_path / "retrained.npz", {})
    best = read_summary(workspace).best.number
    for change in ("model.path=retrained.npz", "calibration.sampling_size=8"):
        outcome = command("export", experiment, "--trial", best, "--set", change, "-o", "x.npz")
        assert (outcome.status, "must come out as it was measured" in outcome.err) == (2, True), outcome
        assert not (tmp_path / "x.npz").exists()


def test_the_report_lists_what_is_excluded(command: Command, workspace: Path) -> None:
    outcome = command("report", workspace, "--excluded")
    assert outcome.status == 0
    assert outcome.out.split() == read_summary(workspace).excluded_nodes()
