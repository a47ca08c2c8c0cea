"""The record of a measured candidate, and whether its latency alone makes an accuracy evaluation useless."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from autotune.criterion import Interval
from autotune.evaluation.accuracy.score import Score
from autotune.evaluation.latency import LatencyComparison
from autotune.trial import Measurement, TrialState


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Result of measuring one candidate.

    Attributes:
        state: ``COMPLETED``, or ``PRUNED`` where a cheaper figure made the dearer ones needless.
        measurement: The figures that were measured.
        reason: Why it was pruned.
        compiled_s: Seconds that compiling it took; None where there was nothing to compile.
    """

    state: TrialState
    measurement: Measurement
    reason: str | None = None
    compiled_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The options of :meth:`autotune.evaluation.Evaluator.evaluate` for a candidate; see there."""

    incumbent: Measurement | None
    needs_accuracy: bool
    rank: int
    worth_from: float | None


def not_worth_it(compared: LatencyComparison, incumbent: Measurement | None, worth_from: float | None) -> str | None:
    """Why the accuracy of a candidate is not worth an evaluation, by its latency; None where it is.

    Args:
        compared: Latency of the candidate beside fp32's.
        incumbent: The fastest so far that keeps the target; None where speed is not the objective.
        worth_from: The speedup that it must be proven to exceed; None asks for none.
    """
    if worth_from is not None and compared.interval.low <= worth_from:
        return f"not proven more than {worth_from:.2f}x as fast as fp32: {compared.speedup:.2f}x"
    if incumbent is None or incumbent.speedup_interval is None or incumbent.latency_decided is False:
        return None
    if compared.interval.high >= incumbent.speedup_interval.low:
        return None
    return f"slower than the best that keeps the target: {compared.speedup:.2f}x, and not {incumbent.speedup:.2f}x"


def measurement(size_bytes: int, compared: LatencyComparison, score: Score | None, *, calls: int) -> Measurement:
    """The measurement; ``calls`` is how many calls of the model one timed call makes."""
    measured = timed(Measurement(size_bytes=size_bytes), compared, calls=calls)
    return measured if score is None else with_score(measured, score)


def timed(measured: Measurement, compared: LatencyComparison, *, calls: int) -> Measurement:
    """A measurement with the latency that a comparison found."""
    return dataclasses.replace(
        measured,
        latency_ms=compared.candidate_ms / calls,
        latency_p90_ms=compared.candidate_percentiles.p90_ms / calls,
        latency_p99_ms=compared.candidate_percentiles.p99_ms / calls,
        latency_decided=compared.decided,
        baseline_ms=compared.baseline_ms / calls,
        baseline_p90_ms=compared.baseline_percentiles.p90_ms / calls,
        baseline_p99_ms=compared.baseline_percentiles.p99_ms / calls,
        latency_cache=str(compared.cache),
        latency_sessions=compared.sessions,
        speedup=compared.speedup,
        speedup_interval=compared.interval,
    )


def untimed_baseline(size_bytes: int, score: Score, confidence: float) -> Measurement:
    """The fp32 model where the time was up after its accuracy: what its latency is relative to is itself."""
    certain = Interval(low=1.0, high=1.0, confidence=confidence)
    return with_score(Measurement(size_bytes=size_bytes, speedup=1.0, speedup_interval=certain), score)


def with_score(measured: Measurement, score: Score) -> Measurement:
    """A measurement with the accuracy that an evaluation found."""
    return dataclasses.replace(
        measured,
        accuracy=score.accuracy,
        loss=score.loss,
        loss_interval=score.interval,
        verdict=score.verdict,
        metrics=dict(score.metrics),
        samples=score.samples,
        samples_total=score.samples_total,
        rank=score.rank,
    )
