"""Whole runs whose candidates misbehave, or whose answer rests on a part of the samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import autotune
from autotune.criterion import Criterion, Interval, Verdict
from autotune.errors import DataError, InputError
from autotune.evaluation import Evaluator, LatencyComparison
from autotune.evaluation.latency import Comparison
from autotune.results.summary import read_summary
from autotune.trial import TrialState
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import NumpyModel
from tests.tuning.cheap import CHEAP, TOLERANT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "memory"}, 'needs isolation="process"'),
        ({"trial_timeout_s": 3.0}, "`trial_timeout_s` needs isolation"),
        ({"trial_memory_bytes": 3}, "`trial_memory_bytes` needs isolation"),
        ({"isolation": "thread"}, "'none', 'process'"),
        ({"isolation": "process", "trial_timeout_s": 0.0}, "`trial_timeout_s > 0`"),
        ({"interval_width": 0.0}, "`0 < interval_width < 1`"),
        ({"latency_max_s": -1.0}, "`max_seconds > 0`"),
        ({"batch_axis": "batch"}, "`batch_axis` must be None, a whole number or a dict by name, each a whole number"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        autotune.Tuner(**options)


@pytest.fixture
def many() -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
    """320 labelled samples; the labels are arbitrary."""
    rng = np.random.default_rng(3)
    return [(rng.normal(size=(32, 3, 16, 16)).astype(np.float32), rng.integers(0, 10, 32)) for _ in range(10)]


def test_the_winner_has_seen_all_samples(network: NumpyModel, images: Sequence[Any], many: Any) -> None:
    seen: list[Any] = []

    class Watch(autotune.Observer):
        def trial_finished(self, trial: Any, best: Any) -> None:  # noqa: ARG002
            seen.append(trial)

    tuner = autotune.Tuner(
        objective="size", strategy="random", max_trials=3, criterion=TOLERANT, observer=Watch(), **CHEAP
    )
    result = tuner.tune(network, images, metric="agreement", eval_dataloader=many)
    early = [trial for trial in seen[1:] if trial.measurement.samples < 320]
    assert early, "no candidate was accepted early, so that this test shows nothing"
    assert result.best.number in {trial.number for trial in early}
    assert result.best.measurement is not None
    assert (result.best.measurement.samples, result.best.measurement.samples_total) == (320, 320)
    assert result.verdict is Verdict.MET
    assert result.history[result.best.number] == result.best


def test_a_winner_that_misses_in_the_end_makes_room_for_the_next(
    network: NumpyModel, images: Sequence[Any], many: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    complete = Evaluator.complete
    asked: list[int | None] = []

    def disappointing(self: Any, candidate: Any, measured: Any, *, deadline: float | None = None) -> Any:
        whole = complete(self, candidate, measured, deadline=deadline)
        asked.append(measured.size_bytes)
        if len(asked) > 1:
            return whole
        return autotune.Measurement(**{**vars(whole), "verdict": Verdict.MISSED, "loss": 0.95})

    monkeypatch.setattr(Evaluator, "complete", disappointing)
    tuner = autotune.Tuner(
        objective="size", strategy="random", max_trials=4, criterion=TOLERANT, workspace=tmp_path, **CHEAP
    )
    result = tuner.tune(network, images, metric="agreement", eval_dataloader=many)
    sizes = sorted(trial.measurement.size_bytes or 0 for trial in result.history[1:] if trial.measurement is not None)
    assert asked == sizes[:2]
    assert result.verdict is Verdict.MET
    assert result.best.measurement is not None
    assert result.best.measurement.size_bytes == sizes[1]
    assert result.best.measurement.complete
    assert any("accepted early, and does not keep the target" in note for note in result.notes)
    missed = [trial for trial in result.history if trial.loss == 0.95]
    assert len(missed) == 1
    assert [trial.loss for trial in read_summary(tmp_path).history] == [t.loss for t in result.history]


def test_a_run_that_is_ended_meets_no_target_by_an_estimate(
    network: NumpyModel, images: Sequence[Any], many: Any
) -> None:
    class Impatient(autotune.Observer):
        def trial_started(self, number: int, config: Any, note: str) -> None:  # noqa: ARG002
            if number == 2:
                raise KeyboardInterrupt

    tuner = autotune.Tuner(objective="size", strategy="random", criterion=TOLERANT, observer=Impatient(), **CHEAP)
    result = tuner.tune(network, images, metric="agreement", eval_dataloader=many)
    assert result.interrupted
    assert result.verdict is Verdict.UNDECIDED
    assert "before the best candidate could be evaluated on all samples" in result.reason


def test_a_confidence_is_shared_by_the_candidates_of_a_run_and_of_its_continuation(
    network: NumpyModel, images: Sequence[Any], many: Any, tmp_path: Path
) -> None:
    def tune(trials: int) -> autotune.TuningResult:
        tuner = autotune.Tuner(
            objective="size",
            strategy="random",
            max_trials=trials,
            criterion=Criterion(absolute=0.9, confidence=0.9),
            workspace=tmp_path,
            **CHEAP,
        )
        return tuner.tune(network, images, metric="agreement", eval_dataloader=many)

    tune(2)
    result = tune(3)
    measured = [trial.measurement for trial in result.history[1:] if trial.measurement is not None]
    assert [each.rank for each in measured] == [1, 2, 3]
    intervals = [each.loss_interval for each in measured if each.loss_interval is not None]
    assert [1 - each.confidence for each in intervals] == pytest.approx([0.2 / 2, 0.2 / 6, 0.2 / 12])


def test_a_confidence_of_what_only_a_function_knows_is_said_to_mean_nothing(
    network: NumpyModel, images: Sequence[Any], score: Any
) -> None:
    tuner = autotune.Tuner(
        objective="size",
        strategy="random",
        max_trials=1,
        criterion=Criterion(relative=0.5, confidence=0.95),
        **CHEAP,
    )
    assert any("`confidence` needs a metric" in note for note in tuner.tune(network, images, score).notes)


def test_without_early_stopping_every_candidate_sees_all_samples(
    network: NumpyModel, images: Sequence[Any], many: Any
) -> None:
    tuner = autotune.Tuner(
        objective="size", strategy="random", max_trials=2, criterion=TOLERANT, early_stopping=False, **CHEAP
    )
    result = tuner.tune(network, images, metric="agreement", eval_dataloader=many)
    assert [t.measurement.samples for t in result.history if t.measurement is not None] == [320, 320, 320]


def test_objectives_other_than_latency_prune_nothing_by_speed(
    network: NumpyModel, images: Sequence[Any], score: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    evaluate = Evaluator.evaluate

    def watched(self: Any, candidate: Any, **options: Any) -> Any:
        told.append(options["incumbent"])
        return evaluate(self, candidate, **options)

    run = Comparison.run

    def twice_as_fast(self: Any) -> LatencyComparison:
        return dataclasses.replace(run(self), speedup=2.0, interval=Interval(low=1.9, high=2.1))

    monkeypatch.setattr(Evaluator, "evaluate", watched)
    monkeypatch.setattr(Comparison, "run", twice_as_fast)
    for objective in ("size", "latency"):
        tuner = autotune.Tuner(
            objective=objective, strategy="random", max_trials=3, criterion=Criterion(relative=0.5), **CHEAP
        )
        tuner.tune(network, images, score)
    assert told[:3] == [None, None, None]
    assert None not in told[3:]  # the fp32 model is the first to beat


def test_several_metrics_each_with_its_target(
    network: NumpyModel, images: Sequence[Any], many: Any, tmp_path: Path
) -> None:
    def tune(target: float) -> autotune.TuningResult:
        tuner = autotune.Tuner(
            objective="size",
            strategy="random",
            max_trials=2,
            criterion=TOLERANT,
            criteria={"cosine": Criterion(absolute=target)},
            holdout=0.25,
            **CHEAP,
        )
        return tuner.tune(network, images, metric=["agreement", "cosine"], eval_dataloader=[b for b, _ in many])

    result = tune(0.5)
    assert result.verdict is Verdict.MET
    assert result.final is not None
    assert result.final.samples == 80
    assert result.best.measurement is not None
    assert set(result.best.measurement.metrics) == {"agreement", "cosine"}
    report = result.report(tmp_path / "report.html").read_text()
    assert "cosine" in report
    assert "latency: median, p90, p99" in report
    assert tune(0.0).verdict is Verdict.MISSED


def test_percentiles_are_carried_with_a_measurement(network: NumpyModel, images: Sequence[Any], score: Any) -> None:
    tuner = autotune.Tuner(strategy="random", max_trials=1, criterion=Criterion(relative=0.5), **CHEAP)
    result = tuner.tune(network, images, score)
    for trial in result.history:
        measured = trial.measurement
        assert measured is not None
        assert measured.latency_ms <= measured.latency_p90_ms <= measured.latency_p99_ms  # type: ignore[operator]  # measured
        assert measured.latency_decided is not None
        assert autotune.Measurement.from_json(measured.to_json()) == measured
    assert result.trials["latency_p99_ms"].notna().all()


def test_percentiles_of_a_finalist_are_those_of_its_race(
    network: NumpyModel, images: Sequence[Any], score: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotune.tuning.answer.finalists", lambda trials, _objective: [t for t in trials if t.number])
    tuner = autotune.Tuner(strategy="random", max_trials=1, criterion=Criterion(relative=0.5), **CHEAP)
    result = tuner.tune(network, images, score)
    assert len(result.races) > 0
    raced, measured = result.races[-1].finalists[0], result.history[1].measurement
    assert measured is not None
    assert (measured.latency_ms, measured.latency_p90_ms) == (raced.latency_ms, raced.latency_p90_ms)
    race = result.races[-1]
    assert (measured.baseline_p90_ms, measured.baseline_p99_ms) == (race.baseline_p90_ms, race.baseline_p99_ms)
    assert race.baseline_ms <= race.baseline_p90_ms <= race.baseline_p99_ms  # type: ignore[operator]  # measured
    assert measured.latency_ms <= measured.latency_p90_ms <= measured.latency_p99_ms  # type: ignore[operator]  # measured


@pytest.mark.parametrize(
    ("metric", "batches", "options", "message"),
    [
        ("topk", lambda x: [(x, np.zeros(3, np.int64))], {}, "8 samples, but 3 labels"),
        ("topk", lambda x: [(x, np.zeros((8, 4), np.int64))], {}, "one label per sample, shape"),
        ("topk", lambda x: [(x, np.zeros((8, 10), np.int64))], {}, "one-hot"),
        ("topk", lambda x: [(np.zeros(8, np.int64), x)], {}, "Input 'data' needs"),
        ("topk", lambda x: [(x, np.full(8, 10))], {}, "labels between 0 and 9"),
        ("log_loss", lambda x: [(x, np.zeros(8, np.int64))], {"lower": True}, "logits, give logits=True"),
        ("topk", lambda x: [(x, np.zeros(8, np.int64))], {"holdout": 2.0}, "share of the data that is held out"),
        ("topk", lambda x: [(x[:1], np.zeros(1, np.int64))], {"holdout": 0.9}, "leave samples on both sides"),
    ],
)
def test_evaluation_data_that_does_not_fit(
    network: NumpyModel,
    images: Sequence[Any],
    metric: str,
    batches: Callable[[Any], Any],
    options: dict[str, Any],
    message: str,
) -> None:
    criterion = Criterion(absolute=0.5, higher_is_better="lower" not in options)
    holdout = options.get("holdout")
    tuner = autotune.Tuner(objective="size", max_trials=1, criterion=criterion, holdout=holdout, **CHEAP)
    with pytest.raises(DataError, match=message):
        tuner.tune(network, images, metric=metric, eval_dataloader=batches(images[0]))


def test_a_holdout_needs_a_metric(network: NumpyModel, images: Sequence[Any], score: Any) -> None:
    with pytest.raises(InputError, match="`holdout` goes with `metric`"):
        autotune.Tuner(holdout=0.2).tune(network, images, score)


def test_a_candidate_whose_outputs_are_not_finite_fails_and_names_the_output(
    network: NumpyModel, images: Sequence[Any], score: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = NumpyAdapter.runner

    def spoiled(self: Any, model: Any, execution: Any) -> Any:
        run = runner(self, model, execution)
        if not any(layer.weight_scheme for layer in model.layers):
            return run
        return lambda feeds: tuple(output * np.float32("nan") for output in run(feeds))

    monkeypatch.setattr(NumpyAdapter, "runner", spoiled)
    result = autotune.Tuner(objective="size", strategy="random", max_trials=1, **CHEAP).tune(network, images, score)
    assert result.history[1].state is TrialState.FAILED
    assert "Output 'logits' must be finite" in (result.history[1].reason or "")
