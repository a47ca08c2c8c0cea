"""Whole runs whose time is up at any moment: there is always an answer, and it says what to raise.

Time moves as a script says: by the given seconds where data are read and where a model is loaded, made or called, and
by a trifle whenever somebody looks, so that what waits for a moment to pass does not wait for ever.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autotune
from autotune.criterion import Verdict
from autotune.errors import DeadlineReached
from autotune.evaluation import Evaluator
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import NumpyModel
from tests.tuning.deadlines import CHEAP, TOLERANT, Clock, SlowLoader, check, evaluation, slow, slow_calls


def test_a_model_that_takes_all_the_time_to_load(
    network: NumpyModel, images: Sequence[Any], score: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, clock, "load", 30)
    result = autotune.Tuner(timeout_s=20, **CHEAP).tune(network, images, score)
    check(result, images, "the model was loaded and the data were read")
    assert score.calls == 0


def noting(monkeypatch: pytest.MonkeyPatch, clock: Clock, name: str) -> list[float]:
    """When a method of the adapter is called from here on."""
    original, called = getattr(NumpyAdapter, name), list[float]()

    def noted(self: Any, *args: Any, **options: Any) -> Any:
        called.append(clock.now)
        return original(self, *args, **options)

    monkeypatch.setattr(NumpyAdapter, name, noted)
    return called


@pytest.mark.parametrize("late", ["load", "calibrate", "apply"])
@pytest.mark.parametrize("objective", ["latency", "size"])
def test_no_model_is_opened_once_the_time_is_up(
    network: NumpyModel, images: Sequence[Any], monkeypatch: pytest.MonkeyPatch, late: str, objective: str
) -> None:
    """On a busy machine a session of 50 MB takes seconds to open, and a run of 8 s ended after 15."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    opened = noting(monkeypatch, clock, "runner")
    slow(monkeypatch, clock, late, 30)
    tuner = autotune.Tuner(timeout_s=20, criterion=TOLERANT, objective=objective, **CHEAP)
    result = tuner.tune(network, images, evaluation(images, clock, 0.01))
    assert "timeout" in result.end_reason
    assert all(moment < 5000 + 20 for moment in opened)
    assert result.model(images[0]).shape == (8, 10)  # type: ignore[union-attr]  # one output


def test_data_that_take_all_the_time_to_read(
    network: NumpyModel, images: Sequence[Any], score: Any, clock: Clock, tmp_path: Path
) -> None:
    """A workspace needs to know which data they are, and reads them for that."""
    loader = SlowLoader(list(images) * 10, clock, 6)
    result = autotune.Tuner(timeout_s=20, workspace=tmp_path, **CHEAP).tune(network, loader, score)
    check(result, images, "the model was loaded and the data were read")
    assert loader.read <= 5
    assert (tmp_path / "best.npz").is_file()


def test_calibration_reads_fewer_samples_where_the_time_is_short(
    network: NumpyModel, images: Sequence[Any], score: Any, clock: Clock
) -> None:
    loader = SlowLoader(list(images) * 3, clock, 1)
    result = autotune.Tuner(timeout_s=20, max_trials=1, **CHEAP).tune(network, loader, score)
    note = next(note for note in result.notes if note.startswith("Calibration read"))
    assert "Calibration read 32 samples only" in note
    assert "the 20 s given" in note
    assert len(result.history) == 2
    unhurried = autotune.Tuner(timeout_s=2000, max_trials=1, **CHEAP).tune(network, loader, score)
    assert not [note for note in unhurried.notes if note.startswith("Calibration read")]


def test_a_batch_whose_calibration_takes_all_the_time(
    network: NumpyModel, images: Sequence[Any], score: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = NumpyAdapter.calibrate

    def slowed(self: Any, model: Any, batches: Any, *, seed: int) -> Any:
        def each() -> Iterator[Any]:
            for batch in batches:
                clock.now += 30
                yield batch

        return original(self, model, each(), seed=seed)

    monkeypatch.setattr(NumpyAdapter, "calibrate", slowed)
    result = autotune.Tuner(timeout_s=20, **CHEAP).tune(network, images, score)
    check(result, images, "the fp32 model itself was measured")
    assert clock.now < 5000 + 32, "no second batch"
    assert "Calibration read 8 samples only" in result.notes[-1]
    assert score.calls == 0


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_an_eval_fn_that_takes_all_the_time_on_fp32(
    network: NumpyModel, images: Sequence[Any], clock: Clock, isolation: str
) -> None:
    tuner = autotune.Tuner(timeout_s=20, isolation=isolation, **CHEAP)
    result = tuner.tune(network, images, evaluation(list(images) * 20, clock, 3))
    check(result, images, "the fp32 model itself was measured")
    assert clock.now < 5000 + 20 + 4, "no call of the model begins after the deadline"
    assert len(result.history) == 1
    assert result.baseline.measurement is not None
    assert result.baseline.measurement.accuracy is None


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_an_accuracy_that_took_all_the_time_is_known_to_the_next_run(
    network: NumpyModel, images: Sequence[Any], score: Any, clock: Clock, tmp_path: Path, isolation: str
) -> None:
    """The time is up before fp32's latency is measured: what its accuracy took is not spent a second time."""

    def late(model: Any) -> float:
        found = float(score(model))
        clock.now += 30
        return found

    options: dict[str, Any] = {**CHEAP, "workspace": tmp_path, "isolation": isolation, "max_trials": 1}
    first = autotune.Tuner(timeout_s=20, **options).tune(network, images, late)
    check(first, images, "the first candidate was prepared or measured")
    assert first.baseline.measurement is not None
    assert first.baseline.measurement.accuracy == 1.0
    assert first.baseline.measurement.latency_ms is None
    first.report(tmp_path / "report.html")
    second = autotune.Tuner(timeout_s=2000, **options).tune(network, images, late)
    assert second.baseline.measurement is not None
    assert second.baseline.measurement.accuracy == 1.0
    assert second.baseline.measurement.latency_ms is not None
    assert (second.baseline.measurement.peak_memory_bytes is None) == (isolation == "none")
    assert len(second.history) == 2
    if isolation == "none":
        assert score.calls <= 2, "fp32 once, and the candidate"


def test_samples_that_take_far_too_long_are_not_seen_to_the_last_minute(
    network: NumpyModel, images: Sequence[Any], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """106 s of evaluation in 20 s: the first tenth tells, so that the answer comes early and knows what is needed."""
    data = [(batch, np.zeros(len(batch), np.int64)) for batch in images] * 25
    slow_calls(monkeypatch, clock, 0.132)
    result = autotune.Tuner(timeout_s=20, criterion=TOLERANT, **CHEAP).tune(
        network, images, metric="topk", eval_dataloader=data
    )
    monkeypatch.undo()
    check(result, images, "the fp32 model itself was measured")
    assert clock.now < 5000 + 20
    assert re.search(r"all samples together take about (9\d|1[0-4]\d) s", result.end_reason)


def test_evaluation_data_that_take_all_the_time_to_read(
    network: NumpyModel, images: Sequence[Any], clock: Clock
) -> None:
    loader = SlowLoader([(batch, np.zeros(len(batch), np.int64)) for batch in images] * 50, clock, 3)
    result = autotune.Tuner(timeout_s=20, criterion=TOLERANT, **CHEAP).tune(
        network, images, metric="topk", eval_dataloader=loader
    )
    check(result, images, "the fp32 model itself was measured")
    assert loader.read <= 8


def test_a_run_that_continues_after_its_baseline_took_too_long(
    network: NumpyModel, images: Sequence[Any], clock: Clock, tmp_path: Path
) -> None:
    first = autotune.Tuner(timeout_s=20, workspace=tmp_path, **CHEAP).tune(
        network, images, evaluation(images, clock, 6)
    )
    check(first, images, "the fp32 model itself was measured")
    second = autotune.Tuner(timeout_s=200, workspace=tmp_path, max_trials=1, **CHEAP).tune(
        network, images, evaluation(images, clock, 6)
    )
    assert len(second.history) == 2
    assert second.history[0].config.is_fp32
    assert second.baseline.measurement is not None
    assert second.baseline.measurement.accuracy is not None


def test_an_answer_found_before_stays_where_a_run_that_continues_has_no_time(
    network: NumpyModel, images: Sequence[Any], clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tune(timeout_s: float) -> autotune.TuningResult:
        tuner = autotune.Tuner(
            timeout_s=timeout_s, workspace=tmp_path, max_trials=2, objective="size", criterion=TOLERANT, **CHEAP
        )
        return tuner.tune(network, images, evaluation(images, clock, 0.1))

    first = tune(200)
    assert not first.best.config.is_fp32
    kept = (tmp_path / "best.npz").read_bytes()

    original = Evaluator.resume

    def late(self: Any, baseline: Any, *, deadline: float | None = None) -> None:
        original(self, baseline, deadline=deadline)
        raise DeadlineReached("The time given to the run ended")

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "resume", late)
        second = tune(20)
    assert second.best.number == first.best.number
    assert second.best.config == first.best.config
    with monkeypatch.context() as patch:
        slow(patch, clock, "load", 30)
        third = tune(20)
    assert third.best.config.is_fp32
    assert (tmp_path / "best.npz").read_bytes() == kept, "fp32 for want of time replaces no answer"


@pytest.mark.parametrize("late", [1, 2])
def test_except_exception_around_the_calls_does_not_hide_that_the_time_is_up(
    network: NumpyModel, images: Sequence[Any], clock: Clock, late: int
) -> None:
    """The function tries again and again; it is ended at its second call, of fp32 as of a candidate."""
    calls: list[int] = []

    def stubborn(model: Any) -> float:
        calls.append(0)
        done = 0
        while done < len(images):
            if len(calls) == late:
                clock.now += 50
            try:
                model(images[done])
            except Exception:  # what such functions do
                calls[-1] += 1
                continue
            done += 1
        return 1.0

    tuner = autotune.Tuner(timeout_s=40, criterion=TOLERANT, objective="size", **CHEAP)
    result = tuner.tune(network, images, stubborn)
    assert len(calls) == late
    assert calls[-1] == 1
    assert "timeout" in result.end_reason
    assert result.verdict is Verdict.UNDECIDED


def test_the_time_that_a_function_hides_in_an_error_of_its_own(
    network: NumpyModel, images: Sequence[Any], clock: Clock
) -> None:
    def wrapping(model: Any) -> float:
        clock.now += 50
        try:
            model(images[0])
        except Exception as error:
            raise ValueError("evaluation failed") from error
        return 1.0

    result = autotune.Tuner(timeout_s=40, **CHEAP).tune(network, images, wrapping)
    check(result, images, "the fp32 model itself was measured")


@pytest.mark.parametrize("given", [0.05 * 1.6**step for step in range(17)])
def test_whatever_the_time_given_there_is_an_answer(
    network: NumpyModel,
    images: Sequence[Any],
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    given: float,
    tmp_path: Path,
) -> None:
    """From a twentieth of a second to a minute and a half, for a run in which everything takes a while."""
    for name, seconds in (("load", 2.0), ("apply", 1.5), ("save", 0.2)):
        slow(monkeypatch, clock, name, seconds)
    data = SlowLoader([(batch, np.zeros(len(batch), np.int64)) for batch in images] * 5, clock, 0.3)
    tuner = autotune.Tuner(timeout_s=given, max_trials=3, criterion=TOLERANT, workspace=tmp_path, **CHEAP)
    result = tuner.tune(network, SlowLoader(images, clock, 0.2), metric="topk", eval_dataloader=data)
    assert result.model(images[0]).shape == (8, 10)  # type: ignore[union-attr]  # one output
    assert (result.verdict is Verdict.MET) or "timeout" in result.end_reason
    if len(result.history) == 1:
        assert result.verdict is Verdict.UNDECIDED
        assert result.best.config.is_fp32
        assert "Give it" in result.end_reason
    # Steps that were begun in time are finished: at most loading, one candidate and the saves; then the answer.
    assert clock.now - 5000 < max(given, 3.0) + 4 * 1.5 + 1.0
    result.report(tmp_path / "report.html")
