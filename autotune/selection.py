"""Which trial is the answer, and what is to be said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autotune.criterion import Verdict
from autotune.history import objective_value
from autotune.strategy import Objective
from autotune.trial import Trial, TrialState

_WORST = float("inf")


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """What the trials come to.

    Attributes:
        best: The answer: the best that meets the target, else the quantized candidate that came nearest to it.
        verdict: Whether ``best`` keeps the target.
        reason: Why this one.
    """

    best: Trial
    verdict: Verdict
    reason: str


def objective_of(trial: Trial, objective: Objective) -> float:
    """The figure to minimise; infinite where it was not measured."""
    value = None if trial.measurement is None else objective_value(trial.measurement, objective)
    return _WORST if value is None else value


def incumbent(trials: Sequence[Trial], objective: Objective) -> Trial | None:
    """The best trial so far that was measured in full and keeps the target; the fp32 baseline is one of them."""
    met = (trial for trial in trials if trial.met and trial.same_as is None)
    return min(met, key=lambda trial: objective_of(trial, objective), default=None)


def next_rank(trials: Sequence[Trial]) -> int:
    """Which candidate of the search the next one is whose accuracy is evaluated, from 1.

    A function of the history, so that a run that continues spends what its first part left of the confidence.
    """
    ranked = [trial.measurement for trial in trials if _own(trial) and trial.loss is not None]
    return 1 + max([len(ranked), *(measured.rank or 0 for measured in ranked if measured is not None)])


def finalists(trials: Sequence[Trial], objective: Objective, limit: int = 4) -> list[Trial]:
    """The trials that keep the target and whose latency cannot be told from the best's, best first.

    For other objectives than latency, which are exact, there is only the best.
    """
    best = incumbent(trials, objective)
    if best is None or objective is not Objective.LATENCY:
        return [] if best is None else [best]
    floor = _low(best)
    close = [trial for trial in trials if trial.met and trial.same_as is None and _high(trial) >= floor]
    return sorted(close, key=lambda trial: objective_of(trial, objective))[:limit]


def conclude(trials: Sequence[Trial], objective: Objective, winner: Trial | None = None) -> Conclusion:
    """What the trials come to.

    Args:
        trials: The baseline first.
        objective: What to minimise under the target.
        winner: The finalist that won the race, where there was one.
    """
    baseline = trials[0]
    quantized = [trial for trial in trials if not trial.config.is_fp32 and trial.same_as is None]
    met = [trial for trial in quantized if trial.met]
    if met:
        best = winner or incumbent(trials, objective)
        assert best is not None
        if best.config.is_fp32:
            text = f"{len(met)} quantized candidates keep the target, but none has less {objective} than fp32 itself"
            return Conclusion(best=baseline, verdict=Verdict.MET, reason=text)
        return Conclusion(best=best, verdict=Verdict.MET, reason=_least(objective, len(met)))
    judged = [trial for trial in quantized if trial.loss is not None]
    if not judged:
        failed = sum(trial.state is TrialState.FAILED for trial in quantized)
        if quantized and failed == len(quantized):
            text = f"all {failed} quantized candidates failed, so that only fp32 is left"
            return Conclusion(best=baseline, verdict=Verdict.MISSED, reason=text)
        text = f"no quantized candidate has less {objective} than fp32 itself" if quantized else "nothing was tried"
        return Conclusion(best=baseline, verdict=Verdict.MET, reason=text)
    undecided = [trial for trial in judged if _verdict(trial) is Verdict.UNDECIDED]
    nearest = min(undecided or judged, key=lambda trial: (_loss(trial), objective_of(trial, objective)))
    if undecided:
        text = "the evaluation set is too small to tell whether the target is kept with the confidence asked for"
        return Conclusion(best=nearest, verdict=Verdict.UNDECIDED, reason=text)
    text = f"none of {len(judged)} evaluated candidates keeps the target; this one loses least"
    return Conclusion(best=nearest, verdict=Verdict.MISSED, reason=text)


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """The fully measured trials that no other one beats in both loss and speedup, fastest first."""
    measured = [t for t in trials if t.state is TrialState.COMPLETED and t.loss is not None and t.speedup is not None]
    front: list[Trial] = []
    for trial in sorted(measured, key=lambda t: (-(t.speedup or 0.0), _loss(t))):
        if not front or _loss(trial) < _loss(front[-1]):
            front.append(trial)
    return front


def _own(trial: Trial) -> bool:
    """Whether it is a candidate that was measured itself: no repeat of an earlier one, and not fp32."""
    return not trial.config.is_fp32 and trial.same_as is None


def _least(objective: Objective, candidates: int) -> str:
    if candidates == 1:
        return f"The only quantized candidate so far that keeps the target, and less {objective} than fp32"
    return f"Least {objective} of the {candidates} candidates that keep the target"


def _loss(trial: Trial) -> float:
    return _WORST if trial.loss is None else trial.loss


def _verdict(trial: Trial) -> Verdict | None:
    return None if trial.measurement is None else trial.measurement.verdict


def _low(trial: Trial) -> float:
    interval = trial.measurement.speedup_interval if trial.measurement else None
    return interval.low if interval else trial.speedup or 0.0


def _high(trial: Trial) -> float:
    interval = trial.measurement.speedup_interval if trial.measurement else None
    return interval.high if interval else trial.speedup or 0.0
