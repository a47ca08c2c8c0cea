"""Measures the latency alone of candidates whose accuracy is known: from another host, or from another execution."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from autotune.criterion import Verdict
from autotune.evaluation.front import EvaluatorInFront
from autotune.evaluation.measured import Evaluation
from autotune.trial import Measurement, TrialState


class RememberedAccuracy(EvaluatorInFront):
    """An evaluator in front of another one, which it asks for what is not known.

    Args:
        evaluator: Measures all others, and every latency.
        known: Returns the figures of a model but for its latency, by its fingerprint; None where they are not known.
    """

    def __init__(self, evaluator: Any, known: Callable[[str], Measurement | None]) -> None:
        super().__init__(evaluator)
        self._known = known

    def evaluate(self, candidate: Any, *, deadline: float | None = None, **options: Any) -> Evaluation:
        """Measure a candidate; see :meth:`autotune.evaluation.Evaluator.evaluate`."""
        known = self._known(candidate.fingerprint)
        if known is None:
            found: Evaluation = self._evaluator.evaluate(candidate, deadline=deadline, **options)
            return found
        if known.verdict is Verdict.MISSED:
            reason = "it misses the target, as was measured before it was executed otherwise"
            return Evaluation(state=TrialState.PRUNED, measurement=known, reason=reason)
        timed: Measurement = self._evaluator.speed_of(candidate, deadline=deadline)
        measured = dataclasses.replace(
            timed,
            accuracy=known.accuracy,
            loss=known.loss,
            loss_interval=known.loss_interval,
            verdict=known.verdict,
            metrics=known.metrics,
            samples=known.samples,
            samples_total=known.samples_total,
            rank=known.rank,
            size_bytes=known.size_bytes,
            peak_memory_bytes=known.peak_memory_bytes,
        )
        return Evaluation(state=TrialState.COMPLETED, measurement=measured)
