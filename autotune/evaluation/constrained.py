"""Measures candidates under limits of speed and size: a verdict says whether they are kept, whatever is lost."""

from __future__ import annotations

import dataclasses
from typing import Any

from autotune.constraints import Constraints
from autotune.criterion import Interval, Verdict
from autotune.evaluation.front import EvaluatorInFront
from autotune.evaluation.measured import Evaluation
from autotune.trial import Measurement, TrialState


class ConstrainedEvaluator(EvaluatorInFront):
    """An evaluator in front of another one, whose verdicts it replaces.

    Args:
        evaluator: Measures; its own target is one that every loss keeps.
        constraints: The limits.
    """

    def __init__(self, evaluator: Any, constraints: Constraints) -> None:
        super().__init__(evaluator)
        self._constraints = constraints
        self._baseline_ms: float | None = None

    def baseline(self, *, deadline: float | None = None) -> Measurement:
        """Measure the fp32 model; see :meth:`autotune.evaluation.Evaluator.baseline`."""
        return self._as_baseline(self._evaluator.baseline(deadline=deadline))

    def complete_baseline(self, measured: Measurement, *, deadline: float | None = None) -> Measurement:
        """Time the fp32 model; see :meth:`autotune.evaluation.Evaluator.complete_baseline`."""
        return self._as_baseline(self._evaluator.complete_baseline(measured, deadline=deadline))

    def evaluate(self, candidate: Any, *, deadline: float | None = None, **options: Any) -> Evaluation:
        """Measure a candidate; one that is proven to exceed a limit has no accuracy evaluated.

        See :meth:`autotune.evaluation.Evaluator.evaluate`. Which one is the best so far does not count.
        """
        most = self._constraints.size_bytes
        if most is not None and candidate.size_bytes > most:
            reason = f"it has {candidate.size_bytes:,} bytes, where {most:,} are allowed"
            measured = Measurement(size_bytes=candidate.size_bytes)
            return Evaluation(state=TrialState.PRUNED, measurement=measured, reason=reason)
        least = self._constraints.least_speedup(self._baseline_ms)
        to_reach = None
        if least is not None:
            exact = Interval(low=least, high=least)
            to_reach = Measurement(speedup=least, speedup_interval=exact, latency_decided=True)
        options = {**options, "incumbent": to_reach}
        found: Evaluation = self._evaluator.evaluate(candidate, deadline=deadline, **options)
        if found.measurement.loss is None:
            speed = found.measurement.speedup
            reason = f"it misses the limits ({self._constraints}): {0.0 if speed is None else speed:.2f}x"
            return dataclasses.replace(found, reason=reason)
        judged = self._judged(found.measurement)
        return dataclasses.replace(found, state=TrialState.COMPLETED, measurement=judged, reason=None)

    def complete(self, candidate: Any, measured: Measurement, *, deadline: float | None = None) -> Measurement:
        """See the samples that a candidate was spared; see :meth:`autotune.evaluation.Evaluator.complete`."""
        return self._judged(self._evaluator.complete(candidate, measured, deadline=deadline))

    def holdout(self, candidate: Any, *, rank: int = 1, deadline: float | None = None) -> Measurement | None:
        """Measure a candidate on data held out: a figure without luck, which refutes no limit."""
        found: Measurement | None = self._evaluator.holdout(candidate, rank=rank, deadline=deadline)
        return None if found is None else dataclasses.replace(found, verdict=Verdict.MET)

    def _as_baseline(self, measured: Measurement) -> Measurement:
        self._baseline_ms = measured.latency_ms
        return self._judged(measured)

    def _judged(self, measured: Measurement) -> Measurement:
        return dataclasses.replace(measured, verdict=self._constraints.verdict(measured))
