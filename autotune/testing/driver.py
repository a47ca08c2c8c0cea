"""The tuner's loop around a strategy, on a real history, with a computed evaluator in place of models."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from optuna.samplers import RandomSampler

from autotune.config import QuantizationConfig
from autotune.criterion import Criterion, Verdict
from autotune.errors import TrialError
from autotune.strategy import Exhausted, Problem, Proposal, Strategy
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.history import History, OpenTrial
from autotune.tuning.stored_trials import objective_value

MAX_REPEATS = 20
Evaluate = Callable[[QuantizationConfig], Measurement]


@runtime_checkable
class PartialEvaluator(Protocol):
    """An evaluator that knows single answers, and so can end early."""

    def until_settled(self, config: QuantizationConfig, criterion: Criterion) -> tuple[Measurement, str | None]:
        """The measurement, and why it ended before all samples were seen; None where it did not."""
        ...


@dataclass
class Run:
    """A history and what goes on in it.

    Attributes:
        problem: The strategy's problem.
        evaluate: Gives the accuracy, loss, speedup and size of a config, or raises a TrialError.
        reason: Why it ended; None while it has not.
        evaluated: The candidates in the order in which they were evaluated.
    """

    problem: Problem
    evaluate: Evaluate
    reason: str | None = None
    evaluated: list[Trial] = field(default_factory=list)
    history: History | None = None

    @property
    def best(self) -> Trial:
        """The cheapest that keeps the target, the baseline included."""
        return min((trial for trial in self._history.trials if trial.met), key=self.cost)

    @property
    def _history(self) -> History:
        assert self.history is not None
        return self.history

    def cost(self, trial: Trial) -> float:
        """The objective of a trial."""
        value = None if trial.measurement is None else objective_value(trial.measurement, self.problem.objective)
        return math.inf if value is None else value

    def go(self, strategy: Strategy, max_trials: int) -> Run:
        """Go on until ``max_trials`` candidates were evaluated in all, or the strategy is exhausted."""
        if self.history is None:
            self.history = History(None, {}, multi_objective=strategy.multi_objective)
            baseline = Proposal(config=QuantizationConfig(), needs_accuracy=True)
            self._evaluate(self.history.open(RandomSampler(0)), baseline)
        repeats = 0
        while len(self.evaluated) < max_trials and self.reason is None:
            seed = int(np.random.SeedSequence([self.problem.seed, self._history.begun]).generate_state(1)[0])
            opened = self._history.open(strategy.sampler(self.problem, seed) or RandomSampler(seed))
            proposal = strategy.propose(self.problem, self._history.trials, opened.draw)
            if isinstance(proposal, Exhausted):
                self._history.discard(opened)
                self.reason = proposal.reason
                break
            earlier = next((trial for trial in self._history.trials if trial.config == proposal.config), None)
            if earlier is None:
                self.evaluated.append(self._evaluate(opened, proposal))
                repeats = 0
                continue
            self._history.repeat(opened, earlier, self.problem.objective, self.problem.criterion.target)
            repeats += 1
            if repeats >= MAX_REPEATS:
                self.reason = "exhausted: nothing new proposed"
        return self

    def _evaluate(self, opened: OpenTrial, proposal: Proposal) -> Trial:
        self._history.start(opened, proposal.config, proposal.note)
        trial = self._measured(opened.number, proposal)
        self._history.finish(opened, trial, self.problem.objective, self.problem.criterion.target)
        return trial

    def _measured(self, number: int, proposal: Proposal) -> Trial:
        config, note = proposal.config, proposal.note
        try:
            measured = self.evaluate(config)
        except TrialError as error:
            return Trial(number=number, config=config, note=note, state=TrialState.FAILED, reason=str(error))
        cost = objective_value(measured, self.problem.objective)
        assert cost is not None
        assert measured.loss is not None
        if not proposal.needs_accuracy and cost >= self.cost(self.best):
            known = Measurement(speedup=measured.speedup, size_bytes=measured.size_bytes)
            reason = "slower than the best so far"
            return Trial(
                number=number, config=config, note=note, state=TrialState.PRUNED, measurement=known, reason=reason
            )
        stopped = None
        if isinstance(self.evaluate, PartialEvaluator) and not proposal.needs_accuracy and not config.is_fp32:
            measured, stopped = self.evaluate.until_settled(config, self.problem.criterion)
        verdict = Verdict.MISSED if stopped else self.problem.criterion.verdict(measured.loss or 0.0)
        return Trial(
            number=number,
            config=config,
            note=note,
            state=TrialState.PRUNED if stopped else TrialState.COMPLETED,
            measurement=dataclasses.replace(measured, verdict=verdict),
            reason=stopped,
        )


def share_of_data(trial: Trial) -> float:
    """Which share of an evaluation a trial took: none where its latency ruled it out, a part where it ended early."""
    measured = trial.measurement
    if measured is None:
        return 1.0  # a candidate that fails may do so at the end
    if measured.loss is None:
        return 0.0
    if measured.samples is None or measured.samples_total is None:
        return 1.0
    return measured.samples / measured.samples_total
