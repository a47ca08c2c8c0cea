"""Configs that make the same model are evaluated once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import autotune
from autotune.config import MINMAX, PERCENTILE, CalibrationAlgorithm, CalibrationMethod, QuantizationConfig
from autotune.criterion import Verdict
from autotune.strategy import Draw, Exhausted, Problem, Proposal, Strategy
from autotune.trial import Trial
from autotune.tuning.limits import Limits
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import NumpyModel

ALGORITHMS = (MINMAX, PERCENTILE, CalibrationAlgorithm(CalibrationMethod.PERCENTILE, 99.9))


class OneOp(Strategy):
    """The last op of the network alone in int8, under one calibration algorithm after the other."""

    def __init__(self, algorithms: Sequence[CalibrationAlgorithm], *, needs_accuracy: bool = False) -> None:
        self.algorithms = algorithms
        self.needs_accuracy = needs_accuracy

    def propose(self, problem: Problem, trials: Sequence[Trial], draw: Draw) -> Proposal | Exhausted:  # noqa: ARG002
        """The next one that was not tried."""
        op = problem.space.ops[-1]
        for algorithm in self.algorithms:
            choice = dataclasses.replace(op.preferred, calibration=algorithm)
            config = QuantizationConfig(ops={op.name: choice})
            if config not in [trial.config for trial in trials]:
                return Proposal(config=config, note=str(algorithm), needs_accuracy=self.needs_accuracy)
        return Exhausted(reason="exhausted: every algorithm was tried")


def _tune(network: NumpyModel, images: Any, score: Any, strategy: Strategy, **options: Any) -> Any:
    # A criterion that everything keeps, so that each candidate is a possible winner.
    tuner = autotune.Tuner(
        framework="numpy",
        strategy=strategy,
        criterion=autotune.Criterion(relative=0.9),
        latency_max_s=0.2,
        warmup=1,
        **options,
    )
    return tuner.tune(network, images, score)


@pytest.mark.parametrize("needs_accuracy", [False, True])
def test_configs_that_make_the_same_model_are_evaluated_once(
    network: NumpyModel, images: Any, score: Any, needs_accuracy: bool
) -> None:
    result = _tune(network, images, score, OneOp(ALGORITHMS, needs_accuracy=needs_accuracy))
    first, second, third = result.history[1:]
    evaluated = [trial for trial in result.history if trial.same_as is None]
    assert second.same_as == 1
    assert second.measurement == first.measurement
    assert second.state is first.state
    assert "the same model as trial 1" in second.note
    # On these few values the narrower percentile cuts something off, so that it is another model.
    assert third.same_as is None
    assert score.calls <= len(evaluated)
    if needs_accuracy:
        assert score.calls == len(evaluated) == 3


def test_a_repeat_is_never_the_answer_nor_raced_against_its_original(
    network: NumpyModel, images: Any, score: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    raced: list[int] = []
    race = autotune.evaluation.Evaluator.race

    def counted(self: Any, finalists: Any, **options: Any) -> Any:
        raced.append(len({model.fingerprint for model in finalists}) - len(finalists))
        return race(self, finalists, **options)

    monkeypatch.setattr(autotune.evaluation.Evaluator, "race", counted)
    result = _tune(network, images, score, OneOp(ALGORITHMS, needs_accuracy=True))
    assert result.verdict is Verdict.MET
    assert result.best.same_as is None
    assert not any(raced)


def test_the_end_says_which_limit_was_reached(network: NumpyModel, images: Any, score: Any) -> None:
    result = _tune(network, images, score, OneOp(ALGORITHMS), max_trials=1)
    assert result.end_reason == "max_trials: 1 candidate tried"
    assert len(result.history) == 2
    ended = _tune(network, images, score, OneOp(ALGORITHMS))
    assert ended.end_reason == "exhausted: every algorithm was tried"


def test_a_resumed_run_knows_the_models_of_the_first(
    network: NumpyModel, images: Any, score: Any, tmp_path: Path
) -> None:
    _tune(network, images, score, OneOp(ALGORITHMS[:1]), workspace=tmp_path)
    result = _tune(network, images, score, OneOp(ALGORITHMS[:2]), workspace=tmp_path)
    assert [trial.same_as for trial in result.history] == [None, None, 1]


def test_a_config_that_leaves_the_model_as_it_is_repeats_the_baseline(
    network: NumpyModel, images: Any, score: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NumpyAdapter, "apply", lambda _self, model, _config, _statistics: model)
    result = _tune(network, images, score, OneOp(ALGORITHMS[:2], needs_accuracy=True))
    assert [trial.same_as for trial in result.history] == [None, 0, 0]
    assert result.best.number == 0
    assert score.calls == 1


def test_a_limit_that_a_history_is_beyond_names_the_trials_that_there_are() -> None:
    end = Limits(max_trials=3).reached(7)
    assert end is not None
    assert end.reason == "max_trials: 7 candidates tried"
