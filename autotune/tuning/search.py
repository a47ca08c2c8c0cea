"""The tuner loop: propose, apply, measure, record."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Generic

import numpy as np
from optuna.samplers import BaseSampler, RandomSampler

from autotune.adapter import Adapter, ModelT, Statistics
from autotune.config import QuantizationConfig
from autotune.errors import DeadlineReached, WorkspaceError
from autotune.evaluation import AnyEvaluator, Evaluation
from autotune.observer import Observer
from autotune.strategy import Exhausted, Objective, Problem, Proposal, Strategy
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.compilations import Compilations, no_gain
from autotune.tuning.history import History, OpenTrial
from autotune.tuning.limits import Limits, SearchEnd
from autotune.tuning.preparation import PREPARATION, in_terms_of_prepared
from autotune.tuning.prices import Prices
from autotune.tuning.selection import incumbent, next_rank
from autotune.tuning.stopwatch import Stopwatch

_WORTH_A_TRIAL = 1.05
"""Speedup of preparation from which its accuracy is worth an evaluation; below it is no answer of its own."""

MAX_REPEATS = 20
"""Proposals in a row that are no new config, after which a strategy counts as exhausted."""


class Search(Generic[ModelT]):
    """Runs trials until the strategy is exhausted, a limit is reached or the user stops it.

    Args:
        adapter: Makes the candidates.
        model: The fp32 model.
        statistics: Of its calibration.
        evaluator: Measures the candidates.
        history: Where trials are recorded.
        problem: What the strategy works on.
        strategy: Proposes the configs.
        limits: When to end at the latest.
        observer: Is told of every trial.
        stopwatch: Counts the time of each activity.
        on_best: Called with the candidate and its trial whenever a new best keeps the target.
        on_measured: Called with each candidate that was measured, its trial, and all trials so far, before ``on_best``.
        admit: Called with every candidate before it is measured; raises a :class:`TrialError` where it may not run.
        given: The user's model, which the baseline measures, where it executes otherwise than ``model``: that one is
            then a candidate by itself, before any op is quantized.
    """

    def __init__(
        self,
        *,
        adapter: Adapter[ModelT],
        model: ModelT,
        statistics: Statistics,
        evaluator: AnyEvaluator[ModelT],
        history: History,
        problem: Problem,
        strategy: Strategy,
        limits: Limits,
        observer: Observer,
        stopwatch: Stopwatch,
        on_best: Callable[[ModelT, Trial], None],
        on_measured: Callable[[ModelT, Trial, Sequence[Trial]], None] = lambda _candidate, _trial, _trials: None,
        admit: Callable[[ModelT], None] = lambda _candidate: None,
        given: ModelT | None = None,
    ) -> None:
        self._adapter = adapter
        self._model = model
        self._statistics = statistics
        self._evaluator = evaluator
        self._history = history
        self._problem = problem
        self._strategy = strategy
        self._limits = limits
        self._observer = observer
        self._stopwatch = stopwatch
        self._on_best = on_best
        self._on_measured = on_measured
        self._admit = admit
        self._given = given
        self._doing = ""
        self._prices = Prices()
        self._compilations = Compilations(limits.max_compilations, limits.compilation_max_s)

    def baseline(self) -> Trial:
        """Measure the fp32 model as trial 0, unless the history has it already.

        Raises:
            Exception: Whatever the user's own ``eval_fn`` raises, unchanged.
            DeadlineReached: The time was up; the history has no trial then, so that the next run begins with this one.
        """
        trials = self._history.trials
        if trials and trials[0].measurement is not None:
            with self._stopwatch("evaluate"):
                self._evaluator.resume(trials[0].measurement, deadline=self._limits.deadline)
                return self._completed(trials[0], trials[0].measurement)
        opened = self._history.open(RandomSampler(seed=self._problem.seed))
        config = QuantizationConfig()
        self._history.start(opened, config, "fp32 baseline")
        self._history.identify(opened, (self._given or self._model).fingerprint)
        self._observer.trial_started(opened.number, config, "fp32 baseline")
        started = time.monotonic()
        with self._untried_on_failure(opened), self._stopwatch("evaluate"):
            measurement = self._evaluator.baseline(deadline=self._limits.deadline)
        trial = Trial(
            number=opened.number,
            config=config,
            state=TrialState.COMPLETED,
            measurement=measurement,
            duration_s=time.monotonic() - started,
            note="fp32 baseline",
        )
        self._record(opened, trial)
        return trial

    def _completed(self, baseline: Trial, measured: Measurement) -> Trial:
        """The baseline of an earlier run with what its deadline cut off."""
        whole = self._evaluator.complete_baseline(measured, deadline=self._limits.deadline)
        if whole == measured:
            return baseline
        revised = dataclasses.replace(baseline, measurement=whole)
        self._history.revise(revised)
        return revised

    def run(self, *, reserve_s: float = 0.0) -> SearchEnd:
        """Run trials until there is a reason to end; Ctrl-C is one.

        Args:
            reserve_s: Seconds before the deadline that are kept for what follows the search.
        """
        if self._limits.deadline is not None:
            self._limits = dataclasses.replace(self._limits, deadline=self._limits.deadline - reserve_s)
        try:
            self._try_preparation()
            return self._given_up() or self._run()
        except KeyboardInterrupt:
            return SearchEnd(reason="interrupted by the user", interrupted=True)
        except DeadlineReached:
            return SearchEnd(reason=f"timeout: the time is up{self._doing}", timed_out=True)

    def _given_up(self) -> SearchEnd | None:
        """The end where candidates would be compiled for their speed, and that gains nothing; recorded as a trial."""
        if self._problem.objective is not Objective.LATENCY:
            return None
        self._doing = ", while one candidate was compiled to see whether that pays"
        space, statistics, evaluator = self._problem.space, self._statistics, self._evaluator
        deadline, started = self._limits.deadline, time.monotonic()
        with self._stopwatch("evaluate"):
            found = no_gain(self._adapter, self._model, space, statistics, evaluator, self._history, deadline=deadline)
        if found is None:
            return None
        if found.measured is not None:
            opened, note = self._history.open(RandomSampler(seed=self._problem.seed)), "compiled to see whether it pays"
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

    def _try_preparation(self) -> None:
        """Make the prepared model a trial where it is faster by itself than the user's.

        It computes what the user's does, so that its accuracy is evaluated only where its speed is worth it.
        """
        objective = self._problem.objective
        if self._given is None or objective is not Objective.LATENCY or self._history.kept(PREPARATION) is not None:
            return
        try:
            self._measure_preparation()
        except (DeadlineReached, WorkspaceError):
            raise
        except Exception as error:  # a candidate's failure is that candidate's, here as in any trial
            self._observer.note(f"The prepared model could not be measured by itself: {_describe(error)}")

    def _measure_preparation(self) -> None:
        config, note = QuantizationConfig(prepared=True), "preparation alone"
        trials = self._history.trials
        opened = self._history.open(RandomSampler(seed=self._problem.seed))
        started = time.monotonic()
        with self._untried_on_failure(opened):
            with self._stopwatch("apply"):
                candidate = self._adapter.apply(self._model, config, self._statistics)
                self._admit(candidate)
                self._history.identify(opened, candidate.fingerprint)
            with self._stopwatch("evaluate"):
                self._evaluator.prepare(deadline=self._limits.deadline)
                found = self._evaluator.evaluate(
                    candidate,
                    incumbent=self._fastest(trials),
                    rank=next_rank(trials),
                    worth_from=_WORTH_A_TRIAL,
                    deadline=self._limits.deadline,
                )
            self._history.keep(PREPARATION, found.measurement.speedup)
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

    @contextlib.contextmanager
    def _untried_on_failure(self, opened: OpenTrial) -> Iterator[None]:
        """Let a config count as untried where the time, Ctrl-C, a full disk or the user's own code ends its trial."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(WorkspaceError):
                self._history.discard(opened)
            raise

    def _run(self) -> SearchEnd:
        repeats = 0
        while True:
            trials = self._history.trials
            shown = in_terms_of_prepared(trials)
            self._doing = ""
            if end := self._limits.reached(len(shown) - 1):
                return end
            if reason := self._compilations.spent():
                return SearchEnd(reason=reason)
            self._doing = ", while the next candidate was planned"
            opened = self._history.open(self._sampler())
            with self._untried_on_failure(opened), self._stopwatch("propose"):
                proposal = self._strategy.propose(self._problem, shown, opened.draw)
            if isinstance(proposal, Exhausted):
                self._history.discard(opened)
                return SearchEnd(reason=proposal.reason)
            earlier = next((trial for trial in trials if trial.config == proposal.config), None)
            if earlier is not None:
                self._history.repeat(opened, earlier, self._problem.objective, self._problem.criterion.target)
                repeats += 1
                if repeats >= MAX_REPEATS:
                    return SearchEnd(reason=f"exhausted: {MAX_REPEATS} proposals in a row were configs tried before")
                continue
            repeats = 0
            least_s = self._prices.least_s(proposal.config, trials[0]) + self._compilations.shortest_s
            if end := self._limits.too_late(least_s):
                self._history.discard(opened)
                return end
            self._doing = f", while trial {opened.number} was made and measured"
            self._history.start(opened, proposal.config, proposal.note)
            self._observer.trial_started(opened.number, proposal.config, proposal.note)
            with self._untried_on_failure(opened):
                with self._stopwatch("evaluate"):
                    self._evaluator.prepare(deadline=self._limits.deadline)
                self._try(opened, trials, proposal)

    def _sampler(self) -> BaseSampler:
        entropy = np.random.SeedSequence([self._problem.seed, self._history.next_number])
        seed = int(entropy.generate_state(1)[0])
        return self._strategy.sampler(self._problem, seed) or RandomSampler(seed=seed)

    def _try(self, opened: OpenTrial, trials: Sequence[Trial], proposal: Proposal) -> None:
        """Apply and measure one config, and record what came of it."""
        started = time.monotonic()
        candidate: ModelT | None = None
        outcome: Evaluation | str
        try:
            with self._stopwatch("apply"):
                candidate = self._adapter.apply(self._model, proposal.config, self._statistics)
                self._prices.made(proposal.config, time.monotonic() - started)
                self._admit(candidate)
                earlier = self._history.identify(opened, candidate.fingerprint)
            if earlier is not None and _answers(earlier, proposal):
                self._record(opened, _same(opened.number, proposal, earlier, time.monotonic() - started))
                return
            made = time.monotonic()
            with self._stopwatch("evaluate"):
                outcome = self._evaluator.evaluate(
                    candidate,
                    incumbent=self._fastest(trials),
                    needs_accuracy=proposal.needs_accuracy,
                    rank=next_rank(trials),
                    deadline=self._limits.deadline,
                )
            compiled_s = outcome.compiled_s
            self._compilations.add(compiled_s)
            self._prices.evaluated(outcome.measurement, time.monotonic() - made - (compiled_s or 0.0))
        except (DeadlineReached, WorkspaceError):
            raise
        except Exception as error:  # any failure of a candidate is that candidate's: the run goes on without it
            outcome = _describe(error)
        failed = isinstance(outcome, str)
        trial = Trial(
            number=opened.number,
            config=proposal.config,
            state=TrialState.FAILED if isinstance(outcome, str) else outcome.state,
            measurement=None if isinstance(outcome, str) else outcome.measurement,
            reason=outcome if isinstance(outcome, str) else outcome.reason,
            duration_s=time.monotonic() - started,
            note=proposal.note,
        )
        self._record(opened, trial)
        if candidate is not None and not failed:
            self._hand_out(candidate, trial)

    def _hand_out(self, candidate: ModelT, trial: Trial) -> None:
        """Give a measured candidate to whoever keeps it."""
        known = self._history.trials
        self._on_measured(candidate, trial, known)
        new_best = incumbent(known, self._problem.objective)
        if new_best is not None and new_best.number == trial.number:
            with self._stopwatch("save"):
                self._on_best(candidate, trial)

    def _fastest(self, trials: Sequence[Trial]) -> Measurement | None:
        """What a candidate must beat to be worth an accuracy evaluation; None where speed is not the objective.

        The fp32 model is one of those to beat.
        """
        if self._problem.objective is not Objective.LATENCY:
            return None
        best = incumbent(trials, self._problem.objective)
        return None if best is None else best.measurement

    def _record(self, opened: OpenTrial, trial: Trial) -> None:
        self._history.finish(opened, trial, self._problem.objective, self._problem.criterion.target)
        self._observer.trial_finished(trial, incumbent(self._history.trials, self._problem.objective))


def _answers(earlier: Trial, proposal: Proposal) -> bool:
    """Whether what is known of an earlier trial of the same model is all that a proposal asks for."""
    if earlier.state is TrialState.RUNNING:
        return False
    measured = earlier.measurement
    return not proposal.needs_accuracy or measured is None or (measured.loss is not None and measured.complete)


def _same(number: int, proposal: Proposal, earlier: Trial, duration_s: float) -> Trial:
    """What is recorded of a config that makes the same model, scales included, as an earlier one."""
    return dataclasses.replace(
        earlier,
        number=number,
        config=proposal.config,
        duration_s=duration_s,
        note=f"{proposal.note} (the same model as trial {earlier.number})".strip(),
        params={},
        same_as=earlier.number if earlier.same_as is None else earlier.same_as,
    )


def _describe(error: Exception) -> str:
    """One line that says what failed; ours speak for themselves, others are named by their type."""
    cause = error.__cause__
    lines = str(error).strip().splitlines()
    first = lines[0] if lines else ""
    text = first if type(error).__module__.startswith("autotune") else f"{type(error).__name__}: {first}"
    if cause is not None and str(cause) not in text:
        text += f" ({type(cause).__name__}: {cause})"
    return text[:500]
