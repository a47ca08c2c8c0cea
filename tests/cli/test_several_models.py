"""Several models in one file, or in one call."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import autotune
from autotune.errors import InputError
from autotune.results.summary import read_summary
from tests.cli.conftest import Command
from tests.conftest import Recorder, dense_network
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import NumpyModel
from tests.tuning.cheap import CHEAP, TOLERANT


@pytest.fixture
def several(experiment: Path, tmp_path: Path) -> Path:
    """An experiment on two models: the labels are the first one's answers, and the second one answers otherwise."""
    NumpyAdapter().save(dense_network(3), tmp_path / "other.npz", {})
    text = experiment.read_text()
    first = "model: {path: network.npz, framework: numpy}"
    assert first in text
    models = "models:\n  first: {path: network.npz, framework: numpy}\n  other: {path: other.npz, framework: numpy}"
    experiment.write_text(text.replace(first, models))
    return experiment


def test_each_model_has_its_run_and_its_workspace(command: Command, several: Path, tmp_path: Path) -> None:
    outcome = command("run", several, "--json")
    assert outcome.status in (0, 3), outcome
    events = [json.loads(line) for line in outcome.out.splitlines()]
    assert [each["name"] for each in events if each["event"] == "model"] == ["first", "other"]
    results = [each for each in events if each["event"] == "result"]
    assert len(results) == 2
    assert (outcome.status == 0) == all(each["success"] for each in results), "the worst of both"
    for name, result in zip(("first", "other"), results, strict=True):
        assert read_summary(tmp_path / "work" / name).best.number == result["best"]
        assert (tmp_path / "work" / name / "report.html").is_file()
    assert "Model first" in command("run", several, "--quiet").out


def test_each_model_starts_from_its_own_answer(command: Command, several: Path, tmp_path: Path) -> None:
    quick = ("--max-trials", "1", "--set", "tuning.strategy=basic", "--set", "evaluation.isolation=none")
    command("run", several, *quick)
    outcome = command(
        "run", several, *quick, "--workspace", tmp_path / "now", "--start-from", tmp_path / "work", "--json"
    )
    results = [each for each in map(json.loads, outcome.out.splitlines()) if each["event"] == "result"]
    sources = [Path(result["started_from"]["source"]) for result in results]
    assert sources == [tmp_path / "work" / name for name in ("first", "other")], outcome


def test_what_is_for_one_model_says_so(command: Command, several: Path) -> None:
    for arguments in (("apply", several, "-o", "x.npz"), ("worker", several)):
        outcome = command(*arguments)
        assert (outcome.status, "`models` names 2 (first, other)" in outcome.err) == (2, True), outcome
    outcome = command("run", several, "-o", "x.npz")
    assert (outcome.status, "`--output` must be left out" in outcome.err) == (2, True)
    outcome = command("run", several, "--set", "tuning.storage='sqlite:///x.db'")
    assert (outcome.status, "holds the history of one model" in outcome.err) == (2, True)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("models: {a/b: {path: network.npz}}", "models.a/b: a model's name must be"),
        ("models: {}", "must have a section like `model` for each name"),
        ("models: {a: {path: network.npz}}\nmodel: {path: network.npz}", "and no `model` beside it"),
        ("models: {a: {paht: network.npz}}", "unknown key 'paht'"),
    ],
)
def test_models_that_are_none_name_their_line(command: Command, experiment: Path, models: str, message: str) -> None:
    text = experiment.read_text()
    experiment.write_text(text.replace("model: {path: network.npz, framework: numpy}", models))
    outcome = command("run", experiment)
    assert (outcome.status, message in outcome.err) == (2, True), outcome
    assert "experiment.yaml:1" in outcome.err


def test_several_models_in_one_call(network: NumpyModel, images: Sequence[Any], tmp_path: Path) -> None:
    tuner = autotune.Tuner(
        **CHEAP, objective="size", strategy="basic", max_trials=1, criterion=TOLERANT, workspace=tmp_path
    )
    results = tuner.tune_all({"a": network, "b": dense_network(3)}, images, lambda _: 1.0)
    assert list(results) == ["a", "b"]
    for name, result in results.items():
        assert read_summary(tmp_path / name).best.config == result.best.config
    again = dataclasses.replace(tuner, workspace=None, start_from=tmp_path)
    for name, result in again.tune_all({"a": network, "b": dense_network(3)}, images, lambda _: 1.0).items():
        assert result.started_from is not None
        assert result.started_from.source == str(tmp_path / name)
    one = dataclasses.replace(tuner, workspace=None, start_from=tmp_path / "a")
    for result in one.tune_all({"a": network, "b": network}, images, lambda _: 1.0).values():
        assert result.started_from is not None
        assert result.started_from.source == str(tmp_path / "a")
    for wrong in ({}, {"a/b": network}, [network]):
        with pytest.raises(InputError, match="must be"):
            tuner.tune_all(wrong, images, Recorder(images))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="`storage` holds the history of one model"):
        autotune.Tuner(**CHEAP, storage="sqlite:///x.db").tune_all({"a": network}, images, Recorder(images))
