"""One run, from the model to the result."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Generic

from autotune.adapter import Adapter, ModelT, PortabilityCheck
from autotune.adapter.capabilities import given_model
from autotune.errors import DeadlineReached
from autotune.evaluation import LabelledData, UserFunction
from autotune.portability import require_portable
from autotune.results.result import TuningResult
from autotune.results.stored_config import read_config
from autotune.strategies import as_strategy
from autotune.strategy import Objective, Proposal, Strategy
from autotune.trial import Trial
from autotune.tuning.explanation import reserve_s
from autotune.tuning.finish import Finishing
from autotune.tuning.guests import GuestSearch
from autotune.tuning.history import History
from autotune.tuning.last_resort import train_where_missed
from autotune.tuning.limits import Limits, SearchEnd
from autotune.tuning.models import Models
from autotune.tuning.posed import ForAccuracy, ForThroughput
from autotune.tuning.preparing import Preparing
from autotune.tuning.retarget import KNOWN, known_configs
from autotune.tuning.search import Search
from autotune.tuning.selection import tried
from autotune.tuning.setup import Setup
from autotune.tuning.stages import Stages
from autotune.tuning.warm_start import WarmStart, untrained
from autotune.watching import Log, Several

if TYPE_CHECKING:
    from autotune.tuning.tuner import Tuner

_TIMED_AGAIN = 5
"""Configs that are timed before the search, where only their accuracy is known."""

_RESERVE_SHARE = 0.2
"""The largest share of the time given to the run that is reserved for what follows the search."""


def posed(strategy: Strategy, tuner: Tuner) -> Strategy:
    """A strategy that sees a problem it knows, where the objective is one that strategies do not know."""
    if tuner.constraints is not None:
        return ForAccuracy(strategy, tuner.constraints)
    return ForThroughput(strategy) if tuner.objective == Objective.THROUGHPUT else strategy


class Run(Generic[ModelT]):
    """One call of ``tune``: its stages in their order, of each of which the observer is notified and the time counted.

    Args:
        tuner: The options.
        adapter: The framework's adapter.
        source: Source of the accuracy: a user's function, or metrics over data.
        joins: Whether it takes part in the study of another run, which alone writes models.
    """

    def __init__(
        self, tuner: Tuner, adapter: Adapter[ModelT], source: UserFunction | LabelledData, *, joins: bool = False
    ) -> None:
        self._tuner = tuner
        self._adapter = adapter
        self._source = source
        self._strategy = posed(as_strategy(tuner.strategy, tuner.strategy_options), tuner)
        self._stages = Stages(Several([Log(), tuner.observer]), tuner.timeout_s)
        workspace = None if tuner.workspace is None or joins else Path(tuner.workspace)
        self._models = Models(adapter, tuner.criterion, workspace)
        self._prepare = Preparing(
            tuner,
            adapter,
            source,
            multi_objective=self._strategy.multi_objective,
            stages=self._stages,
            joins=joins,
        )
        self._finish = Finishing(tuner, adapter, source, self._stages, self._models)
        self._start: WarmStart[ModelT] | None = None

    def __call__(self, source: object, loader: Iterable[object]) -> TuningResult:
        """Tune the model that ``source`` is; the arguments are those of :meth:`autotune.Tuner.tune`."""
        if self._tuner.start_from is not None:
            # Before anything is opened: it may be the workspace that is made anew.
            stored = read_config(self._tuner.start_from, self._tuner.framework)
            self._start = WarmStart(untrained(stored), self._stages, self._tuner.framework)
        with contextlib.closing(self._prepare):
            try:
                setup = self._prepare(source, loader)
            except DeadlineReached:
                return self._unmeasured()
            with contextlib.closing(setup.evaluator):
                return self._run(setup)

    def take_part(self, source: object, loader: Iterable[object]) -> SearchEnd:
        """Try candidates of the study until none is left, and say why it ended; the finals are the other run's."""
        with contextlib.closing(self._prepare):
            try:
                setup = self._prepare(source, loader)
                with contextlib.closing(setup.evaluator):
                    guest = setup.history.elsewhere and setup.objective is Objective.LATENCY
                    search = self._search(setup, GuestSearch if guest else Search)
                    self._stages.begin("baseline")
                    self._baseline(setup, search)
                    self._stages.begin("search")
                    return search.run()
            except DeadlineReached:
                return SearchEnd(reason=self._stages.timetable.end_reason(), timed_out=True)

    def _search(self, setup: Setup[ModelT], kind: type[Search[ModelT]] = Search) -> Search[ModelT]:
        return kind(
            adapter=self._adapter,
            sides=setup.sides,
            baseline=setup.baseline,
            evaluator=setup.evaluator,
            history=setup.history,
            strategy=self._strategy,
            limits=Limits(
                max_trials=self._tuner.max_trials,
                deadline=self._stages.deadline,
                max_compilations=self._tuner.max_compilations,
                compilation_max_s=self._tuner.compilation_max_s,
            ),
            observer=self._stages.observer,
            stopwatch=self._stages.stopwatch,
            on_best=self._models.keep_best,
            on_measured=partial(self._models.keep_for_finals, objective=setup.objective),
            admit=self._admit,
            note=self._stages.note,
        )

    def _run(self, setup: Setup[ModelT]) -> TuningResult:
        search = self._search(setup)
        try:
            self._stages.begin("baseline")
            baseline = self._baseline(setup, search)
            self._stages.begin("search")
        except DeadlineReached:
            # A run that continues knows its fp32 model, and what was found before.
            if not setup.history.trials:
                return self._unmeasured()
            return self._finish(setup, self._timed_out(setup, SearchEnd(reason=self._stages.timetable.end_reason())))
        end = self._try_first(setup, search) or search.run(reserve_s=self._reserve_s(baseline))
        end = self._train(setup, search, end)
        self._note_preparation(setup.history)
        return self._finish(setup, self._timed_out(setup, end), self._start)

    def _baseline(self, setup: Setup[ModelT], search: Search[ModelT]) -> Trial:
        """The trial of fp32, on the data on which all others were evaluated."""
        baseline = search.baseline()
        if self._tuner.workspace is not None or self._tuner.storage is not None:
            setup.history.require_evaluated_on(setup.evaluator.data_fingerprint)
        return baseline

    def _try_first(self, setup: Setup[ModelT], search: Search[ModelT]) -> SearchEnd | None:
        """Try what earlier runs have found, in this workspace or elsewhere; the end of the search where that is one."""
        try:
            if self._start is not None:
                self._start.attempt(setup, search)
            self._time_again(setup, search)
        except DeadlineReached:
            return SearchEnd(
                reason="timeout: the time is up, while the config of an earlier run was tried", timed_out=True
            )
        except KeyboardInterrupt:
            return SearchEnd(reason="interrupted by the user", interrupted=True)
        if self._start is None:
            return None
        found = self._start.outcome(setup.history.trials, setup.objective)
        if found.confirmed and self._tuner.stop_when_confirmed:
            return SearchEnd(reason=f"the config of {found.source} is confirmed, so that nothing else was tried")
        return None

    def _time_again(self, setup: Setup[ModelT], search: Search[ModelT]) -> None:
        """Time the configs that are known to keep the target, where models are executed otherwise than before."""
        for config in known_configs(setup.history.kept(KNOWN) or {})[:_TIMED_AGAIN]:
            trials = setup.history.trials
            full = self._tuner.max_trials is not None and tried(trials) >= self._tuner.max_trials
            side = next((each for each in setup.sides if each.runtime == config.runtime), None)
            if side is None or full or config.trained or any(trial.config == config for trial in trials):
                continue
            search.attempt(Proposal(config=config, note="its accuracy is known, its latency is not"), side, side.base)

    def _train(self, setup: Setup[ModelT], search: Search[ModelT], end: SearchEnd) -> SearchEnd:
        """Train where the search has missed the target, and return why all of it ended."""
        if self._tuner.train_fn is None or end.interrupted or end.timed_out:
            return end
        try:
            train_where_missed(setup, search, self._stages.note)
        except DeadlineReached:
            return SearchEnd(
                reason=f"{end.reason}; then the time was up before training had an outcome", timed_out=True
            )
        except KeyboardInterrupt:
            return SearchEnd(reason=f"{end.reason}; then interrupted by the user in training", interrupted=True)
        return end

    def _note_preparation(self, history: History) -> None:
        """Say what of the speed is owed to preparation, which is no merit of any quantization."""
        for prepared in history.trials:
            if not prepared.config.prepared or prepared.speedup is None:
                continue
            runtime = prepared.config.runtime
            on, than = ("", "model that was given") if runtime is None else (f" on {runtime}", "baseline")
            self._stages.note(
                f"Preparation alone{on}, before any op is quantized, runs {prepared.speedup:.2f}x as fast as the "
                f"{than} (trial {prepared.number})"
            )

    def _unmeasured(self) -> TuningResult:
        assert self._prepare.loaded is not None
        # Whether it executes otherwise than what was prepared of it takes two sessions to tell, and the time is up.
        return self._finish.unmeasured(given_model(self._adapter, self._prepare.loaded), self._prepare.space)

    def _timed_out(self, setup: Setup[ModelT], end: SearchEnd) -> SearchEnd:
        """The same end, with what to raise where the time was up before anything was tried."""
        if end.timed_out and len(setup.history.trials) < 2:
            return dataclasses.replace(end, reason=self._stages.timetable.end_reason())
        return end

    def _reserve_s(self, baseline: Trial) -> float:
        """Seconds kept for seeing the samples that a winner accepted early was spared, and for figures of single ops.

        The first take about what fp32 itself took.
        """
        stored = self._tuner.workspace is not None or self._tuner.storage is not None
        figures_s = reserve_s(self._tuner.timeout_s) if stored else 0.0
        streamed = isinstance(self._source, LabelledData) and self._source.early_acceptance
        if not streamed or self._tuner.timeout_s is None:
            return figures_s
        return figures_s + min(baseline.duration_s or 0.0, self._tuner.timeout_s * _RESERVE_SHARE)

    def _admit(self, candidate: ModelT) -> None:
        if self._tuner.portable:
            risk = self._adapter.saturating_ops(candidate) if isinstance(self._adapter, PortabilityCheck) else ()
            require_portable(risk)
