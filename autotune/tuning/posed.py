"""The problem as strategies see it, where a run minimizes a figure that they do not know.

Strategies look for the fastest (or smallest) model within a loss. Least loss within a latency is the same question
asked the other way round: for some loss that is allowed, the fastest model within it just keeps the latency. That loss
is found step by step. As long as nothing keeps the limits, more and more loss is allowed; once something does, less
than it lost. The proposals stay a function of the history.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import pairwise

from optuna.samplers import BaseSampler

from autotune.constraints import Constraints
from autotune.criterion import Criterion
from autotune.strategy import Draw, Exhausted, Objective, Problem, Proposal, Strategy
from autotune.trial import Trial, TrialState

_BETTER = 0.9
"""Share of the least loss so far that the next candidate may have: less of a gain is not worth an evaluation."""

_WIDER = 4.0
_WIDENINGS = 8
"""Factor by which the loss that is allowed grows where nothing keeps the limits, and how often at the most."""

_MOST_RELATIVE = 0.99


class ForThroughput(Strategy):
    """Poses throughput as latency: what computes faster alone mostly does so beside others too.

    Args:
        strategy: Any strategy.
    """

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self._posed: dict[int, Problem] = {}

    @property
    def multi_objective(self) -> bool:  # type: ignore[override]  # a property in place of a constant
        """See :class:`autotune.strategy.Strategy`."""
        return self._strategy.multi_objective

    def sampler(self, problem: Problem, seed: int) -> BaseSampler | None:
        """See :class:`autotune.strategy.Strategy`."""
        return self._strategy.sampler(self._as_latency(problem), seed)

    def propose(self, problem: Problem, trials: Sequence[Trial], draw: Draw) -> Proposal | Exhausted:
        """See :class:`autotune.strategy.Strategy`."""
        return self._strategy.propose(self._as_latency(problem), trials, draw)

    def _as_latency(self, problem: Problem) -> Problem:
        # The same object for the same problem: a plan goes on with it.
        return self._posed.setdefault(id(problem), dataclasses.replace(problem, objective=Objective.LATENCY))


class ForAccuracy(Strategy):
    """Poses least loss within limits as the fastest, or smallest, model within a loss.

    Args:
        strategy: Any strategy.
        constraints: The limits.
    """

    def __init__(self, strategy: Strategy, constraints: Constraints) -> None:
        self._strategy = strategy
        self._objective = Objective.LATENCY if constraints.of_speed else Objective.SIZE
        self._posed: dict[tuple[int, float], Problem] = {}

    @property
    def multi_objective(self) -> bool:  # type: ignore[override]  # a property in place of a constant
        """See :class:`autotune.strategy.Strategy`."""
        return self._strategy.multi_objective

    def sampler(self, problem: Problem, seed: int) -> BaseSampler | None:
        """See :class:`autotune.strategy.Strategy`."""
        return self._strategy.sampler(self._within(problem, problem.criterion.target), seed)

    def propose(self, problem: Problem, trials: Sequence[Trial], draw: Draw) -> Proposal | Exhausted:
        """The proposal of the strategy for the loss that is allowed now."""
        answer: Proposal | Exhausted = Exhausted(reason="the best candidate loses nothing against fp32")
        tried = {trial.config for trial in trials}
        for allowed in _allowed(problem.criterion, trials):
            posed = self._within(problem, allowed)
            shown = [_judged(trial, posed.criterion) for trial in trials]
            answer = self._strategy.propose(posed, shown, draw)
            if isinstance(answer, Proposal) and answer.config not in tried:
                return answer
        return answer

    def _within(self, problem: Problem, allowed: float) -> Problem:
        key = (id(problem), allowed)
        if key not in self._posed:
            criterion = with_target(problem.criterion, allowed)
            self._posed[key] = dataclasses.replace(problem, objective=self._objective, criterion=criterion)
        return self._posed[key]


def with_target(criterion: Criterion, target: float) -> Criterion:
    """The criterion with another largest loss, and without a confidence, which belongs to a target that is fixed."""
    if criterion.relative is not None:
        return dataclasses.replace(criterion, relative=min(target, _MOST_RELATIVE), confidence=None)
    return dataclasses.replace(criterion, absolute=target, confidence=None)


def _allowed(criterion: Criterion, trials: Sequence[Trial]) -> Iterator[float]:
    """The losses to allow for, in the order in which they are tried."""
    kept = [trial.loss for trial in trials if trial.met and trial.loss is not None]
    if kept:
        if min(kept) > 0:
            yield min(kept) * _BETTER
        return
    start = criterion.target or 0.01
    widening = [start * _WIDER**step for step in range(_WIDENINGS)]
    yield start
    for before, after in pairwise(widening):
        if criterion.relative is None or before < _MOST_RELATIVE:
            yield after


def _judged(trial: Trial, criterion: Criterion) -> Trial:
    """A trial as one of a search within a loss."""
    measured = trial.measurement
    if measured is None or measured.loss is None or trial.state is not TrialState.COMPLETED:
        return trial
    judged = dataclasses.replace(measured, verdict=criterion.verdict(measured.loss))
    return dataclasses.replace(trial, measurement=judged)
