"""Experiments whose model is what a function returns."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Command

MODELS = """
from pathlib import Path

def build():
    return Path(__file__).with_name("network.npz")

def forgets():
    build()
"""


@pytest.fixture
def by_function(experiment: Path) -> Path:
    """The experiment with a function in place of the model's path."""
    experiment.with_name("models_of_mine.py").write_text(MODELS)
    text = experiment.read_text().replace("path: network.npz", "function: models_of_mine:build")
    experiment.write_text(text)
    return experiment


def test_a_model_that_a_function_returns_is_tuned(command: Command, by_function: Path, tmp_path: Path) -> None:
    outcome = command("run", by_function)
    assert outcome.status == 0, outcome
    assert "models_of_mine:build" in outcome.out
    assert (tmp_path / "work" / "best.npz").exists()


def test_inspect_reads_an_experiment(command: Command, by_function: Path) -> None:
    outcome = command("inspect", by_function)
    assert outcome.status == 0, outcome
    assert "models_of_mine:build" in outcome.out
    assert "Dense" in outcome.out


def test_a_function_that_returns_nothing(command: Command, by_function: Path) -> None:
    by_function.write_text(by_function.read_text().replace("mine:build", "mine:forgets"))
    outcome = command("run", by_function)
    assert outcome.status == 2
    assert "'models_of_mine:forgets' must return a model, but it is None" in outcome.err


@pytest.mark.parametrize("model", ["path: a.npz, function: m:f", "framework: numpy"])
def test_a_model_is_a_path_or_a_function(command: Command, experiment: Path, model: str) -> None:
    text = experiment.read_text()
    experiment.write_text(text.replace(text.splitlines()[0], f"model: {{{model}}}"))
    outcome = command("run", experiment)
    assert outcome.status == 2
    assert "must have one of the keys path, function" in outcome.err
