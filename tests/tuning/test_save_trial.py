"""Any trial's model, as it was measured."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import autotune
from autotune.config import Precision
from autotune.errors import InputError, WorkspaceError
from autotune.evaluation import Evaluator
from autotune.results.summary import read_summary
from autotune.trial import TrialState
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import NumpyModel, read
from tests.tuning.cheap import CHEAP, TOLERANT

Score = Callable[[Any], float]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The fingerprints of the candidates that were measured, in their order."""
    found: list[str] = []
    evaluate = Evaluator.evaluate

    def noted(self: Any, candidate: Any, **options: Any) -> Any:
        found.append(candidate.fingerprint)
        return evaluate(self, candidate, **options)

    monkeypatch.setattr(Evaluator, "evaluate", noted)
    return found


@pytest.mark.parametrize("workspace", [True, False])
def test_every_trial_is_saved_as_it_was_measured(
    network: NumpyModel, images: Sequence[Any], score: Score, measured: list[str], tmp_path: Path, workspace: bool
) -> None:
    options = {**CHEAP, "objective": "size", "strategy": "random", "max_trials": 4, "criterion": TOLERANT}
    tuner = autotune.Tuner(**options, workspace=tmp_path / "work" if workspace else None)
    result = tuner.tune(network, images, score)
    own = [trial for trial in result.history[1:] if trial.same_as is None]
    assert len(own) > 2
    for trial, fingerprint in zip(own, measured, strict=True):
        written = result.save(tmp_path / f"{trial.number}.npz", trial=trial.number)
        model, metadata = read(written)
        assert model.fingerprint == fingerprint, trial.number
        assert json.loads(metadata["autotune:config"]) == trial.config.to_json()
        assert trial.measurement is not None
        assert json.loads(metadata["autotune:measurement"]) == json.loads(json.dumps(trial.measurement.to_json()))
    assert read(result.save(tmp_path / "0.npz", trial=0))[0].fingerprint == network.fingerprint
    assert read(result.save(tmp_path / "best.npz"))[0].fingerprint == (result.best.model_fingerprint)


def test_a_trial_that_is_none_or_failed_is_an_error(
    network: NumpyModel, images: Sequence[Any], score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = Evaluator.evaluate

    def failing(self: Any, candidate: Any, **options: Any) -> Any:
        if candidate.dense["head"].weight_scheme is None:
            raise RuntimeError("no head")
        return evaluate(self, candidate, **options)

    monkeypatch.setattr(Evaluator, "evaluate", failing)
    options = {**CHEAP, "objective": "size", "strategy": "random", "max_trials": 12, "criterion": TOLERANT}
    result = autotune.Tuner(**options).tune(network, images, score)
    failed = next(trial for trial in result.history if trial.state is TrialState.FAILED)
    with pytest.raises(InputError, match=f"trial {failed.number} failed: RuntimeError: no head"):
        result.save(tmp_path / "x.npz", trial=failed.number)
    with pytest.raises(InputError, match="there is no trial 40"):
        result.save(tmp_path / "x.npz", trial=40)
    with pytest.raises(InputError, match="there is no trial '2'"):
        result.save(tmp_path / "x.npz", trial="2")  # type: ignore[arg-type]  # the point
    with pytest.raises(InputError, match="`path` must name the file"):
        result.save("")


def test_a_model_that_comes_out_otherwise_is_not_written(
    network: NumpyModel, images: Sequence[Any], score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**CHEAP, "objective": "size", "strategy": "random", "max_trials": 4, "criterion": TOLERANT}
    result = autotune.Tuner(**options).tune(network, images, score)
    other = next(trial for trial in result.history[1:] if trial.number != result.best.number and trial.config.ops)
    apply = NumpyAdapter.apply

    def drifted(self: Any, model: NumpyModel, config: Any, statistics: Any) -> NumpyModel:
        made = apply(self, model, config, statistics)
        return dataclasses.replace(made, layers=tuple(dataclasses.replace(each, bias=None) for each in made.layers))

    monkeypatch.setattr(NumpyAdapter, "apply", drifted)
    with pytest.raises(WorkspaceError, match=f"The model of trial {other.number} must come out as it was measured"):
        result.save(tmp_path / "x.npz", trial=other.number)
    assert not (tmp_path / "x.npz").exists()


def test_excluded_nodes_are_all_that_is_not_static_int8(
    network: NumpyModel, images: Sequence[Any], score: Score, tmp_path: Path
) -> None:
    options = {**CHEAP, "objective": "size", "strategy": "random", "max_trials": 6, "criterion": TOLERANT}
    result = autotune.Tuner(**options, workspace=tmp_path).tune(network, images, score)
    for trial in result.history:
        expected = [op for op in network.dense if trial.config[op].precision is not Precision.INT8]
        assert result.excluded_nodes(trial.number) == expected
        assert read_summary(tmp_path).excluded_nodes(trial.number) == expected
    assert result.excluded_nodes(0) == list(network.dense)
    assert result.excluded_nodes() == result.excluded_nodes(result.best.number)
