"""The tuner loop: propose, apply, measure, record."""

from __future__ import annotations

import contextlib
import dataclasses
import time

import numpy as np
from optuna.samplers import BaseSampler, RandomSampler

from autotune.adapter import ModelT
from autotune.config import QuantizationConfig
from autotune.errors import DeadlineReached, WorkspaceError
from autotune.runtimes.probes import Probes
from autotune.runtimes.sampler import SideSampler
from autotune.runtimes.turns import Turns
from autotune.strategy import Exhausted, Objective, Proposal
from autotune.trial import Trial, TrialState
from autotune.tuning.baseline import BaselineTrial
from autotune.tuning.claims import TrialGivenUp
from autotune.tuning.compilations import no_gain
from autotune.tuning.limits import SearchEnd
from autotune.tuning.preparation import PREPARATION
from autotune.tuning.recorded import describe
from autotune.tuning.selection import next_rank, to_beat, tried
from autotune.tuning.side import Side
from autotune.tuning.trying import Trying

_WORTH_A_TRIAL = 1.05
"""Speedup of preparation from which its accuracy is worth an evaluation; below it is no answer of its own."""

MAX_REPEATS = 20
"""Proposals in a row that are no new config, after which a strategy counts as exhausted."""


class Search(Trying[ModelT]):
    """Runs trials until the strategy is exhausted, a limit is reached or the user stops it.

    The arguments are those of :class:`Trying`.
    """

    def baseline(self) -> Trial:
        """Measure the fp32 model as trial 0, unless the history has it or another run is about to.

        Raises:
            Exception: Whatever the user's own ``eval_fn`` raises, unchanged.
            DeadlineReached: The time was up; the history has no trial then, so that the next run begins with this one.
        """
        measure = BaselineTrial(
            self._evaluator,
            self._history,
            self._observer,
            record=self._record,
            fingerprint=self._baseline.given.fingerprint,
            seed=self._seed,
        )
        with self._stopwatch("evaluate"):
            return measure(self._limits.deadline)

    def run(self, *, reserve_s: float = 0.0) -> SearchEnd:
        """Run trials until there is a reason to end; Ctrl-C is one.

        Args:
            reserve_s: Seconds before the deadline that are kept for what follows the search.
        """
        if self._limits.deadline is not None:
            self._limits = dataclasses.replace(self._limits, deadline=self._limits.deadline - reserve_s)
        try:
            turns = self._turns()
            for side in turns.sides:
                self._try_preparation(side)
            return self._given_up() or self._run(turns)
        except KeyboardInterrupt:
            return SearchEnd(reason="interrupted by the user", interrupted=True)
        except DeadlineReached:
            return SearchEnd(reason=f"timeout: the time is up{self._doing}", timed_out=True)

    def _turns(self) -> Turns[ModelT]:
        """The sides in the order of their turns; what several of them can reach at best is measured first."""
        probes = Probes(
            self._adapter,
            self._evaluator,
            self._history,
            self._stopwatch,
            admit=self._admit,
            note=self._note,
            deadline=self._limits.deadline,
        )
        several = len(self._sides) > 1 and self._objective is Objective.LATENCY
        found = {side.runtime: probes(side) for side in self._sides} if several else {}
        return Turns(self._sides, found, self._objective, self._note)

    def _given_up(self) -> SearchEnd | None:
        """The end where candidates would be compiled for their speed, and that gains nothing; recorded as a trial.

        Where there are several runtimes, the probes of each say as much.
        """
        if self._objective is not Objective.LATENCY or len(self._sides) > 1:
            return None
        self._doing = ", while one candidate was compiled to see whether that pays"
        (side,), deadline, started = self._sides, self._limits.deadline, time.monotonic()
        with self._stopwatch("evaluate"):
            found = no_gain(self._adapter, side, self._evaluator, self._history, deadline=deadline)
        if found is None:
            return None
        if found.measured is not None:
            opened, note = self._history.open(RandomSampler(seed=self._seed)), "compiled to see whether it pays"
            self._history.start(opened, found.config, note)
            self._observer.trial_started(opened.number, found.config, note)
            trial = Trial(
                number=opened.number,
                config=found.config,
                state=TrialState.PRUNED,
                measurement=found.measured,
                reason=f"not faster than fp32: {found.measured.speedup:.2f}x",
                duration_s=time.monotonic() - started,
                note=note,
            )
            self._record(opened, trial)
        self._observer.note(found.reason)
        return SearchEnd(reason=found.reason)

    def _try_preparation(self, side: Side[ModelT]) -> None:
        """Make the prepared model a trial where it is faster by itself than the user's.

        It computes what the user's does, so that its accuracy is evaluated only where its speed is worth it.
        """
        key = side.history_key + PREPARATION
        if not side.differs or self._objective is not Objective.LATENCY or self._history.kept(key) is not None:
            return
        try:
            self._measure_preparation(side, key)
        except (DeadlineReached, WorkspaceError):
            raise
        except Exception as error:  # a candidate's failure is that candidate's, here as in any trial
            self._observer.note(f"The prepared model could not be measured by itself: {describe(error)}")

    def _measure_preparation(self, side: Side[ModelT], key: str) -> None:
        config, note = side.config(QuantizationConfig(prepared=True)), "preparation alone"
        trials = self._history.trials
        opened = self._history.open(RandomSampler(seed=self._seed))
        started = time.monotonic()
        with self._untried_on_failure(opened):
            self._history.claims.await_turn(opened.number, self._limits.deadline)
            if self._history.kept(key) is not None:
                self._history.discard(opened)  # another run was first
                return
            with self._stopwatch("apply"):
                candidate = self._adapter.apply(side.model, config, side.statistics)
                self._admit(candidate)
                self._history.identify(opened, candidate.fingerprint)
            with self._stopwatch("evaluate"):
                self._evaluator.prepare(deadline=self._limits.deadline)
                found = self._evaluator.evaluate(
                    candidate,
                    incumbent=to_beat(trials, self._objective),
                    rank=next_rank(trials),
                    worth_from=_WORTH_A_TRIAL,
                    deadline=self._limits.deadline,
                )
            self._history.keep(key, found.measurement.speedup)
            if found.measurement.loss is None:
                self._history.discard(opened)
                return
            self._history.start(opened, config, note)
            self._observer.trial_started(opened.number, config, note)
            trial = Trial(
                number=opened.number,
                config=config,
                state=found.state,
                measurement=found.measurement,
                reason=found.reason,
                duration_s=time.monotonic() - started,
                note=note,
            )
            self._record(opened, trial)
            self._hand_out(candidate, trial)

    def _run(self, turns: Turns[ModelT]) -> SearchEnd:
        while True:
            others = self._history.claims.release_dead()
            self._take_over()
            trials = self._history.trials
            self._doing = ""
            end = self._limits.reached(tried(trials))
            side = None if end else turns.next(trials)
            if end is None and side is None:
                end = SearchEnd(reason=turns.reason)
            if end is not None and (end.timed_out or not others):
                return end
            if side is None:
                # A trial of another run may end with its process, and is then this one's to try again.
                self._history.claims.await_change(self._limits.deadline)
                continue
            try:
                outcome = self._turn(side)
            except TrialGivenUp:
                self._note("A trial of this run was given up by another one, which took this one for dead")
                continue
            if isinstance(outcome, SearchEnd):
                return outcome
            if outcome is not None and (self._history.claims.release_dead() or self._history.handed):
                self._history.claims.await_change(self._limits.deadline)
            elif outcome is not None:
                turns.end(side, outcome.reason)

    def _take_over(self) -> None:
        """Time the configs that workers on other hosts have handed over, whose accuracy is known from there."""
        for handed in self._history.handed:
            side = next((each for each in self._sides if each.runtime == handed.config.runtime), self._baseline)
            opened = self._history.open(RandomSampler(seed=self._seed))
            self._doing = f", while trial {opened.number} was made and measured"
            with contextlib.suppress(TrialGivenUp), self._untried_on_failure(opened):
                self._history.claims.await_turn(opened.number, self._limits.deadline)
                if all(each.number != handed.number for each in self._history.handed):
                    self._history.discard(opened)  # another process of this host was first
                    continue
                trials = [trial for trial in self._history.trials if trial.number != handed.number]
                self._history.start(opened, handed.config, handed.note, taken_from=handed.number)
                self._observer.trial_started(opened.number, handed.config, handed.note)
                with self._stopwatch("evaluate"):
                    self._evaluator.prepare(deadline=self._limits.deadline)
                proposal = Proposal(config=handed.config, note=handed.note, needs_accuracy=handed.needs_accuracy)
                self._try(opened, trials, proposal, side)

    def _turn(self, side: Side[ModelT]) -> SearchEnd | Exhausted | None:
        """One proposal of the strategy for one side: a trial, or the end of the search or of the side's part of it."""
        if reason := self._compilations[side.runtime].spent():
            return Exhausted(reason=reason)
        self._doing = ", while the next candidate was planned"
        opened = self._history.open(self._sampler(side))
        with self._untried_on_failure(opened), self._stopwatch("propose"):
            self._history.claims.await_turn(opened.number, self._limits.deadline)
            trials = self._history.trials
            proposal = None
            if not self._limits.reached(tried(trials)):  # by what other runs have begun since
                proposal = self._strategy.propose(side.problem, side.shown(trials), side.draw(opened.draw))
        if proposal is None or isinstance(proposal, Exhausted):
            self._history.discard(opened)
            return proposal
        proposal = dataclasses.replace(proposal, config=side.config(proposal.config))
        fingerprint = proposal.config.fingerprint
        earlier = next((trial for trial in trials if trial.config.fingerprint == fingerprint), None)
        if earlier is not None:
            self._history.repeat(opened, earlier, self._objective, self._criterion.target)
            self._repeats[side.runtime] += 1
            if self._repeats[side.runtime] >= MAX_REPEATS:
                return Exhausted(reason=f"exhausted: {MAX_REPEATS} proposals in a row were configs tried before")
            return None
        self._repeats[side.runtime] = 0
        least_s = self._prices[side.runtime].least_s(proposal.config, trials[0])
        if end := self._limits.too_late(least_s + self._compilations[side.runtime].shortest_s):
            self._history.discard(opened)
            return end
        self._doing = f", while trial {opened.number} was made and measured"
        self._history.start(opened, proposal.config, proposal.note)
        self._observer.trial_started(opened.number, proposal.config, proposal.note)
        with self._untried_on_failure(opened):
            with self._stopwatch("evaluate"):
                self._evaluator.prepare(deadline=self._limits.deadline)
            self._try(opened, trials, proposal, side)
        return None

    def _sampler(self, side: Side[ModelT]) -> BaseSampler:
        entropy = np.random.SeedSequence([self._seed, self._history.begun])
        seed = int(entropy.generate_state(1)[0])
        sampler = self._strategy.sampler(side.problem, seed) or RandomSampler(seed=seed)
        return sampler if side.runtime is None else SideSampler(sampler, side.history_key)
