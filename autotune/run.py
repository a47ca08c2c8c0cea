"""One run, from the model to the result."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from autotune import data
from autotune.adapter import Adapter, Array, Execution, Feeds, ModelT, PortabilityCheck, Preparation
from autotune.answer import provisional, settle
from autotune.calibration import CalibrationStatistics
from autotune.config import QuantizationConfig
from autotune.criterion import Verdict
from autotune.errors import DeadlineReached, TrialError, WorkspaceError
from autotune.evaluation import AnyEvaluator, Evaluator, IsolatedEvaluator, Isolation, LabelledData, UserFunction
from autotune.history import SETUP, SUMMARY, History
from autotune.host import current_host
from autotune.insights import MeasuredInsights
from autotune.portability import portable_space, require_portable, saturation_note
from autotune.result import TuningResult
from autotune.search import Limits, Search, SearchEnd
from autotune.selection import Conclusion, finalists
from autotune.space import TuningSpace
from autotune.stopwatch import Stopwatch
from autotune.strategies import as_strategy
from autotune.strategy import Objective, Problem
from autotune.trial import Measurement, Trial

if TYPE_CHECKING:
    from autotune.tuner import Tuner

_INSIGHT_SAMPLES = 8
_COSTLY_OPS = 5
_RESERVE_SHARE = 0.2
"""Of the time given to the run, the most that is kept back for what follows the search."""


@dataclass(frozen=True, kw_only=True)
class _Setup(Generic[ModelT]):
    """What a run works with once model and data are read: the user's model as it was given, and prepared.

    ``differs`` says whether the two execute differently.
    """

    given: ModelT
    model: ModelT
    differs: bool
    statistics: CalibrationStatistics
    evaluator: AnyEvaluator[ModelT]
    history: History
    problem: Problem


class Run(Generic[ModelT]):
    """One call of ``tune``: its stages in their order, each told to the observer and counted by the stopwatch.

    Args:
        tuner: The options.
        adapter: Of the framework.
        source: Where accuracy comes from.
    """

    def __init__(self, tuner: Tuner, adapter: Adapter[ModelT], source: UserFunction | LabelledData) -> None:
        self._tuner = tuner
        self._adapter = adapter
        self._source = source
        self._execution = Execution(threads=tuner.threads)
        self._workspace = None if tuner.workspace is None else Path(tuner.workspace)
        self._observer = tuner.observer
        self._stopwatch = Stopwatch()
        self._deadline = None if tuner.timeout_s is None else time.monotonic() + tuner.timeout_s
        self._strategy = as_strategy(tuner.strategy, tuner.strategy_options)
        self._notes: list[str] = []
        self._best: tuple[QuantizationConfig, ModelT] | None = None
        self._finalists: dict[QuantizationConfig, ModelT] = {}

    def __call__(self, source: object, loader: Iterable[object]) -> TuningResult:
        """Tune the model that ``source`` is; the arguments are those of :meth:`autotune.Tuner.tune`."""
        setup = self._prepare(source, loader)
        with contextlib.closing(setup.evaluator):
            return self._run(setup)

    def _run(self, setup: _Setup[ModelT]) -> TuningResult:
        search = Search(
            adapter=self._adapter,
            model=setup.model,
            statistics=setup.statistics,
            evaluator=setup.evaluator,
            history=setup.history,
            problem=setup.problem,
            strategy=self._strategy,
            limits=Limits(max_trials=self._tuner.max_trials, deadline=self._deadline),
            observer=self._observer,
            stopwatch=self._stopwatch,
            on_best=self._keep,
            admit=self._admit,
            given=setup.given if setup.differs else None,
        )
        self._observer.phase("baseline")
        baseline = search.baseline()
        self._observer.phase("search")
        end = search.run(reserve_s=self._reserve_s(baseline))
        self._note_preparation(setup.history)
        return self._finish(setup, end)

    def _note_preparation(self, history: History) -> None:
        """Say what of the speed is owed to preparation, which is no merit of any quantization."""
        prepared = next((trial for trial in history.trials if trial.config.prepared), None)
        if prepared is not None and prepared.speedup is not None:
            self._note(
                f"Preparation alone, before any op is quantized, runs {prepared.speedup:.2f}x as fast as the model "
                f"that was given (trial {prepared.number})"
            )

    def _reserve_s(self, baseline: Trial) -> float:
        """Seconds kept for seeing the samples that a winner accepted early was spared: about what fp32 itself took."""
        streamed = isinstance(self._source, LabelledData) and self._source.early_acceptance
        if not streamed or self._tuner.timeout_s is None:
            return 0.0
        return min(baseline.duration_s or 0.0, self._tuner.timeout_s * _RESERVE_SHARE)

    def _prepare(self, source: object, loader: Iterable[object]) -> _Setup[ModelT]:
        self._observer.phase("load")
        with self._stopwatch("load"):
            data.require_repeatable(loader, "dataloader")
            model = self._adapter.load(source)
            first = data.first_batch(loader, model.inputs)
            if isinstance(self._adapter, Preparation):
                feeds = (batch.feeds for batch in self._calibration_batches(model, loader))
                model = self._adapter.on_data(model, feeds)
            given, differs = self._as_given(model)
            offered = self._adapter.space(model)
            space = self._tuner.restriction.apply(portable_space(offered) if self._tuner.portable else offered)
            kept = self._workspace is not None or self._tuner.storage is not None
            fingerprint = data.fingerprint(self._calibration_batches(model, loader)) if kept else ""
        self._note(*model.notes)
        if not space.tunable:
            self._note("No op of this model can be quantized here")
        # What executes alike has one name, so that a workspace from before there was a difference goes on.
        names = dict.fromkeys((given.fingerprint, model.fingerprint) if differs else (model.fingerprint,))
        history = self._open_history("-".join(names), space, fingerprint)
        statistics = self._calibrate(model, loader, fingerprint)
        latency_feeds = data.resize_batch(first.feeds, model.inputs, self._tuner.batch_size)
        insights = MeasuredInsights(
            adapter=self._adapter,
            model=model,
            space=space,
            statistics=statistics,
            feeds=[batch.feeds for batch in data.limit(data.iterate(loader, model.inputs), _INSIGHT_SAMPLES)],
            latency_feeds=latency_feeds,
            execution=self._execution,
            history=history,
            stopwatch=self._stopwatch,
        )
        return _Setup(
            given=given,
            model=model,
            differs=differs,
            statistics=statistics,
            evaluator=self._evaluator(given, latency_feeds),
            history=history,
            problem=Problem(
                space=space,
                criterion=self._tuner.criterion,
                objective=Objective(self._tuner.objective),
                seed=self._tuner.seed,
                insights=insights,
            ),
        )

    def _open_history(self, model: str, space: TuningSpace, calibration_data: str) -> History:
        """Open the study, and see that it is about this model, data, target and host."""
        if self._workspace is not None:
            _require_writable(self._workspace)
        identity = {
            "model": model,
            "space": hashlib.sha256(repr(space).encode()).hexdigest()[:16],
            "calibration data": calibration_data,
            "criterion": str(self._tuner.criterion),
            "objective": str(self._tuner.objective),
            "evaluation": self._source.identity,
            "execution": f"{self._tuner.threads} threads, batch {self._tuner.batch_size}",
            "host": current_host().fingerprint,
        }
        storage = self._tuner.storage or self._workspace
        history = History(storage, identity, multi_objective=self._strategy.multi_objective)
        about = {"criterion": asdict(self._tuner.criterion), "objective": str(self._tuner.objective)}
        history.keep(SETUP, {**about, "op_types": _op_types(space)})
        return history

    def _calibration_batches(self, model: ModelT, loader: Iterable[object]) -> Iterable[data.Batch]:
        """The batches to calibrate on, read anew at each call so that memory does not grow with their number."""
        return data.limit(data.iterate(loader, model.inputs), self._tuner.sampling_size)

    def _calibrate(self, model: ModelT, loader: Iterable[object], fingerprint: str) -> CalibrationStatistics:
        """The statistics of this model on this data, from the workspace where they are there."""
        self._observer.phase("calibrate")
        cached = None
        if self._workspace is not None:
            cached = self._workspace / "cache" / f"statistics-{model.fingerprint}-{fingerprint}.npz"
            if cached.is_file():
                return CalibrationStatistics.load(cached)
        with self._stopwatch("calibrate"):
            feeds = (batch.feeds for batch in self._calibration_batches(model, loader))
            statistics = self._adapter.calibrate(model, feeds, seed=self._tuner.seed)
            if cached is not None:
                cached.parent.mkdir(parents=True, exist_ok=True)
                statistics.save(cached)
        return statistics

    def _as_given(self, model: ModelT) -> tuple[ModelT, bool]:
        """The user's model, which is the baseline, and whether it executes otherwise than what was prepared of it."""
        if not isinstance(self._adapter, Preparation):
            return model, False
        return self._adapter.as_given(model), self._adapter.executes_another_graph(model)

    def _evaluator(self, model: ModelT, feeds: Feeds) -> AnyEvaluator[ModelT]:
        tuner = self._tuner
        options: dict[str, Any] = {
            "adapter": self._adapter,
            "model": model,
            "source": self._source,
            "criterion": tuner.criterion,
            "latency": tuner.latency_options,
            "feeds": feeds,
            "seed": tuner.seed,
            "cache": None if self._workspace is None else self._workspace / "cache",
            "on_progress": self._observer.progress,
        }
        if tuner.isolation == Isolation.PROCESS:
            return IsolatedEvaluator(isolation=tuner.isolation_options, **options)
        return Evaluator(**options)

    def _admit(self, candidate: ModelT) -> None:
        if self._tuner.portable:
            require_portable(self._saturating(candidate))

    def _saturating(self, candidate: ModelT) -> Sequence[str]:
        return self._adapter.saturating_ops(candidate) if isinstance(self._adapter, PortabilityCheck) else ()

    def _keep(self, candidate: ModelT, trial: Trial) -> None:
        """Write the best model so far, so that it is there whatever happens next, and remember it."""
        self._best = (trial.config, candidate)
        if self._workspace is not None:
            path = self._workspace / f"best{self._adapter.suffix}"
            self._adapter.save(candidate, path, self._metadata(trial))

    def _finish(self, setup: _Setup[ModelT], end: SearchEnd) -> TuningResult:
        with self._stopwatch("finalists"):
            conclusion, end = self._conclude(setup, end)
        trials = setup.history.trials
        best = self._candidate(setup, conclusion.best)
        self._note(*(note for note in best.notes if note not in setup.model.notes))
        with self._stopwatch("holdout"):
            final = None if end.interrupted else self._holdout(setup, best)
        self._observer.phase("save")
        with self._stopwatch("save"):
            self._keep(best, conclusion.best)
        self._finalists.clear()
        risk = self._saturating(best)
        if note := saturation_note(risk, current_host()):
            self._note(note)
        runner = self._adapter.runner(best, self._execution)
        inputs = setup.model.inputs

        def run(batch: object) -> Array | tuple[Array, ...]:
            outputs = runner(data.as_feeds(batch, inputs, where="the batch"))
            return outputs[0] if len(outputs) == 1 else outputs

        result = TuningResult(
            verdict=conclusion.verdict,
            best=conclusion.best,
            baseline=trials[0],
            reason=conclusion.reason,
            end_reason=end.reason,
            interrupted=end.interrupted,
            criterion=self._tuner.criterion,
            history=trials,
            op_types=_op_types(setup.problem.space),
            costly_ops=self._costly_ops(setup, conclusion, end),
            saturation_risk=risk,
            final=final,
            notes=self._notes,
            seconds=self._stopwatch.seconds,
            host=str(current_host()),
            _run=run,
            _save=lambda path: self._adapter.save(best, path, self._metadata(conclusion.best)),
        )
        setup.history.keep(SUMMARY, {**result.to_json(), "trials": len(trials)})
        return result

    def _candidate(self, setup: _Setup[ModelT], trial: Trial) -> ModelT:
        if trial.config.is_fp32:
            return setup.given
        if self._best is not None and self._best[0] == trial.config:
            return self._best[1]
        # Finalists are raced, seen to the end, and one is the answer: made once, since making one takes seconds.
        if trial.config not in self._finalists:
            self._finalists[trial.config] = self._adapter.apply(setup.model, trial.config, setup.statistics)
        return self._finalists[trial.config]

    def _conclude(self, setup: _Setup[ModelT], end: SearchEnd) -> tuple[Conclusion, SearchEnd]:
        objective = setup.problem.objective
        if end.interrupted:
            return provisional(setup.history.trials, objective), end
        if len(finalists(setup.history.trials, objective)) > 1:
            self._observer.phase("finalists")
        try:
            conclusion = settle(
                setup.history,
                setup.evaluator,
                lambda trial: self._candidate(setup, trial),
                objective,
                deadline=self._deadline,
                note=self._note,
            )
        except KeyboardInterrupt:
            interrupted = SearchEnd(reason=f"{end.reason}; then interrupted by the user", interrupted=True)
            return provisional(setup.history.trials, objective), interrupted
        return conclusion, end

    def _holdout(self, setup: _Setup[ModelT], best: ModelT) -> Measurement | None:
        try:
            return setup.evaluator.holdout(best, deadline=self._deadline)
        except DeadlineReached:
            self._note("The time was up before the best model could be measured on the data held out")
        except TrialError as error:
            self._note(f"The best model could not be measured on the data held out: {error}")
        return None

    def _costly_ops(self, setup: _Setup[ModelT], conclusion: Conclusion, end: SearchEnd) -> Mapping[str, float]:
        """The ops whose quantization costs most, where the target is not met."""
        late = end.interrupted or (self._deadline is not None and time.monotonic() > self._deadline)
        if conclusion.verdict is Verdict.MET or (late and setup.history.kept("sensitivity") is None):
            return {}
        ranked = sorted(setup.problem.insights.sensitivity().items(), key=lambda item: -item[1])
        return dict(ranked[:_COSTLY_OPS])

    def _metadata(self, trial: Trial) -> dict[str, str]:
        """What goes into a saved model: how it was made, what it was measured at, and where."""
        host = current_host()
        measured = trial.measurement or Measurement()
        return {
            "autotune:config": json.dumps(trial.config.to_json()),
            "autotune:measurement": json.dumps(measured.to_json()),
            "autotune:criterion": str(self._tuner.criterion),
            "autotune:host": json.dumps(host.to_json()),
            "autotune:version": host.packages.get("autotune-quantization", "uninstalled"),
        }

    def _note(self, *notes: str) -> None:
        for note in notes:
            self._notes.append(note)
            self._observer.note(note)


def _op_types(space: TuningSpace) -> dict[str, str]:
    return {op.name: op.op_type for op in space.ops}


def _require_writable(folder: Path) -> None:
    """See that files can be made in a folder, before hours are spent.

    Raises:
        WorkspaceError: They cannot.
    """
    probe = folder / ".autotune-probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise WorkspaceError(
            f"The workspace {folder} must be a folder that can be written, but {error.strerror or error}"
        ) from error
