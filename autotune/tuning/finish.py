"""The steps after the search of a run: the finals, the model that is the answer, and the result."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic

from autotune.adapter import Adapter, Execution, ModelT, PortabilityCheck, TensorSpec, host_of
from autotune.config import QuantizationConfig
from autotune.criterion import Verdict
from autotune.errors import TrialError, WorkspaceError
from autotune.evaluation import LabelledData, UserFunction
from autotune.portability import saturation_note
from autotune.results.dashboard import write_dashboard
from autotune.results.result import TuningResult
from autotune.runtimes import RuntimeModel
from autotune.space import TuningSpace
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.answer import Answer, provisional, settle
from autotune.tuning.evidence import Evidence, keep_tensors
from autotune.tuning.explanation import Explanation, explanation_s, reserve_s
from autotune.tuning.history import SUMMARY
from autotune.tuning.insights import MEASURED_ALONE
from autotune.tuning.limits import SearchEnd
from autotune.tuning.models import Models
from autotune.tuning.selection import Conclusion, finalists
from autotune.tuning.setup import Setup, op_types
from autotune.tuning.side import SideHistory
from autotune.tuning.stages import Stages
from autotune.tuning.storage import require_writable
from autotune.tuning.tuned import TunedModel
from autotune.tuning.warm_start import WarmStart

if TYPE_CHECKING:
    from autotune.tuning.tuner import Tuner

_COSTLY_OPS = 5


class Finishing(Generic[ModelT]):
    """Makes the result of one run.

    Args:
        tuner: The options.
        adapter: The framework's adapter.
        source: Source of the accuracy: a user's function, or metrics over data.
        stages: Stages of this run.
        models: Models of this run.
    """

    def __init__(
        self,
        tuner: Tuner,
        adapter: Adapter[ModelT],
        source: UserFunction | LabelledData,
        stages: Stages,
        models: Models[ModelT],
    ) -> None:
        self._tuner = tuner
        self._adapter = adapter
        self._source = source
        self._stages = stages
        self._models = models

    def __call__(self, setup: Setup[ModelT], end: SearchEnd, start: WarmStart[ModelT] | None = None) -> TuningResult:
        """The result, where the fp32 model was measured; the answer is written to the workspace."""
        end = self._explain_in_time(setup, end)
        with self._stages.timed("finalists"):
            answer, end = self._conclude(setup, end)
        if end.interrupted:
            self._stages.note("Unfinished: the run was ended before it was done. The same command continues it")
        conclusion = answer.conclusion
        trials = setup.history.trials
        best = self._models.made(setup, conclusion.best)
        nearest = self._nearest(setup, conclusion.nearest)
        self._stages.note(*(note for note in best.notes if note not in setup.side_of(conclusion.best).model.notes))
        if setup.baseline.problem.criterion.confidence is not None and isinstance(self._source, UserFunction):
            self._stages.note(
                "`confidence` needs a metric: of what `eval_fn` returns nothing but the figure itself is known"
            )
        self._stages.announce("save")
        with self._stages.timed("save"):
            self._models.keep_best(best, conclusion.best)
            self._models.keep_nearest(nearest)
        self._models.forget_finalists()
        risk = self._adapter.saturating_ops(best) if isinstance(self._adapter, PortabilityCheck) else ()
        if note := saturation_note(risk, host_of(self._adapter)):
            self._stages.note(note)
        result = TuningResult(
            verdict=conclusion.verdict,
            best=conclusion.best,
            baseline=trials[0],
            reason=conclusion.reason,
            end_reason=end.reason,
            speed=conclusion.speed,
            nearest=conclusion.nearest,
            objective=setup.objective,
            interrupted=end.interrupted,
            criterion=self._tuner.criterion,
            constraints=self._tuner.constraints,
            instances=self._tuner.instances if setup.objective is Objective.THROUGHPUT else None,
            history=trials,
            op_types=op_types(setup.side_of(conclusion.best).problem.space),
            costly_ops=self._costly_ops(setup, conclusion, end),
            saturation_risk=risk,
            final=answer.final,
            holdout_uses=answer.holdout_uses,
            races=answer.races,
            notes=self._stages.notes,
            seconds=self._stages.stopwatch.seconds,
            host=str(host_of(self._adapter)),
            baseline_runtime=setup.baseline.runtime,
            fp32_speeds={} if setup.fp32 is None else setup.fp32.speeds,
            home_runtime=setup.home,
            started_from=None if start is None else start.outcome(trials, setup.objective),
            _run=self._runner(best.inputs, best),
            _save=self._models.saver(best, conclusion.best),
            _save_trial=self._models.remaker(setup),
            _save_nearest=None if nearest is None else self._models.saver(*nearest),
        )
        setup.history.keep(SUMMARY, {**result.to_json(), "trials": len(trials)})
        result = dataclasses.replace(result, evidence=self._evidence(setup, result, end))
        self._show_in_dashboard(result)
        return result

    def _show_in_dashboard(self, result: TuningResult) -> None:
        """Write the study for ``optuna-dashboard`` beside the history, where that is kept."""
        place: Path | str | None = self._tuner.storage
        if place is None and self._tuner.workspace is not None:
            place = Path(self._tuner.workspace)
        if place is None:
            return
        try:
            write_dashboard(place, result)
        except WorkspaceError as error:  # the answer is there all the same
            logging.getLogger("autotune").warning("There is no study for optuna-dashboard: %s", error)

    def _evidence(self, setup: Setup[ModelT], result: TuningResult, end: SearchEnd) -> Evidence:
        """Figures that explain the result beside its trials; the tensors of the config that is shown are kept now.

        Where a report will be read from a workspace, figures of single ops that no strategy asked for are measured
        as well, in a tenth of the time of the run or in a few seconds.
        """
        shown = result.shown
        side = setup.side_of(shown)
        if self._stored and not self._late(end):
            explanation = Explanation(setup)
            explanation.measure(shown, within_s=self._within(explanation_s(result.seconds)))
            explanation.time_worst(shown, within_s=self._within(explanation_s(result.seconds)))
        ops = [op.name for op in side.problem.space.ops]
        keep_tensors(SideHistory(setup.history, side.runtime), side.statistics, shown.config, ops)
        return Evidence.of(setup.history.kept, result.shown_runtime)

    @property
    def _stored(self) -> bool:
        return self._tuner.workspace is not None or self._tuner.storage is not None

    def _within(self, seconds: float) -> float:
        """So many seconds, or what is left of the time given to the run."""
        deadline = self._stages.deadline
        return seconds if deadline is None else max(0.0, min(seconds, deadline - time.monotonic()))

    def _explain_in_time(self, setup: Setup[ModelT], end: SearchEnd) -> SearchEnd:
        """Measure single ops before the finals, which may take all the time that a limit leaves."""
        if self._stages.deadline is None or not self._stored or self._late(end):
            return end
        shown = max(setup.history.trials, key=lambda trial: (trial.met, trial.speedup or 0.0))
        try:
            Explanation(setup).measure(shown, within_s=self._within(reserve_s(self._tuner.timeout_s)))
        except KeyboardInterrupt:
            return SearchEnd(reason=f"{end.reason}; then interrupted by the user", interrupted=True)
        return end

    def unmeasured(self, model: ModelT, space: TuningSpace | None) -> TuningResult:
        """The answer where the time was up before the fp32 model was measured: that model, and what to raise.

        Args:
            model: The user's, as it was given.
            space: Space of this model, where it is known.
        """
        trial = Trial(
            number=0,
            config=QuantizationConfig(),
            state=TrialState.COMPLETED,
            measurement=Measurement(size_bytes=model.size_bytes),
            note="fp32, not measured",
        )
        end = self._stages.timetable.end_reason()
        self._stages.announce("save")
        if self._tuner.workspace is not None:
            require_writable(Path(self._tuner.workspace))
            # A run that continues may have an answer from before.
            if not self._models.has_best():
                self._models.keep_best(model, trial)
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
            op_types={} if space is None else op_types(space),
            notes=self._stages.notes,
            seconds=self._stages.stopwatch.seconds,
            host=str(host_of(self._adapter)),
            baseline_runtime=model.runtime if isinstance(model, RuntimeModel) else None,
            _run=self._runner(model.inputs, model),
            _save=self._models.saver(model, trial),
        )

    def _runner(self, inputs: Sequence[TensorSpec], model: ModelT) -> TunedModel[ModelT]:
        return TunedModel(self._adapter, model, inputs, Execution(threads=self._tuner.threads))

    def _nearest(self, setup: Setup[ModelT], trial: Trial | None) -> tuple[ModelT, Trial] | None:
        """The model to offer beside the answer; None where there is none, or it cannot be made a second time."""
        if trial is None:
            return None
        try:
            return self._models.made(setup, trial), trial
        except TrialError as error:
            self._stages.note(f"Trial {trial.number}, the nearest candidate, could not be made again: {error}")
            return None

    def _conclude(self, setup: Setup[ModelT], end: SearchEnd) -> tuple[Answer, SearchEnd]:
        objective = setup.objective
        if end.interrupted:
            return Answer(conclusion=provisional(setup.history.trials, objective)), end
        if finalists(setup.history.trials, objective):
            self._stages.announce("finalists")
        try:
            answer = settle(
                setup.history,
                setup.evaluator,
                lambda trial: self._models.made(setup, trial),
                objective,
                deadline=self._stages.deadline,
                note=self._stages.note,
            )
        except KeyboardInterrupt:
            interrupted = SearchEnd(reason=f"{end.reason}; then interrupted by the user", interrupted=True)
            return Answer(conclusion=provisional(setup.history.trials, objective)), interrupted
        return answer, end

    def _late(self, end: SearchEnd) -> bool:
        return end.interrupted or (self._stages.deadline is not None and time.monotonic() > self._stages.deadline)

    def _costly_ops(self, setup: Setup[ModelT], conclusion: Conclusion, end: SearchEnd) -> Mapping[str, float]:
        """The ops whose quantization costs most, as far as they were measured, where no candidate keeps the target."""
        if conclusion.nearest is None:
            return {}
        side = setup.side_of(conclusion.nearest)
        history = SideHistory(setup.history, side.runtime)
        if conclusion.verdict is Verdict.MET or (self._late(end) and history.kept("sensitivity") is None):
            return {}
        found = side.problem.insights.sensitivity()
        # Where there was no time to measure an op by itself, it has a share of its group's error, which is a guess.
        # A workspace from before groups has measured all of them.
        measured = history.kept(MEASURED_ALONE)
        known = [op for op in found if measured is None or op in measured]
        return {op: found[op] for op in sorted(known, key=lambda op: -found[op])[:_COSTLY_OPS]}
