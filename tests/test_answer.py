"""Which finalist is the answer once they were raced."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

from autotune.answer import settle
from autotune.config import OpConfig, Precision, QuantizationConfig
from autotune.criterion import Interval, Verdict
from autotune.evaluation import RaceResult
from autotune.selection import Conclusion
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial, TrialState


def trial(number: int, loss: float, *, samples: int = 100) -> Trial:
    quantized = {f"op{number}": OpConfig(precision=Precision.INT8)} if number else {}
    return Trial(
        number=number,
        config=QuantizationConfig(ops=quantized),
        state=TrialState.COMPLETED,
        measurement=Measurement(
            loss=loss,
            verdict=Verdict.MET,
            speedup=2.0 if number else 1.0,
            speedup_interval=Interval(low=1.9, high=2.1) if number else Interval(low=1.0, high=1.0),
            samples=samples,
            samples_total=100,
        ),
    )


def conclusion(
    finalists: list[Trial], intervals: list[tuple[float, float]], completed: float | None = None
) -> Conclusion:
    """The answer where the race measured these intervals, the first finalist being the fastest.

    ``completed`` is what a finalist turns out to lose that had not seen all samples.
    """
    speedups = tuple((low + high) / 2 for low, high in intervals)
    race = RaceResult(
        order=tuple(range(len(finalists))),
        speedups=speedups,
        intervals=tuple(Interval(low=low, high=high) for low, high in intervals),
        latencies_ms=tuple(1.0 / speedup for speedup in speedups),
        baseline_ms=1.0,
        rounds=(10,) * len(finalists),
        decided=True,
        survivors=tuple(index for index, (_, high) in enumerate(intervals) if high >= intervals[0][0]),
        faster=(True,) * len(finalists),
        sessions=2,
    )
    history: Any = SimpleNamespace(trials=[trial(0, 0.0), *finalists])

    def revise(revised: Trial) -> None:
        history.trials[revised.number] = revised

    def complete(_model: object, measured: Measurement, *, deadline: float | None) -> Measurement:  # noqa: ARG001
        assert completed is not None
        verdict = Verdict.MET if completed <= 0.01 else Verdict.MISSED
        return dataclasses.replace(measured, samples=100, loss=completed, verdict=verdict)

    history.revise = revise
    evaluator: Any = SimpleNamespace(
        race=lambda _models, deadline: race,  # noqa: ARG005  called by that name
        complete=complete,
    )
    return settle(history, evaluator, lambda each: each, Objective.LATENCY, deadline=None, note=print)


def test_accuracy_decides_between_finalists_that_are_as_fast() -> None:
    answer = conclusion([trial(1, 0.008), trial(2, 0.001), trial(3, 0.004)], [(1.98, 2.02), (1.97, 2.01), (1.9, 1.99)])
    assert answer.best.number == 2
    assert "loses least" in answer.reason


def test_speed_decides_where_the_race_could_tell() -> None:
    answer = conclusion([trial(1, 0.008), trial(2, 0.001)], [(1.98, 2.02), (1.90, 1.95)])
    assert answer.best.number == 1
    assert "loses least" not in answer.reason


def test_estimates_are_completed_before_they_decide() -> None:
    # What looked like the least loss after 40 samples is none once all are seen: see `completed`.
    answer = conclusion([trial(1, 0.008), trial(2, 0.001, samples=40)], [(1.98, 2.02), (1.97, 2.01)], completed=0.009)
    assert answer.best.number == 1
    assert answer.best.loss == 0.008


def test_a_tied_finalist_that_turns_out_to_miss_is_none() -> None:
    answer = conclusion([trial(1, 0.008, samples=40), trial(2, 0.009)], [(1.98, 2.02), (1.97, 2.01)], completed=0.02)
    assert answer.best.number == 2
