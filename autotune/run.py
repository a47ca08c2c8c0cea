"""One run, from the model to the result."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from autotune import data
from autotune.adapter import (
    Adapter,
    Array,
    DataDependentSpace,
    Execution,
    Feeds,
    ModelT,
    PortabilityCheck,
    Preparation,
    TensorSpec,
)
from autotune.answer import Answer, provisional, settle
from autotune.batch import axes_of
from autotune.calibration import CalibrationStatistics
from autotune.calls import latency_calls, told_batch_axes
from autotune.config import QuantizationConfig
from autotune.criterion import Verdict
from autotune.errors import DeadlineReached, TrialError, WorkspaceError
from autotune.evaluation import AnyEvaluator, Evaluator, IsolatedEvaluator, Isolation, LabelledData, UserFunction
from autotune.history import SETUP, SUMMARY, History
from autotune.host import current_host
from autotune.insights import MeasuredInsights
from autotune.portability import portable_space, require_portable, saturation_note
from autotune.result import NEAREST, TuningResult
from autotune.search import Limits, Search, SearchEnd
from autotune.selection import Conclusion, finalists
from autotune.space import TuningSpace
from autotune.stopwatch import Stopwatch
from autotune.strategies import as_strategy
from autotune.strategy import Objective, Problem
from autotune.timetable import Timetable
from autotune.trial import Measurement, Trial, TrialState

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
        self._timetable = Timetable(tuner.timeout_s)
        self._deadline = self._timetable.deadline
        self._strategy = as_strategy(tuner.strategy, tuner.strategy_options)
        self._notes: list[str] = []
        self._loaded: ModelT | None = None
        self._space: TuningSpace | None = None
        self._best: tuple[QuantizationConfig, ModelT] | None = None
        self._finalists: dict[QuantizationConfig, ModelT] = {}

    def __call__(self, source: object, loader: Iterable[object]) -> TuningResult:
        """Tune the model that ``source`` is; the arguments are those of :meth:`autotune.Tuner.tune`."""
        try:
            setup = self._prepare(source, loader)
        except DeadlineReached:
            return self._unmeasured()
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
        try:
            self._begin("baseline")
            baseline = search.baseline()
            self._begin("search")
        except DeadlineReached:
            # A run that continues knows its fp32 model, and what was found before.
            if not setup.history.trials:
                return self._unmeasured()
            return self._finish(setup, self._timed_out(setup, SearchEnd(reason=self._timetable.end_reason())))
        end = search.run(reserve_s=self._reserve_s(baseline))
        self._note_preparation(setup.history)
        return self._finish(setup, self._timed_out(setup, end))

    def _note_preparation(self, history: History) -> None:
        """Say what of the speed is owed to preparation, which is no merit of any quantization."""
        prepared = next((trial for trial in history.trials if trial.config.prepared), None)
        if prepared is not None and prepared.speedup is not None:
            self._note(
                f"Preparation alone, before any op is quantized, runs {prepared.speedup:.2f}x as fast as the model "
                f"that was given (trial {prepared.number})"
            )

    def _begin(self, stage: str) -> None:
        """Called before each stage but the first.

        Raises:
            DeadlineReached: There is no time left for it.
        """
        self._observer.phase(stage)
        self._timetable.begin(stage)

    def _timed_out(self, setup: _Setup[ModelT], end: SearchEnd) -> SearchEnd:
        """The same end, with what to raise where the time was up before anything was tried."""
        if end.timed_out and len(setup.history.trials) < 2:
            return dataclasses.replace(end, reason=self._timetable.end_reason())
        return end

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
            model = self._loaded = self._adapter.load(source)
            if isinstance(self._adapter, Preparation):
                feeds = (batch.feeds for batch in self._calibration_batches(model, loader))
                model = self._adapter.on_data(model, feeds)
            model, note = told_batch_axes(
                self._adapter, model, loader, self._tuner.batch_axis, self._tuner.batch_size, self._execution
            )
            (given, differs), axes = self._as_given(model), axes_of(model)
            offered = self._adapter.space(model)
            space = self._tuner.restriction.apply(portable_space(offered) if self._tuner.portable else offered)
            self._space = space
            batches = data.iterate(loader, model.inputs, axes=axes)
            calls = latency_calls(batches, model.inputs, axes, self._tuner.batch_size)
            kept = self._workspace is not None or self._tuner.storage is not None
            fingerprint = data.fingerprint(self._calibration_batches(model, loader)) if kept else ""
        self._note(*model.notes, *([] if note is None else [note]), calls.note)
        if not space.tunable:
            self._note("No op of this model can be quantized here")
        # What executes alike has one name, so that a workspace from before there was a difference goes on.
        names = dict.fromkeys((given.fingerprint, model.fingerprint) if differs else (model.fingerprint,))
        history = self._open_history("-".join(names), space, fingerprint)
        statistics = self._calibrate(model, loader, fingerprint)
        if isinstance(self._adapter, DataDependentSpace):
            space, ruled_out = self._adapter.calibrated_space(space, model, statistics)
            self._note(*ruled_out)
        batches = data.limit(data.iterate(loader, model.inputs, axes=axes), _INSIGHT_SAMPLES)
        insights = MeasuredInsights(
            adapter=self._adapter,
            model=model,
            space=space,
            statistics=statistics,
            feeds=[batch.feeds for batch in batches],
            latency_feeds=calls.typical,
            execution=self._execution,
            history=history,
            stopwatch=self._stopwatch,
            timeout_s=self._tuner.timeout_s,
            deadline=self._deadline,
        )
        return _Setup(
            given=given,
            model=model,
            differs=differs,
            statistics=statistics,
            evaluator=self._evaluator(given, calls.feeds),
            history=history,
            problem=Problem(
                space=space,
                criterion=self._tuner.criterion,
                objective=Objective(self._tuner.objective),
                seed=self._tuner.seed,
                insights=insights,
            ),
        )

    @property
    def _execution_identity(self) -> str:
        """How models are executed, as the history says it."""
        named = "" if self._tuner.batch_axis is None else f" along {self._tuner.batch_axis}"
        return f"{self._tuner.threads} threads, batch {self._tuner.batch_size}{named}"

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
            "execution": self._execution_identity,
            "host": current_host().fingerprint,
        }
        storage = self._tuner.storage or self._workspace
        history = History(storage, identity, multi_objective=self._strategy.multi_objective)
        about = {"criterion": asdict(self._tuner.criterion), "objective": str(self._tuner.objective)}
        history.keep(SETUP, {**about, "op_types": _op_types(space)})
        return history

    def _calibration_batches(self, model: ModelT, loader: Iterable[object]) -> Iterable[data.Batch]:
        """The batches to calibrate on, read anew at each call so that memory does not grow with their number."""
        batches = data.iterate(loader, model.inputs, axes=axes_of(model))
        return self._timetable.watched(data.limit(batches, self._tuner.sampling_size))

    def _calibrate(self, model: ModelT, loader: Iterable[object], fingerprint: str) -> CalibrationStatistics:
        """The statistics of this model on this data, from the workspace where they are there."""
        self._begin("calibrate")
        cached = None
        if self._workspace is not None:
            cached = self._workspace / "cache" / f"statistics-{model.fingerprint}-{fingerprint}.npz"
            if cached.is_file():
                return CalibrationStatistics.load(cached)
        with self._stopwatch("calibrate"):
            batches = self._timetable.shortened(self._calibration_batches(model, loader))
            feeds = (batch.feeds for batch in batches)
            statistics = self._adapter.calibrate(model, feeds, seed=self._tuner.seed)
            if batches.cut:
                self._note(
                    f"Calibration read {batches.samples} samples only: more would have taken too large a part of the "
                    f"{self._tuner.timeout_s:g} s given to the run"
                )
            if cached is not None:
                cached.parent.mkdir(parents=True, exist_ok=True)
                statistics.save(cached)
        return statistics

    def _as_given(self, model: ModelT) -> tuple[ModelT, bool]:
        """The user's model, which is the baseline, and whether it executes otherwise than what was prepared of it."""
        if not isinstance(self._adapter, Preparation):
            return model, False
        return self._adapter.as_given(model), self._adapter.executes_another_graph(model)

    def _evaluator(self, model: ModelT, feeds: Sequence[Feeds]) -> AnyEvaluator[ModelT]:
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
            "on_progress": self._progressed,
        }
        if tuner.isolation == Isolation.PROCESS:
            return IsolatedEvaluator(isolation=tuner.isolation_options, **options)
        return Evaluator(**options)

    def _progressed(self, done: int, total: int | None) -> None:
        self._observer.progress(done, total)
        if self._timetable.stage == "baseline":
            self._timetable.progressed(done, total)

    def _admit(self, candidate: ModelT) -> None:
        if self._tuner.portable:
            require_portable(self._saturating(candidate))

    def _saturating(self, candidate: ModelT) -> Sequence[str]:
        return self._adapter.saturating_ops(candidate) if isinstance(self._adapter, PortabilityCheck) else ()

    def _keep(self, candidate: ModelT, trial: Trial) -> None:
        """Write the best model so far, so that it is there whatever happens next, and remember it."""
        self._best = (trial.config, candidate)
        self._write(candidate, trial, "best")

    def _write(self, candidate: ModelT, trial: Trial, name: str) -> None:
        if self._workspace is not None:
            self._adapter.save(candidate, self._workspace / f"{name}{self._adapter.suffix}", self._metadata(trial))

    def _finish(self, setup: _Setup[ModelT], end: SearchEnd) -> TuningResult:
        with self._stopwatch("finalists"):
            answer, end = self._conclude(setup, end)
        conclusion = answer.conclusion
        trials = setup.history.trials
        best = self._candidate(setup, conclusion.best)
        nearest = self._nearest(setup, conclusion.nearest)
        self._note(*(note for note in best.notes if note not in setup.model.notes))
        if setup.problem.criterion.confidence is not None and isinstance(self._source, UserFunction):
            self._note("`confidence` needs a metric: of what `eval_fn` returns nothing but the figure itself is known")
        self._observer.phase("save")
        with self._stopwatch("save"):
            self._keep(best, conclusion.best)
            self._drop_nearest()
            if nearest is not None:
                self._write(*nearest, NEAREST)
        self._finalists.clear()
        risk = self._saturating(best)
        if note := saturation_note(risk, current_host()):
            self._note(note)
        result = TuningResult(
            verdict=conclusion.verdict,
            best=conclusion.best,
            baseline=trials[0],
            reason=conclusion.reason,
            end_reason=end.reason,
            speed=conclusion.speed,
            nearest=conclusion.nearest,
            objective=setup.problem.objective,
            interrupted=end.interrupted,
            criterion=self._tuner.criterion,
            history=trials,
            op_types=_op_types(setup.problem.space),
            costly_ops=self._costly_ops(setup, conclusion, end),
            saturation_risk=risk,
            final=answer.final,
            holdout_uses=answer.holdout_uses,
            races=answer.races,
            notes=self._notes,
            seconds=self._stopwatch.seconds,
            host=str(current_host()),
            _run=self._runner(setup.model.inputs, best),
            _save=lambda path: self._adapter.save(best, path, self._metadata(conclusion.best)),
            _save_nearest=None if nearest is None else self._saver(*nearest),
        )
        setup.history.keep(SUMMARY, {**result.to_json(), "trials": len(trials)})
        return result

    def _unmeasured(self) -> TuningResult:
        """The answer where the time was up before the fp32 model was measured: that model, and what to raise."""
        assert self._loaded is not None
        model, _ = self._as_given(self._loaded)
        trial = Trial(
            number=0,
            config=QuantizationConfig(),
            state=TrialState.COMPLETED,
            measurement=Measurement(size_bytes=model.size_bytes),
            note="fp32, not measured",
        )
        end = self._timetable.end_reason()
        self._observer.phase("save")
        if self._workspace is not None:
            _require_writable(self._workspace)
            # A run that continues may have an answer from before.
            if not (self._workspace / f"best{self._adapter.suffix}").exists():
                self._keep(model, trial)
        objective = Objective(self._tuner.objective)
        return TuningResult(
            verdict=Verdict.UNDECIDED,
            best=trial,
            baseline=trial,
            reason="nothing was tried, and fp32 itself was not measured in the time given",
            end_reason=end,
            speed=Verdict.UNDECIDED if objective is Objective.LATENCY else None,
            objective=objective,
            criterion=self._tuner.criterion,
            history=[trial],
            op_types={} if self._space is None else _op_types(self._space),
            notes=self._notes,
            seconds=self._stopwatch.seconds,
            host=str(current_host()),
            _run=self._runner(model.inputs, model),
            _save=self._saver(model, trial),
        )

    def _runner(self, inputs: Sequence[TensorSpec], model: ModelT) -> Callable[[object], Array | tuple[Array, ...]]:
        """What runs a model on one batch of any form that a loader may yield."""
        runner = self._adapter.runner(model, self._execution)

        def run(batch: object) -> Array | tuple[Array, ...]:
            outputs = runner(data.as_feeds(batch, inputs, where="the batch"))
            return outputs[0] if len(outputs) == 1 else outputs

        return run

    def _saver(self, model: ModelT, trial: Trial) -> Callable[[Path], None]:
        return lambda path: self._adapter.save(model, path, self._metadata(trial))

    def _nearest(self, setup: _Setup[ModelT], trial: Trial | None) -> tuple[ModelT, Trial] | None:
        """The model to offer beside the answer; None where there is none, or it cannot be made a second time."""
        if trial is None:
            return None
        try:
            return self._candidate(setup, trial), trial
        except TrialError as error:
            self._note(f"Trial {trial.number}, the nearest candidate, could not be made again: {error}")
            return None

    def _drop_nearest(self) -> None:
        """Take away what an earlier run in the same workspace offered beside its answer."""
        if self._workspace is not None:
            for file in self._workspace.glob(f"{NEAREST}{self._adapter.suffix}*"):
                file.unlink()

    def _candidate(self, setup: _Setup[ModelT], trial: Trial) -> ModelT:
        if trial.config.is_fp32:
            return setup.given
        if self._best is not None and self._best[0] == trial.config:
            return self._best[1]
        # Finalists are raced, seen to the end, and one is the answer: made once, since making one takes seconds.
        if trial.config not in self._finalists:
            self._finalists[trial.config] = self._adapter.apply(setup.model, trial.config, setup.statistics)
        return self._finalists[trial.config]

    def _conclude(self, setup: _Setup[ModelT], end: SearchEnd) -> tuple[Answer, SearchEnd]:
        objective = setup.problem.objective
        if end.interrupted:
            return Answer(conclusion=provisional(setup.history.trials, objective)), end
        if finalists(setup.history.trials, objective):
            self._observer.phase("finalists")
        try:
            answer = settle(
                setup.history,
                setup.evaluator,
                lambda trial: self._candidate(setup, trial),
                objective,
                deadline=self._deadline,
                note=self._note,
            )
        except KeyboardInterrupt:
            interrupted = SearchEnd(reason=f"{end.reason}; then interrupted by the user", interrupted=True)
            return Answer(conclusion=provisional(setup.history.trials, objective)), interrupted
        return answer, end

    def _costly_ops(self, setup: _Setup[ModelT], conclusion: Conclusion, end: SearchEnd) -> Mapping[str, float]:
        """The ops whose quantization costs most, where candidates do not keep the target."""
        late = end.interrupted or (self._deadline is not None and time.monotonic() > self._deadline)
        if (
            conclusion.verdict is Verdict.MET
            or conclusion.nearest is None
            or (late and setup.history.kept("sensitivity") is None)
        ):
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
