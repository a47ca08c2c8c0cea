"""Trials of a search: a config is applied and measured, and what came of it is recorded."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Generic

from optuna.samplers import RandomSampler

from autotune.adapter import Adapter, ModelT
from autotune.errors import DeadlineReached, TrialError, WorkspaceError
from autotune.evaluation import AnyEvaluator, Evaluation
from autotune.observer import Observer
from autotune.strategy import Proposal, Strategy
from autotune.trial import Trial, TrialState
from autotune.tuning.compilations import Compilations
from autotune.tuning.history import History, OpenTrial
from autotune.tuning.limits import Limits
from autotune.tuning.prices import Prices
from autotune.tuning.recorded import answers, describe, same_model
from autotune.tuning.selection import incumbent, led_by_another, next_rank, to_beat
from autotune.tuning.side import Side
from autotune.tuning.stopwatch import Stopwatch


class Trying(Generic[ModelT]):
    """Tries single configs; :class:`autotune.tuning.search.Search` decides which.

    Args:
        adapter: Makes the candidates.
        sides: The model on each runtime, and the problem that the strategy solves there; one of one framework.
        baseline: The one of them whose fp32 model is what candidates are compared with.
        evaluator: Measures the candidates.
        history: History that records the trials.
        strategy: Proposes the configs, for one side at a time.
        limits: Limits of the search.
        observer: Is told of every trial.
        stopwatch: Counts the time of each activity.
        on_best: Called with the candidate and its trial whenever a new best keeps the target.
        on_measured: Called with each candidate that was measured, its trial, and all trials so far, before ``on_best``.
        admit: Called with every candidate before it is measured; raises a :class:`TrialError` where it may not run.
        note: Told what the user should know.
    """

    def __init__(
        self,
        *,
        adapter: Adapter[ModelT],
        sides: Sequence[Side[ModelT]],
        baseline: Side[ModelT],
        evaluator: AnyEvaluator[ModelT],
        history: History,
        strategy: Strategy,
        limits: Limits,
        observer: Observer,
        stopwatch: Stopwatch,
        on_best: Callable[[ModelT, Trial], None],
        on_measured: Callable[[ModelT, Trial, Sequence[Trial]], None] = lambda _candidate, _trial, _trials: None,
        admit: Callable[[ModelT], None] = lambda _candidate: None,
        note: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._adapter = adapter
        self._sides = sides
        self._baseline = baseline
        self._evaluator = evaluator
        self._history = history
        self._strategy = strategy
        self._limits = limits
        self._observer = observer
        self._stopwatch = stopwatch
        self._on_best = on_best
        self._on_measured = on_measured
        self._admit = admit
        self._note = note
        self._doing = ""
        self._prices = {side.runtime: Prices() for side in sides}
        self._compilations = {
            side.runtime: Compilations(limits.max_compilations, limits.compilation_max_s) for side in sides
        }
        self._repeats: Counter[str | None] = Counter()
        self._objective = baseline.problem.objective
        self._criterion = baseline.problem.criterion
        self._seed = baseline.problem.seed

    def attempt(self, proposal: Proposal, side: Side[ModelT], model: Callable[[], ModelT]) -> None:
        """Try one config that no strategy has proposed, on the fp32 model that ``model`` makes as part of the trial.

        Raises:
            DeadlineReached: The time was up; the config counts as untried.
        """
        trials = self._history.trials
        opened = self._history.open(RandomSampler(seed=self._seed))
        self._history.start(opened, proposal.config, proposal.note)
        self._observer.trial_started(opened.number, proposal.config, proposal.note)
        with self._untried_on_failure(opened):
            with self._stopwatch("evaluate"):
                self._evaluator.prepare(deadline=self._limits.deadline)
            self._try(opened, trials, proposal, side, model)

    def _try(
        self,
        opened: OpenTrial,
        trials: Sequence[Trial],
        proposal: Proposal,
        side: Side[ModelT],
        model: Callable[[], ModelT] | None = None,
    ) -> None:
        """Apply and measure one config, and record what came of it."""
        started = time.monotonic()
        candidate: ModelT | None = None
        outcome: Evaluation | str
        try:
            base = side.model if model is None else model()
            with self._stopwatch("apply"):
                candidate = self._adapter.apply(base, proposal.config, side.statistics)
                self._prices[side.runtime].made(proposal.config, time.monotonic() - started)
                self._admit(candidate)
                earlier = self._history.identify(opened, candidate.fingerprint)
            if earlier is not None and answers(earlier, proposal):
                self._record(opened, same_model(opened.number, proposal, earlier, time.monotonic() - started))
                return
            led = not self._strategy.multi_objective and led_by_another(trials, self._objective, side.runtime)
            made = time.monotonic()
            with self._stopwatch("evaluate"):
                outcome = self._evaluator.evaluate(
                    candidate,
                    incumbent=to_beat(trials, self._objective),
                    needs_accuracy=proposal.needs_accuracy and not led,
                    rank=next_rank(trials),
                    deadline=self._limits.deadline,
                )
            compiled_s = outcome.compiled_s
            self._compilations[side.runtime].add(compiled_s)
            self._prices[side.runtime].evaluated(outcome.measurement, time.monotonic() - made - (compiled_s or 0.0))
        except (DeadlineReached, WorkspaceError):
            raise
        except Exception as error:  # any failure of a candidate is that candidate's: the run goes on without it
            self._compilations[side.runtime].add(error.compiled_s if isinstance(error, TrialError) else None)
            outcome = describe(error)
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
        if candidate is not None and not isinstance(outcome, str):
            self._hand_out(candidate, trial)

    def _hand_out(self, candidate: ModelT, trial: Trial) -> None:
        """Hand a measured candidate to the places that keep models."""
        known = self._history.trials
        self._on_measured(candidate, trial, known)
        new_best = incumbent(known, self._objective)
        if new_best is not None and new_best.number == trial.number:
            with self._stopwatch("save"):
                self._on_best(candidate, trial)

    def _record(self, opened: OpenTrial, trial: Trial) -> None:
        self._history.finish(opened, trial, self._objective, self._criterion.target)
        self._observer.trial_finished(trial, incumbent(self._history.trials, self._objective))

    @contextlib.contextmanager
    def _untried_on_failure(self, opened: OpenTrial) -> Iterator[None]:
        """Count a config as untried where the time, Ctrl-C, a full disk or the user's own code ends its trial."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(WorkspaceError):
                self._history.discard(opened)
            raise
