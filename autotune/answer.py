"""The last step of a run: which trial is the answer, once all samples were seen and the finalists were raced."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from autotune.adapter import ModelT
from autotune.criterion import Verdict
from autotune.errors import DeadlineReached, TrialError
from autotune.evaluation import AnyEvaluator
from autotune.history import History
from autotune.selection import Conclusion, conclude, finalists
from autotune.strategy import Objective
from autotune.trial import Trial, TrialState

_NEAREST = 3
"""Estimates of missed targets that are completed at the most: one of them is the best-effort answer."""


def settle(
    history: History,
    evaluator: AnyEvaluator[ModelT],
    candidate: Callable[[Trial], ModelT],
    objective: Objective,
    *,
    deadline: float | None,
    note: Callable[[str], None],
) -> Conclusion:
    """Race the finalists and see the samples that the winner was spared, until there is a winner that stands.

    A candidate that was accepted early is known to keep the target with a chance of error of under 1 %. A winner that
    turns out to miss it makes room for the next one.

    Args:
        history: The trials; what is learnt of them here is recorded in it.
        evaluator: That of the search.
        candidate: Makes a trial's model.
        objective: What to minimise.
        deadline: A ``time.monotonic()`` value.
        note: Told what the user should know.
    """
    misses = 0
    while True:
        conclusion = _race(history, evaluator, candidate, objective, deadline=deadline, note=note)
        best = conclusion.best
        if not _is_estimate(best):
            return conclusion
        if not best.met and misses == _NEAREST:
            return conclude([trial for trial in history.trials if not _is_estimate(trial)], objective)
        misses += not best.met
        try:
            history.revise(_completed(best, evaluator, candidate, deadline))
        except DeadlineReached:
            return provisional(history.trials, objective)
        revised = next(trial for trial in history.trials if trial.number == best.number)
        if revised.met:
            return conclude(history.trials, objective, winner=revised)
        if best.met:
            note(f"Trial {best.number} was accepted early, and does not keep the target once all samples are seen")


def provisional(trials: Sequence[Trial], objective: Objective) -> Conclusion:
    """What the trials come to where there is no time left: an early acceptance alone meets no target."""
    conclusion = conclude([_as_undecided(trial) for trial in trials], objective)
    if conclusion.verdict is Verdict.UNDECIDED and _is_estimate(conclusion.best):
        reason = "the run ended before the best candidate could be evaluated on all samples; so far it keeps the target"
        return dataclasses.replace(conclusion, reason=reason)
    return conclusion


def _race(
    history: History,
    evaluator: AnyEvaluator[ModelT],
    candidate: Callable[[Trial], ModelT],
    objective: Objective,
    *,
    deadline: float | None,
    note: Callable[[str], None],
) -> Conclusion:
    """Race the finalists against each other, so that the winner won on purpose; accuracy decides between equals."""
    racers = finalists(history.trials, objective)
    if len(racers) < 2:
        return conclude(history.trials, objective)
    try:
        outcome = evaluator.race([candidate(trial) for trial in racers], deadline=deadline)
    except DeadlineReached:
        note("The time was up before the finalists could be raced: the order is that of the trials")
        return conclude(history.trials, objective)
    tied = [racers[index] for index in outcome.tied]
    if len(tied) > 1:
        try:
            tied = _all_seen(tied, history, evaluator, candidate, deadline)
        except DeadlineReached:
            note("The time was up before finalists that are as fast could be told apart by their accuracy")
    winner = min(tied, key=lambda trial: float("inf") if trial.loss is None else trial.loss, default=None)
    conclusion = conclude(history.trials, objective, winner=winner)
    if len(tied) < 2 or conclusion.best.number == racers[outcome.order[0]].number:
        return conclusion
    reason = f"{conclusion.reason}; of those that are as fast as the fastest, this one loses least"
    return dataclasses.replace(conclusion, reason=reason)


def _all_seen(
    tied: Sequence[Trial],
    history: History,
    evaluator: AnyEvaluator[ModelT],
    candidate: Callable[[Trial], ModelT],
    deadline: float | None,
) -> list[Trial]:
    """Those of the trials that keep the target once all of their samples were seen."""
    for trial in tied:
        if _is_estimate(trial):
            history.revise(_completed(trial, evaluator, candidate, deadline))
    numbers = {trial.number for trial in tied}
    return [trial for trial in history.trials if trial.number in numbers and trial.met]


def _completed(
    trial: Trial,
    evaluator: AnyEvaluator[ModelT],
    candidate: Callable[[Trial], ModelT],
    deadline: float | None,
) -> Trial:
    assert trial.measurement is not None
    try:
        whole = evaluator.complete(candidate(trial), trial.measurement, deadline=deadline)
    except DeadlineReached:
        raise
    except TrialError as error:
        return dataclasses.replace(trial, state=TrialState.FAILED, measurement=None, reason=str(error))
    return dataclasses.replace(trial, state=TrialState.COMPLETED, measurement=whole, reason=None)


def _is_estimate(trial: Trial) -> bool:
    return trial.measurement is not None and not trial.measurement.complete


def _as_undecided(trial: Trial) -> Trial:
    if not trial.met or not _is_estimate(trial) or trial.measurement is None:
        return trial
    return dataclasses.replace(trial, measurement=dataclasses.replace(trial.measurement, verdict=Verdict.UNDECIDED))
