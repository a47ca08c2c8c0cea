"""Strategies written as a plan: a generator that yields proposals and is sent what came of each.

A plan reads like the algorithm it is, and still keeps the strategy free of state: the history is replayed through a
fresh plan, so that what comes next depends on nothing but the problem and the trials.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Sequence
from typing import TypeAlias

from autotune.strategy import Draw, Exhausted, Problem, Proposal, Strategy
from autotune.trial import Trial, TrialState

Plan: TypeAlias = Generator[Proposal, Trial, str]
"""Yields a proposal, is sent its trial, returns the reason for which it ends."""


class PlannedStrategy(Strategy):
    """A strategy that is a plan.

    A config that was tried before, the baseline included, is answered from the history at once, so that a plan never
    repeats itself. A trial that another worker is running is sent as it stands, without a measurement; the plan treats
    it like one that did not help and goes on, and takes it into account as soon as it is finished.
    """

    def __init__(self) -> None:
        self._replay: _Replay | None = None

    @abstractmethod
    def plan(self, problem: Problem) -> Plan:
        """The algorithm; must depend on nothing but ``problem`` and what it is sent."""

    def propose(self, problem: Problem, trials: Sequence[Trial], draw: Draw) -> Proposal | Exhausted:  # noqa: ARG002
        """Replay the history; what the plan asks for beyond it is the proposal."""
        replay = self._replay
        # The replay of the last call is kept only to save its time: at 500 ops and 200 trials a fresh one takes 0.5 s.
        if replay is None or not replay.continues(problem, trials):
            replay = _Replay(problem, self.plan(problem))
        answer = replay.advance(trials)
        self._replay = None if replay.speculated else replay
        return answer


class _Replay:
    """A plan, and how much of a history it has been sent."""

    def __init__(self, problem: Problem, plan: Plan) -> None:
        self.speculated = False
        self._problem = problem
        self._plan = plan
        self._read: list[Trial] = []
        self._by_fingerprint: dict[str, Trial] = {}
        self._answer: Proposal | Exhausted | None = None

    def continues(self, problem: Problem, trials: Sequence[Trial]) -> bool:
        """Whether ``trials`` begin with what was read already."""
        read = self._read
        return problem is self._problem and len(read) <= len(trials) and read == list(trials[: len(read)])

    def advance(self, trials: Sequence[Trial]) -> Proposal | Exhausted:
        """Send the plan what it asks for until it asks for something new."""
        fresh = trials[len(self._read) :]
        for trial in fresh:
            known = self._by_fingerprint.get(trial.config.fingerprint)
            if known is None or known.state is TrialState.RUNNING:
                self._by_fingerprint[trial.config.fingerprint] = trial
            self.speculated |= trial.state is TrialState.RUNNING
        self._read.extend(fresh)
        if self._answer is None:
            self._step(None)
        while isinstance(self._answer, Proposal):
            trial_or_none = self._by_fingerprint.get(self._answer.config.fingerprint)
            if trial_or_none is None:
                break
            self._step(trial_or_none)
        assert self._answer is not None
        return self._answer

    def _step(self, trial: Trial | None) -> None:
        try:
            self._answer = next(self._plan) if trial is None else self._plan.send(trial)
        except StopIteration as end:
            self._answer = Exhausted(reason=end.value)
