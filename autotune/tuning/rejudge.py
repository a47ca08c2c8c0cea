"""Judges recorded trials by another target or objective, as far as their figures allow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from autotune.constraints import Constraints
from autotune.criterion import Criterion, Interval, Verdict
from autotune.evaluation.accuracy.score import worst
from autotune.notes import counted
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.stored_trials import objective_value


@dataclass(frozen=True, kw_only=True)
class Rejudge:
    """Judges trials that were measured for one target by another one.

    Attributes:
        before: The target that they were measured for.
        after: The one that counts now.
        criteria: Targets of further figures, which are the same.
        baseline: The fp32 model, measured with them.
        objective: The figure to minimize now.
        before_objective: The one that was minimized.
        constraints: The limits, where accuracy is the objective now: they decide in place of the targets.
    """

    before: Criterion
    after: Criterion
    criteria: Mapping[str, Criterion]
    baseline: Measurement
    objective: Objective
    before_objective: Objective
    constraints: Constraints | None = None

    def __call__(self, trial: Trial) -> Trial | None:
        """The trial as it would have been judged; None where its figures do not tell, so that it counts as untried."""
        measured = trial.measurement
        if trial.state is TrialState.FAILED or measured is None:
            return trial
        if measured.loss is None:
            # It was slower than the best, which is no reason where another figure counts.
            return trial if self.objective is self.before_objective is Objective.LATENCY else None
        judged = self.judged(measured)
        if judged is None or (objective_value(judged, self.objective) is None and judged.verdict is not Verdict.MISSED):
            return None
        if judged.complete:
            pruned = trial.state is TrialState.PRUNED and judged.verdict is Verdict.MISSED
            state = TrialState.PRUNED if pruned else TrialState.COMPLETED
        else:
            assert judged.loss_interval is not None
            shown = self.after.shown(judged.loss_interval)
            if shown is Verdict.UNDECIDED or (self.criteria and shown is Verdict.MET):
                return None
            judged = dataclasses.replace(judged, verdict=shown)
            state = TrialState.COMPLETED if shown is Verdict.MET else TrialState.PRUNED
        reason = trial.reason if state is trial.state else None
        if state is TrialState.PRUNED and reason is None:
            reason = f"it misses the target by what was seen of {counted(judged.samples or 0, 'sample')}"
        return dataclasses.replace(trial, state=state, measurement=judged, reason=reason)

    def judged(self, measured: Measurement) -> Measurement | None:
        """The figures with loss and verdict by the target that counts now; None where they do not tell."""
        assert measured.loss is not None
        if not measured.complete and (measured.loss_interval is None or self.constraints is not None):
            return None
        if measured.loss_interval is not None and self.after.confidence not in (None, self.before.confidence):
            return None  # an interval of another confidence comes of the samples alone
        factor = self._factor()
        interval = None if measured.loss_interval is None else _scaled(measured.loss_interval, factor)
        loss = measured.loss * factor
        if self.constraints is not None:
            verdict = self.constraints.verdict(measured)
            return dataclasses.replace(measured, loss=loss, loss_interval=interval, verdict=verdict)
        verdicts = [self.after.verdict(loss, interval)]
        for name, target in self.criteria.items():
            if name not in measured.metrics or name not in self.baseline.metrics:
                return None
            verdicts.append(target.verdict(target.loss(self.baseline.metrics[name], measured.metrics[name])))
        return dataclasses.replace(measured, loss=loss, loss_interval=interval, verdict=worst(verdicts))

    def held_out(self, measured: Measurement) -> Measurement:
        """Figures on the data held out, whose verdict is what the interval shows."""
        if measured.loss is None:
            return measured
        factor = self._factor()
        interval = None if measured.loss_interval is None else _scaled(measured.loss_interval, factor)
        verdict = measured.verdict if interval is None else self.after.shown(interval)
        return dataclasses.replace(measured, loss=measured.loss * factor, loss_interval=interval, verdict=verdict)

    def _factor(self) -> float:
        """Factor that turns a loss of the one criterion into one of the other."""
        sign = 1.0 if self.before.higher_is_better == self.after.higher_is_better else -1.0
        fp32 = self.baseline.accuracy or 0.0
        before = fp32 if self.before.relative is not None else 1.0
        after = fp32 if self.after.relative is not None else 1.0
        return sign * before / after


def worth_keeping(trial: Trial, best_low: float) -> bool:
    """Whether a trial that has no accuracy is still ruled out by its speed.

    Args:
        trial: A trial that was pruned for its speed.
        best_low: The most that is proven of the speed of a model that keeps the target.
    """
    interval = None if trial.measurement is None else trial.measurement.speedup_interval
    return interval is not None and interval.high <= best_low


def without_latency(measured: Measurement, *, baseline: bool = False) -> Measurement:
    """The figures that do not depend on how a model is executed; the baseline's speedup is 1 by definition."""
    interval = measured.speedup_interval
    return dataclasses.replace(
        measured,
        latency_ms=None,
        latency_p90_ms=None,
        latency_p99_ms=None,
        latency_decided=None,
        baseline_ms=None,
        baseline_p90_ms=None,
        baseline_p99_ms=None,
        latency_cache=None,
        latency_sessions=None,
        speedup=1.0 if baseline else None,
        speedup_interval=interval if baseline else None,
    )


def _scaled(interval: Interval, factor: float) -> Interval:
    ends = sorted((interval.low * factor, interval.high * factor))
    return dataclasses.replace(interval, low=ends[0], high=ends[1])
