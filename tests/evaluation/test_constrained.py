"""Evaluators in front of others: limits, accuracies that are known, throughput."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest

from autotune.constraints import Constraints
from autotune.criterion import Interval, Verdict
from autotune.errors import DeadlineReached
from autotune.evaluation import serving
from autotune.evaluation.constrained import ConstrainedEvaluator
from autotune.evaluation.latency.throughput import Throughput, ThroughputOptions
from autotune.evaluation.measured import Evaluation
from autotune.evaluation.remembered import RememberedAccuracy
from autotune.evaluation.serving import ServingEvaluator
from autotune.trial import Measurement, TrialState
from tests.numpy_adapter import NumpyAdapter

FIGURES = Measurement(
    accuracy=0.7,
    loss=0.3,
    verdict=Verdict.MISSED,
    latency_ms=4.0,
    baseline_ms=10.0,
    speedup=2.5,
    speedup_interval=Interval(low=2.4, high=2.6),
    size_bytes=50,
)


@dataclass(frozen=True)
class Candidate:
    fingerprint: str = "abc"
    size_bytes: int = 50


class Inner:
    """Answers with the same figures, and keeps what it was asked."""

    def __init__(self, figures: Measurement = FIGURES) -> None:
        self.figures = figures
        self.asked: list[dict[str, Any]] = []

    def baseline(self, *, deadline: float | None = None) -> Measurement:  # noqa: ARG002
        return Measurement(accuracy=1.0, loss=0.0, verdict=Verdict.MET, latency_ms=10.0, speedup=1.0, size_bytes=100)

    def evaluate(self, candidate: Any, **options: Any) -> Evaluation:  # noqa: ARG002
        self.asked.append(options)
        to_reach = options.get("incumbent")
        if to_reach is not None and self.figures.speedup_interval.high < to_reach.speedup_interval.low:  # type: ignore[union-attr]
            timed = dataclasses.replace(self.figures, accuracy=None, loss=None, verdict=None)
            return Evaluation(state=TrialState.PRUNED, measurement=timed, reason="slower")
        return Evaluation(state=TrialState.COMPLETED, measurement=self.figures)

    def speed_of(self, candidate: Any, *, deadline: float | None = None) -> Measurement:  # noqa: ARG002
        self.asked.append({"speed": True})
        return Measurement(speedup=3.0, latency_ms=3.0, baseline_ms=9.0)

    def holdout(self, candidate: Any, **options: Any) -> Measurement:  # noqa: ARG002
        return FIGURES

    def race(self) -> str:
        return "raced"


def test_a_verdict_is_about_the_limits_whatever_is_lost() -> None:
    evaluator = ConstrainedEvaluator(Inner(), Constraints(latency_ms=5.0))
    assert evaluator.baseline().verdict is Verdict.MISSED
    found = evaluator.evaluate(Candidate(), rank=3)
    assert (found.state, found.measurement.verdict, found.measurement.loss) == (TrialState.COMPLETED, Verdict.MET, 0.3)
    held_out = evaluator.holdout(Candidate())
    assert held_out is not None
    assert held_out.verdict is Verdict.MET
    assert evaluator.race() == "raced"


def test_what_exceeds_a_limit_for_certain_has_no_accuracy_evaluated() -> None:
    inner = Inner()
    slow = ConstrainedEvaluator(inner, Constraints(latency_ms=3.0))
    slow.baseline()
    found = slow.evaluate(Candidate())
    assert (found.state, found.measurement.loss) == (TrialState.PRUNED, None)
    assert found.reason == "it misses the limits (at most 3 ms): 2.50x"
    large = ConstrainedEvaluator(inner, Constraints(size_bytes=49))
    found = large.evaluate(Candidate())
    assert (found.state, found.reason) == (TrialState.PRUNED, "it has 50 bytes, where 49 are allowed")
    assert len(inner.asked) == 1, "the large one was not even timed"


def test_the_best_so_far_rules_nothing_out_where_accuracy_counts() -> None:
    inner = Inner()
    ConstrainedEvaluator(inner, Constraints(size_bytes=100)).evaluate(Candidate(), incumbent=FIGURES)
    assert inner.asked[0]["incumbent"] is None


@pytest.mark.parametrize("verdict", [Verdict.MET, Verdict.MISSED, Verdict.UNDECIDED])
def test_a_known_accuracy_is_not_evaluated_again(verdict: Verdict) -> None:
    inner = Inner()
    known = Measurement(accuracy=0.9, loss=0.1, verdict=verdict, samples=9, samples_total=9, size_bytes=50)
    evaluator = RememberedAccuracy(inner, {"abc": known}.get)
    found = evaluator.evaluate(Candidate())
    assert (found.measurement.loss, found.measurement.verdict) == (0.1, verdict)
    if verdict is Verdict.MISSED:
        assert (found.state, inner.asked) == (TrialState.PRUNED, [])
    else:
        assert (found.state, inner.asked) == (TrialState.COMPLETED, [{"speed": True}])
        assert (found.measurement.speedup, found.measurement.size_bytes) == (3.0, 50)
    evaluator.evaluate(Candidate(fingerprint="other"), incumbent=None)
    assert inner.asked[-1] == {"deadline": None, "incumbent": None}


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many models each measurement of throughput had."""
    counted: list[int] = []

    def measure(_adapter: Any, models: list[Any], _feeds: Any, _options: ThroughputOptions) -> list[Throughput]:
        counted.append(len(models))
        found = [(100.0, 95.0, 110.0), (250.0, 240.0, 260.0)]
        return [Throughput(samples_per_s=s, low=low, high=high, pinned=True) for s, low, high in found[: len(models)]]

    monkeypatch.setattr(serving, "measure_throughput", measure)
    return counted


def _serving(figures: Measurement) -> ServingEvaluator:
    options = ThroughputOptions(instances=1, window_s=0.5, rounds=5)
    return ServingEvaluator(Inner(figures), adapter=NumpyAdapter(), model=None, feeds={}, options=options)


def test_throughput_is_measured_of_what_may_keep_the_target(rates: list[int]) -> None:
    kept = dataclasses.replace(FIGURES, verdict=Verdict.MET)
    baseline = _serving(kept).baseline()
    assert (baseline.throughput, baseline.throughput_gain) == (100.0, 1.0)
    measured = _serving(kept).evaluate(Candidate()).measurement
    assert (measured.throughput, measured.throughput_gain) == (250.0, 2.5)
    assert measured.throughput_interval == Interval(low=240.0 / 110.0, high=260.0 / 95.0)
    assert _serving(FIGURES).evaluate(Candidate()).measurement.throughput is None
    assert rates == [1, 2]


def test_throughput_needs_its_time(rates: list[int]) -> None:
    with pytest.raises(DeadlineReached, match="Throughput takes"):
        _serving(dataclasses.replace(FIGURES, verdict=Verdict.MET)).evaluate(Candidate(), deadline=0.0)
    assert rates == []


def test_what_has_no_throughput_is_stored_as_it_was() -> None:
    assert not any(name.startswith("throughput") for name in FIGURES.to_json())
    served = dataclasses.replace(
        FIGURES, throughput=3.0, throughput_gain=2.0, throughput_interval=Interval(low=1.0, high=3.0)
    )
    assert Measurement.from_json(served.to_json()) == served
    assert Measurement.from_json(FIGURES.to_json()) == FIGURES
