"""The last step of a run: which trial is the answer, once all samples were seen and the finalists were raced."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

from autotune.adapter import ModelT
from autotune.criterion import Verdict
from autotune.errors import DeadlineReached, TrialError
from autotune.evaluation import AnyEvaluator
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.history import HOLDOUT, History
from autotune.tuning.race import Race
from autotune.tuning.selection import Conclusion, conclude, faster, finalists, incumbent

_NEAREST = 3
"""Estimates of missed targets that are completed at the most: one of them is offered beside the answer."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The outcome of the finals.

    Attributes:
        conclusion: The answer itself.
        races: Races of the finalists, in their order.
        final: The answer on data that the search never saw; None where nothing was held out, or fp32 is the answer.
        holdout_uses: How many candidates were measured on that data, by this run and those that it continues.
    """

    conclusion: Conclusion
    races: Sequence[Race] = ()
    final: Measurement | None = None
    holdout_uses: int = 0


def settle(
    history: History,
    evaluator: AnyEvaluator[ModelT],
    candidate: Callable[[Trial], ModelT],
    objective: Objective,
    *,
    deadline: float | None,
    note: Callable[[str], None],
) -> Answer:
    """Race the finalists, see the samples that they were spared and the data held out, until a winner stands.

    A candidate that was accepted early is known to keep the target with a chance of error of under 1 %, and the best of
    many was picked with luck. A winner that turns out to miss the target makes room for the next one. Where the time
    ends before, the answer is what is known by then.

    Args:
        history: The trials; new figures of theirs are recorded in it.
        evaluator: Evaluator of the search.
        candidate: Makes a trial's model.
        objective: The figure to minimise.
        deadline: A ``time.monotonic()`` value.
        note: Called with notes for the user.
    """
    return _Finals(history, evaluator, candidate, objective, deadline, note).answer()


def provisional(
    trials: Sequence[Trial], objective: Objective, raced: dict[int, bool | None] | None = None
) -> Conclusion:
    """Conclusion from the trials where there is no time left: an early acceptance alone meets no target."""
    conclusion = conclude([_as_undecided(trial) for trial in trials], objective, raced=raced)
    nearest = conclusion.nearest
    if conclusion.verdict is Verdict.UNDECIDED and nearest is not None and _is_estimate(nearest):
        reason = "the run ended before the best candidate could be evaluated on all samples; so far it keeps the target"
        return dataclasses.replace(conclusion, reason=reason)
    return conclusion


class _Finals(Generic[ModelT]):
    """One call of :func:`settle`; the arguments are its own."""

    def __init__(
        self,
        history: History,
        evaluator: AnyEvaluator[ModelT],
        candidate: Callable[[Trial], ModelT],
        objective: Objective,
        deadline: float | None,
        note: Callable[[str], None],
    ) -> None:
        self._history = history
        self._evaluator = evaluator
        self._candidate = candidate
        self._objective = objective
        self._deadline = deadline
        self._note = note
        self._races: list[Race] = []
        self._raced: dict[int, bool | None] = {}
        self._can_race = True
        self._final: Measurement | None = None

    def answer(self) -> Answer:
        """The answer, whatever happens to the clock."""
        try:
            conclusion = self._settled()
        except DeadlineReached:
            conclusion = provisional(self._history.trials, self._objective, self._raced)
        return Answer(
            conclusion=conclusion,
            races=tuple(self._races),
            final=self._final,
            holdout_uses=len(self._history.kept(HOLDOUT) or {}),
        )

    def _settled(self) -> Conclusion:
        misses = 0
        while True:
            leaders = self._leaders()
            seen = self._seen(leaders)
            for trial in sorted(seen, key=_loss):
                if self._stands(trial):
                    return self._won(trial, seen)
            if leaders:
                continue  # none of them stands, which the history says by now
            conclusion = conclude(self._history.trials, self._objective, raced=self._raced)
            nearest = conclusion.nearest
            if nearest is None or not _is_estimate(nearest):
                return conclusion
            if misses == _NEAREST:
                known = [trial for trial in self._history.trials if not _is_estimate(trial)]
                return conclude(known, self._objective, raced=self._raced)
            misses += 1
            self._complete(nearest)

    def _won(self, winner: Trial, seen: Sequence[Trial]) -> Conclusion:
        """The winner as the conclusion; ``seen`` are those as fast as the fastest, that one first."""
        winner = self._trial(winner.number)
        conclusion = conclude(self._history.trials, self._objective, winner=winner, raced=self._raced)
        if winner.number == seen[0].number:
            return conclusion
        reason = f"{conclusion.reason}; of those that are as fast as the fastest, this one loses least"
        return dataclasses.replace(conclusion, reason=reason)

    def _leaders(self) -> list[Trial]:
        """The trials of which one is the answer if it keeps the target: none where that is fp32.

        Where speed counts they are those whom no finalist beats and who are proven faster than fp32, fastest first.
        """
        if self._objective is not Objective.LATENCY:
            best = incumbent(self._history.trials, self._objective)
            return [] if best is None or best.config.is_fp32 else [best]
        racers = finalists(self._history.trials, self._objective)
        if not racers:
            return []
        if not (self._can_race and self._race(racers)):
            return [trial for trial in racers if faster(trial)][:1]
        undecided = [trial for trial in racers if self._raced[trial.number] is None]
        if undecided and not any(self._raced[trial.number] for trial in racers):
            # A second time, and no third: what is undecided then is said to be so.
            self._race([self._trial(trial.number) for trial in undecided])
        won = [each for each in self._races[-1].finalists if each.faster]
        ahead = [each for each in won if each.survived] or won[:1]
        return [self._trial(each.number) for each in ahead]

    def _race(self, racers: Sequence[Trial]) -> bool:
        """Race trials and record their figures with them; False where that could not be done."""
        # Samples that nobody saw leave the answer undecided, a race that could not be run does not.
        deadline = None if self._deadline is None else self._deadline - self._completion_s(racers)
        try:
            outcome = self._evaluator.race([self._candidate(trial) for trial in racers], deadline=deadline)
        except DeadlineReached:
            self._can_race = False
            self._note("The time was up before the finalists could be raced: the figures are those of the search")
            return False
        except TrialError as error:
            self._can_race = False
            self._note(f"The finalists could not be raced, so that the figures are those of the search: {error}")
            return False
        race = Race.of(racers, outcome)
        self._races.append(race)
        for each in race.finalists:
            trial = self._trial(each.number)
            assert trial.measurement is not None
            self._raced[each.number] = each.faster
            self._history.revise(dataclasses.replace(trial, measurement=each.revise(trial.measurement, race)))
        return True

    def _completion_s(self, racers: Sequence[Trial]) -> float:
        """Seconds that the samples take which a winner was spared, at the pace of fp32."""
        spared = [1 - _share_seen(trial) for trial in racers]
        return max(spared, default=0.0) * (self._history.trials[0].duration_s or 0.0)

    def _seen(self, leaders: Sequence[Trial]) -> list[Trial]:
        """The finalists that keep the target on all samples, in their order."""
        seen: list[Trial] = []
        for trial in leaders:
            try:
                whole = self._complete(trial) if _is_estimate(trial) else trial
            except DeadlineReached:
                if not any(not _is_estimate(each) for each in leaders):
                    raise
                self._note("The time was up before finalists that are as fast could be told apart by their accuracy")
                continue
            if whole.met:
                seen.append(whole)
            elif trial.met:
                self._note(f"Trial {trial.number} was accepted early, and does not keep the target on all samples")
        return seen

    def _stands(self, trial: Trial) -> bool:
        """Whether data that the search never saw does not show that a trial misses the target."""
        measured: dict[str, object] = self._history.kept(HOLDOUT) or {}
        stored = measured.get(str(trial.number))
        final: Measurement | None
        if isinstance(stored, dict):
            final = Measurement.from_json(stored)
        else:
            final = self._held_out(trial, len(measured) + 1)
            if final is not None:
                self._history.keep(HOLDOUT, {**measured, str(trial.number): final.to_json()})
        if final is None or final.verdict is not Verdict.MISSED:
            self._final = final
            return True
        self._refute(trial, final)
        return False

    def _held_out(self, trial: Trial, rank: int) -> Measurement | None:
        try:
            return self._evaluator.holdout(self._candidate(trial), rank=rank, deadline=self._deadline)
        except DeadlineReached:
            self._note("The time was up before the best model could be measured on the data held out")
        except TrialError as error:
            self._note(f"The best model could not be measured on the data held out: {error}")
        return None

    def _refute(self, trial: Trial, final: Measurement) -> None:
        """Record that a trial misses the target on the data held out."""
        assert trial.measurement is not None
        interval = final.loss_interval
        where = "" if interval is None else f", between {interval.low:.4g} and {interval.high:.4g}"
        reason = f"misses the target on the data held out: a loss of {final.loss:.4g}{where}"
        missed = dataclasses.replace(trial.measurement, verdict=Verdict.MISSED)
        self._history.revise(dataclasses.replace(trial, measurement=missed, reason=reason))
        self._note(f"Trial {trial.number} {reason}")

    def _complete(self, trial: Trial) -> Trial:
        """See the samples that a trial was spared, and record what it comes to."""
        assert trial.measurement is not None
        try:
            whole = self._evaluator.complete(self._candidate(trial), trial.measurement, deadline=self._deadline)
        except DeadlineReached:
            raise
        except TrialError as error:
            revised = dataclasses.replace(trial, state=TrialState.FAILED, measurement=None, reason=str(error))
        else:
            revised = dataclasses.replace(trial, state=TrialState.COMPLETED, measurement=whole, reason=None)
        self._history.revise(revised)
        return revised

    def _trial(self, number: int) -> Trial:
        """The trial as the history has it by now."""
        return next(trial for trial in self._history.trials if trial.number == number)


def _loss(trial: Trial) -> float:
    return float("inf") if trial.loss is None else trial.loss


def _share_seen(trial: Trial) -> float:
    """Share of the search's samples that a trial's accuracy comes from."""
    measured = trial.measurement
    if measured is None or measured.samples is None or not measured.samples_total:
        return 1.0
    return measured.samples / measured.samples_total


def _is_estimate(trial: Trial) -> bool:
    return trial.measurement is not None and not trial.measurement.complete


def _as_undecided(trial: Trial) -> Trial:
    if not trial.met or not _is_estimate(trial) or trial.measurement is None:
        return trial
    return dataclasses.replace(trial, measurement=dataclasses.replace(trial.measurement, verdict=Verdict.UNDECIDED))
