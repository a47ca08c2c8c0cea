"""Which trial is the answer, and what is to be said of it.

One rule: what is returned keeps the target whenever anything does, fp32 included. A candidate is the answer where it
keeps the target and is proven faster than fp32 (or smaller, where size counts); else fp32 is, and the candidate that
came nearest is offered beside it. The model as it was prepared, with no op quantized, is a candidate like the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autotune.criterion import Verdict
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.stored_trials import objective_value

_WORST = float("inf")


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """Conclusion from the trials.

    Attributes:
        best: The answer: the best candidate that keeps the target, else fp32.
        verdict: Whether a candidate keeps the target, as far as it was asked of one: fp32 is the answer where all are
            slower than it, and that is ``met``.
        reason: Why this one.
        speed: Whether ``best`` is proven faster than fp32 (met), no candidate that keeps the target is faster (missed),
            or it could not be told (undecided). None where speed is not the objective or no candidate keeps the target.
        nearest: Where fp32 is the answer for want of a better one: the candidate that came nearest.
    """

    best: Trial
    verdict: Verdict
    reason: str
    speed: Verdict | None = None
    nearest: Trial | None = None


def objective_of(trial: Trial, objective: Objective) -> float:
    """The figure to minimise; infinite where it was not measured."""
    value = None if trial.measurement is None else objective_value(trial.measurement, objective)
    return _WORST if value is None else value


def incumbent(trials: Sequence[Trial], objective: Objective) -> Trial | None:
    """The best trial so far that was measured in full and keeps the target; the fp32 baseline is one of them.

    Where speed counts, a speedup that is undecided is none to be best by.
    """
    met = [trial for trial in trials if trial.met and trial.same_as is None]
    if objective is Objective.LATENCY:
        met = [trial for trial in met if trial.config.is_fp32 or _is_decided(trial)]
    if objective is Objective.THROUGHPUT:
        met = [trial for trial in met if trial.config.is_fp32 or _serves_more(trial)]
    return min(met, key=lambda trial: _rank(trial, objective), default=None)


def _rank(trial: Trial, objective: Objective) -> tuple[float, float]:
    """The figure to minimise, and of equals the faster one first."""
    return objective_of(trial, objective), -(trial.speedup or 0.0)


def _serves_more(trial: Trial) -> bool:
    """Whether its slowest round had more samples per second than fp32's fastest."""
    interval = None if trial.measurement is None else trial.measurement.throughput_interval
    return interval is not None and interval.low > 1


def to_beat(trials: Sequence[Trial], objective: Objective) -> Measurement | None:
    """The measurement to beat for an accuracy evaluation; None where speed is not the objective.

    The fp32 model is one of those to beat.
    """
    best = incumbent(trials, objective) if objective is Objective.LATENCY else None
    return None if best is None else best.measurement


def led_by_another(trials: Sequence[Trial], objective: Objective, runtime: str | None) -> bool:
    """Whether another runtime has the best so far: what is slower than that is of no use, whatever it would tell."""
    best = incumbent(trials, objective) if objective is Objective.LATENCY else None
    return best is not None and not best.config.is_fp32 and best.config.runtime != runtime


def tried(trials: Sequence[Trial]) -> int:
    """The number of candidates that a strategy has proposed, of those that are running included."""
    return sum(not (trial.config.prepared or trial.config.trained) for trial in trials) - 1


def next_rank(trials: Sequence[Trial]) -> int:
    """Which candidate of the search the next one is whose accuracy is evaluated, from 1.

    A function of the history, so that a run that continues spends what its first part left of the confidence.
    """
    ranked = [trial.measurement for trial in trials if _own(trial) and trial.loss is not None]
    running = sum(trial.state is TrialState.RUNNING for trial in trials if _own(trial))  # in other runs of this study
    return 1 + running + max([len(ranked), *(measured.rank or 0 for measured in ranked if measured is not None)])


def finalists(trials: Sequence[Trial], objective: Objective, limit: int = 4) -> list[Trial]:
    """The candidates that keep the target and may be the fastest, for a race to decide; those with most proof first.

    Who may be the fastest lies with its interval above what is proven of any other, and of fp32. The limit counts those
    that are decided. Half as many undecided ones come on top: a wide interval neither keeps others out nor is itself
    kept out by them. Other objectives than latency are exact and need no race.
    """
    if objective is not Objective.LATENCY:
        return []
    keep = [trial for trial in trials if _own(trial) and trial.met]
    floor = max([1.0, *(_low(trial) for trial in keep)])
    close = sorted((trial for trial in keep if _high(trial) >= floor), key=lambda trial: -_low(trial))
    decided = [trial for trial in close if _is_decided(trial)]
    undecided = [trial for trial in close if not _is_decided(trial)]
    chosen = decided[:limit] + undecided[: max(limit // 2, limit - len(decided))]
    return sorted(chosen, key=lambda trial: -_low(trial))


def asked_for_again(trials: Sequence[Trial], objective: Objective) -> list[Trial]:
    """The candidates whose models the end of a run needs if it ends now: finalists, and what is offered beside fp32."""
    nearest = conclude(trials, objective).nearest
    return [*finalists(trials, objective), *([] if nearest is None else [nearest])]


def faster(trial: Trial) -> bool | None:
    """Whether the measured interval shows it faster than fp32: True, not faster (False), or not known (None)."""
    if _low(trial) > 1:
        return True
    return False if _high(trial) <= 1 or _is_decided(trial) else None


def conclude(
    trials: Sequence[Trial],
    objective: Objective,
    *,
    winner: Trial | None = None,
    raced: Mapping[int, bool | None] | None = None,
) -> Conclusion:
    """Conclusion from the trials.

    Args:
        trials: The baseline first.
        objective: The figure to minimise under the target.
        winner: The one that the finals chose, where there were any: proven faster than fp32, on all samples.
        raced: By number of the finalists that were raced: whether each is faster than fp32.
    """
    candidates = [trial for trial in trials if _own(trial) and trial.state is not TrialState.RUNNING]
    if objective is Objective.ACCURACY and (candidates or trials[0].met):
        return _most_accurate(trials[0], candidates, winner)
    if not candidates and any(trial.same_as == trials[0].number for trial in trials):
        reason = "every config that was tried makes the fp32 model itself"
        speed = Verdict.MISSED if objective is Objective.LATENCY else None
        return Conclusion(best=trials[0], verdict=Verdict.MET, reason=reason, speed=speed)
    if not candidates:
        reason = "nothing was tried, so that nothing but fp32 was measured"
        return Conclusion(best=trials[0], verdict=Verdict.UNDECIDED, reason=reason)
    keep = [trial for trial in candidates if trial.met]
    if not keep:
        return _nothing_keeps(trials[0], candidates, objective)
    if objective is Objective.LATENCY:
        return _fastest(trials[0], keep, winner, raced or {})
    rivals = [trial for trial in keep if objective is not Objective.THROUGHPUT or _serves_more(trial)]
    best = winner or min([trials[0], *rivals], key=lambda trial: objective_of(trial, objective))
    less, least = ("more", "most") if objective is Objective.THROUGHPUT else ("less", "least")
    if best.config.is_fp32:
        reason = f"{_candidates(keep)} the target, but none has {less} {objective} than fp32 itself"
    else:
        reason = f"{least} {objective} of the {len(keep)} candidates that keep the target"
        if len(keep) == 1:
            reason = f"the only candidate that keeps the target, with {less} {objective} than fp32"
    return Conclusion(best=best, verdict=Verdict.MET, reason=reason)


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """The fully measured trials that no other one beats in both loss and speedup, fastest first."""
    measured = [t for t in trials if t.state is TrialState.COMPLETED and t.loss is not None and t.speedup is not None]
    front: list[Trial] = []
    for trial in sorted(measured, key=lambda t: (-(t.speedup or 0.0), _loss(t))):
        if not front or _loss(trial) < _loss(front[-1]):
            front.append(trial)
    return front


def _most_accurate(baseline: Trial, candidates: Sequence[Trial], winner: Trial | None) -> Conclusion:
    """The answer where accuracy is the objective: the least loss of those that keep the limits."""
    if baseline.met:
        reason = "fp32 itself keeps the limits, and nothing loses less"
        return Conclusion(best=baseline, verdict=Verdict.MET, reason=reason)
    keep = [trial for trial in candidates if trial.met]
    if keep:
        best = winner or min(keep, key=lambda trial: _rank(trial, Objective.ACCURACY))
        reason = f"least loss of the {len(keep)} candidates that keep the limits"
        if len(keep) == 1:
            reason = "the only candidate that keeps the limits"
        return Conclusion(best=best, verdict=Verdict.MET, reason=reason)
    judged = [trial for trial in candidates if trial.measurement is not None]
    if not judged:
        return Conclusion(
            best=baseline, verdict=Verdict.MISSED, reason="every candidate failed, so that only fp32 is left"
        )
    undecided = [trial for trial in judged if _verdict(trial) is Verdict.UNDECIDED]
    nearest = max(undecided or judged, key=lambda trial: (trial.speedup or 0.0, -objective_of(trial, Objective.SIZE)))
    if undecided:
        reason = f"it could not be told whether a candidate keeps the limits: trial {nearest.number} lies on them"
        return Conclusion(best=baseline, verdict=Verdict.UNDECIDED, reason=reason, nearest=nearest)
    reason = f"none of {len(judged)} candidates keeps the limits; trial {nearest.number} comes nearest"
    if len(judged) == 1:
        reason = f"the only candidate that was measured, trial {nearest.number}, does not keep the limits"
    return Conclusion(best=baseline, verdict=Verdict.MISSED, reason=reason, nearest=nearest)


def _fastest(
    baseline: Trial, keep: Sequence[Trial], winner: Trial | None, raced: Mapping[int, bool | None]
) -> Conclusion:
    """The answer where speed counts and candidates keep the target."""
    known = {trial.number: raced.get(trial.number, faster(trial)) for trial in keep}
    proven = [trial for trial in keep if known[trial.number]]
    if winner is not None or proven:
        best = winner or max(proven, key=_low)
        reason = _why(best, keep, raced)
        if best.config.prepared:
            reason = f"preparation alone, with no op quantized: {reason}"
        return Conclusion(best=best, verdict=Verdict.MET, reason=reason, speed=Verdict.MET)
    undecided = [trial for trial in keep if known[trial.number] is None]
    if undecided:
        nearest = max(undecided, key=lambda trial: (_low(trial), trial.speedup or 0.0))
        reason = (
            f"{_candidates(keep)} the target, but this machine was too busy to tell whether any is faster than fp32: "
            f"trial {nearest.number} is {_low(nearest):.2f}x to {_high(nearest):.2f}x as fast"
        )
        return Conclusion(best=baseline, verdict=Verdict.MET, reason=reason, speed=Verdict.UNDECIDED, nearest=nearest)
    reason = f"{_candidates(keep)} the target, but none has less latency than fp32 itself"
    return Conclusion(best=baseline, verdict=Verdict.MET, reason=reason, speed=Verdict.MISSED)


def _why(best: Trial, keep: Sequence[Trial], raced: Mapping[int, bool | None]) -> str:
    """Why a candidate that is faster than fp32 is the answer."""
    if len(keep) == 1:
        return "the only candidate that keeps the target, and faster than fp32"
    if best.number in raced:
        if len(raced) == 1:
            return f"of {len(keep)} candidates that keep the target, the only one that may be the fastest"
        return f"the fastest of {len(raced)} finalists in a race, of {len(keep)} candidates that keep the target"
    if objective_of(best, Objective.LATENCY) <= min(objective_of(trial, Objective.LATENCY) for trial in keep):
        return f"least latency of the {len(keep)} candidates that keep the target, which were not raced"
    return f"most is proven of its speed among {len(keep)} candidates that keep the target, which were not raced"


def _nothing_keeps(baseline: Trial, candidates: Sequence[Trial], objective: Objective) -> Conclusion:
    """The answer where no candidate is known to keep the target: fp32."""
    judged = [trial for trial in candidates if trial.loss is not None]
    if not judged:
        failed = sum(trial.state is TrialState.FAILED for trial in candidates)
        if failed == len(candidates):
            which = "the only candidate" if failed == 1 else f"all {failed} candidates"
            reason = f"{which} failed, so that only fp32 is left"
            return Conclusion(best=baseline, verdict=Verdict.MISSED, reason=reason)
        reason = f"no candidate has less {objective} than fp32 itself"
        speed = Verdict.MISSED if objective is Objective.LATENCY else None
        return Conclusion(best=baseline, verdict=Verdict.MET, reason=reason, speed=speed)
    undecided = [trial for trial in judged if _verdict(trial) is Verdict.UNDECIDED]
    nearest = min(undecided or judged, key=lambda trial: (_loss(trial), objective_of(trial, objective)))
    if undecided:
        reason = "the evaluation set is too small to tell whether the target is kept with the confidence asked for"
        return Conclusion(best=baseline, verdict=Verdict.UNDECIDED, reason=reason, nearest=nearest)
    reason = f"none of {len(judged)} evaluated candidates keeps the target; trial {nearest.number} loses least"
    if len(judged) == 1:
        reason = f"the only candidate that was evaluated, trial {nearest.number}, does not keep the target"
    return Conclusion(best=baseline, verdict=Verdict.MISSED, reason=reason, nearest=nearest)


def _own(trial: Trial) -> bool:
    """Whether it is a candidate that was measured itself: no repeat of an earlier one, and not fp32."""
    return not trial.config.is_fp32 and trial.same_as is None


def _candidates(keep: Sequence[Trial]) -> str:
    return "1 candidate keeps" if len(keep) == 1 else f"{len(keep)} candidates keep"


def _loss(trial: Trial) -> float:
    return _WORST if trial.loss is None else trial.loss


def _verdict(trial: Trial) -> Verdict | None:
    return None if trial.measurement is None else trial.measurement.verdict


def _is_decided(trial: Trial) -> bool:
    return trial.measurement is not None and trial.measurement.latency_decided is not False


def _low(trial: Trial) -> float:
    interval = trial.measurement.speedup_interval if trial.measurement else None
    return interval.low if interval else trial.speedup or 0.0


def _high(trial: Trial) -> float:
    interval = trial.measurement.speedup_interval if trial.measurement else None
    return interval.high if interval else trial.speedup or 0.0
