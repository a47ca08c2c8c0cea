"""Runs for least loss within limits, and for throughput."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import autotune
from autotune.config import Precision, QuantizationConfig
from autotune.constraints import Constraints
from autotune.criterion import Interval, Verdict
from autotune.errors import InputError
from autotune.evaluation import serving
from autotune.evaluation.latency.throughput import Throughput
from autotune.results.summary import read_summary
from autotune.strategies import as_strategy
from autotune.strategy import Exhausted, Objective
from autotune.testing.synthetic import Synthetic, make_model
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.posed import ForAccuracy
from autotune.tuning.selection import conclude, incumbent
from tests.conftest import Recorder
from tests.numpy_framework import NumpyModel
from tests.tuning.cheap import CHEAP


def tuner(**options: Any) -> autotune.Tuner:
    return autotune.Tuner(**{**CHEAP, "strategy": "auto", "max_trials": 10, **options})


def test_least_loss_within_a_size(network: NumpyModel, images: Sequence[Any], tmp_path: Path) -> None:
    limit = int(network.size_bytes * 0.6)
    limits = Constraints(size_bytes=limit)
    result = tuner(objective="accuracy", constraints=limits, workspace=tmp_path).tune(network, images, Recorder(images))
    assert result.verdict is Verdict.MET
    assert result.best.measurement is not None
    assert (result.best.measurement.size_bytes or 0) <= limit
    kept = [t for t in result.history if t.met]
    assert result.best.loss == min(trial.loss for trial in kept if trial.loss is not None)
    assert not result.history[0].met, "fp32 loses nothing and is too large"
    report = result.report(tmp_path / "report.html").read_text()
    assert f"Asked for was the least loss with at most {limit:,} bytes" in report
    assert read_summary(tmp_path).constraints == limits


def test_a_limit_that_nothing_keeps_is_missed(network: NumpyModel, images: Sequence[Any]) -> None:
    result = tuner(objective="accuracy", constraints=Constraints(size_bytes=10), max_trials=3).tune(
        network, images, Recorder(images)
    )
    assert (result.verdict, result.best.number) == (Verdict.MISSED, 0)
    assert result.nearest is not None
    assert "keeps the limits" in result.reason
    assert all(trial.loss is None for trial in result.history[1:]), "no accuracy was evaluated for nothing"


def test_a_limit_that_fp32_keeps_is_answered_with_fp32(network: NumpyModel, images: Sequence[Any]) -> None:
    result = tuner(objective="accuracy", constraints=Constraints(size_bytes=10**9), max_trials=2).tune(
        network, images, Recorder(images)
    )
    assert (result.verdict, result.best.number) == (Verdict.MET, 0)


def _search(model: Synthetic, limits: Constraints, budget: int) -> list[Trial]:
    """The trials of ``auto`` for least loss within limits."""
    strategy = ForAccuracy(as_strategy("auto"), limits)
    problem = dataclasses.replace(model.problem(), objective=Objective.ACCURACY)
    trials: list[Trial] = []
    config = QuantizationConfig()
    for number in range(budget + 1):
        measured = model(config)
        verdict = limits.verdict(measured)
        pruned = verdict is Verdict.MISSED and number > 0
        if pruned:
            measured = dataclasses.replace(measured, loss=None, accuracy=None)
        trials.append(
            Trial(
                number=number,
                config=config,
                state=TrialState.PRUNED if pruned else TrialState.COMPLETED,
                measurement=dataclasses.replace(measured, verdict=None if pruned else verdict),
                reason="too slow" if pruned else None,
            )
        )
        proposal = strategy.propose(problem, trials, lambda _: {})
        if isinstance(proposal, Exhausted):
            break
        config = proposal.config
    return trials


def _least_loss(model: Synthetic, limits: Constraints) -> float:
    """The least loss within limits of all choices between fp32 and preferred int8."""
    preferred = model.space.preferred
    names = [op.name for op in model.space.ops]
    found = []
    for flags in itertools.product((True, False), repeat=len(names)):
        kept = {name: preferred[name] for name, quantized in zip(names, flags, strict=True) if quantized}
        measured = model(QuantizationConfig(ops=kept, recipe=preferred.recipe))
        if limits.verdict(measured) is Verdict.MET and measured.loss is not None:
            found.append(measured.loss)
    return min(found)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_auto_comes_near_the_least_loss_within_a_speed(seed: int, share: float) -> None:
    model = make_model(ops=9, seed=seed)
    fastest = model(model.space.preferred).speedup or 1.0
    limits = Constraints(speedup=1 + share * (fastest - 1))
    trials = _search(model, limits, budget=14)
    best = incumbent(trials, Objective.ACCURACY)
    assert best is not None
    assert best.loss is not None
    whole = model(model.space.preferred).loss or 0.0
    optimum = _least_loss(model, limits)
    # It finds most of the loss that choosing ops can save beside all-int8.
    assert best.loss <= optimum + 0.35 * (whole - optimum), (best.loss, optimum, whole)


def _trial(number: int, verdict: Verdict, loss: float, speed: float = 2.0) -> Trial:
    config = QuantizationConfig() if number == 0 else make_model(ops=3).space.preferred
    measured = Measurement(loss=loss, verdict=verdict, speedup=speed, size_bytes=10)
    return Trial(number=number, config=config, state=TrialState.COMPLETED, measurement=measured)


def test_the_conclusion_is_the_least_loss_and_of_equals_the_fastest() -> None:
    fp32 = _trial(0, Verdict.MISSED, 0.0, 1.0)
    rivals = [_trial(1, Verdict.MET, 0.2, 3.0), _trial(2, Verdict.MET, 0.1), _trial(3, Verdict.MET, 0.1, 2.5)]
    found = conclude([fp32, *rivals], Objective.ACCURACY)
    assert (found.best.number, found.verdict, found.speed) == (3, Verdict.MET, None)
    unsure = conclude([fp32, _trial(1, Verdict.UNDECIDED, 0.2)], Objective.ACCURACY)
    assert (unsure.best.number, unsure.verdict, unsure.nearest is not None) == (0, Verdict.UNDECIDED, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "accuracy"}, "go together"),
        ({"constraints": Constraints(speedup=2.0)}, "go together"),
        ({"objective": "accuracy", "constraints": {"speedup": 2}}, "must be a Constraints or None"),
        ({"instances": 2}, '`instances` goes with objective="throughput"'),
        ({"objective": "throughput", "instances": 0}, "`instances >= 1`"),
        ({"objective": "throughput", "instances": 5000}, "must not exceed"),
    ],
)
def test_what_does_not_go_together_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        autotune.Tuner(**options)


@pytest.mark.parametrize("better", [True, False])
def test_most_samples_per_second_win(
    network: NumpyModel, images: Sequence[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, better: bool
) -> None:
    def measure(_adapter: Any, models: list[Any], _feeds: Any, options: Any) -> list[Throughput]:
        assert options.batch_size == 8
        found = []
        for model in models:
            quantized = sum(layer.weight_scheme is not None for layer in model.dense.values())
            rate = 100.0 + (10.0 * quantized if better else 0.0)
            found.append(Throughput(samples_per_s=rate, low=rate - 1, high=rate + 1, pinned=True))
        return found

    monkeypatch.setattr(serving, "measure_throughput", measure)
    options = {"objective": "throughput", "strategy": "basic", "max_trials": 3, "batch_size": 8}
    run = tuner(**options, criterion=autotune.Criterion(absolute=0.9), workspace=tmp_path)
    result = run.tune(network, images, Recorder(images))
    assert result.verdict is Verdict.MET
    assert result.speed is None
    assert (result.best.number > 0) is better
    assert (result.baseline.measurement or Measurement()).throughput == 100.0
    if better:
        assert result.best.measurement is not None
        assert result.best.measurement.throughput_gain == max(
            trial.measurement.throughput_gain or 0.0 for trial in result.history if trial.measurement
        )
        assert "x the samples per second of fp32" in repr(result)
        assert "samples per second instead of 100" in result.report(tmp_path / "report.html").read_text()
    else:
        assert "none has more throughput than fp32 itself" in result.reason
    assert read_summary(tmp_path).instances == 1


def test_a_gain_within_the_noise_of_rounds_is_none() -> None:
    fp32 = _trial(0, Verdict.MET, 0.0)
    noisy = _trial(1, Verdict.MET, 0.0)
    measured = dataclasses.replace(
        noisy.measurement or Measurement(),
        throughput=1.0,
        throughput_gain=1.2,
        throughput_interval=Interval(low=0.9, high=1.5),
    )
    served = dataclasses.replace(
        fp32, measurement=dataclasses.replace(fp32.measurement or Measurement(), throughput=1.0, throughput_gain=1.0)
    )
    trials = [served, dataclasses.replace(noisy, measurement=measured)]
    assert conclude(trials, Objective.THROUGHPUT).best.number == 0
    assert incumbent(trials, Objective.THROUGHPUT) == trials[0]


def test_precisions_of_the_least_loss_are_mixed() -> None:
    model = make_model(ops=9, seed=1)
    fastest = model(model.space.preferred).speedup or 1.0
    best = incumbent(_search(model, Constraints(speedup=1 + 0.6 * (fastest - 1)), budget=14), Objective.ACCURACY)
    assert best is not None
    assert 0 < sum(best.config[op.name].precision is Precision.FP32 for op in model.space.ops) < 9
