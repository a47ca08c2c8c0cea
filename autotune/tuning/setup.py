"""Set-up of a run: reads model and data, opens the history, and collects calibration statistics."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from autotune import data
from autotune.adapter import (
    Adapter,
    DataDependentSpace,
    Example,
    Execution,
    Feeds,
    Gradients,
    ModelT,
    OwnStatistics,
    Preparation,
    Statistics,
    host_of,
    statistics_type,
)
from autotune.batch import axes_of
from autotune.calls import Calls, latency_calls, told_batch_axes
from autotune.evaluation import AnyEvaluator, IsolatedEvaluator, Isolation, LabelledData, UserFunction, evaluator_of
from autotune.portability import portable_space
from autotune.source import OwnSource, source_for
from autotune.space import TuningSpace
from autotune.strategy import Insights, Objective, Problem
from autotune.tuning.history import CALIBRATION_DATA, SETUP, History, require_writable
from autotune.tuning.insights import MeasuredInsights
from autotune.tuning.stages import Stages

if TYPE_CHECKING:
    from autotune.tuning.tuner import Tuner

_INSIGHT_SAMPLES = 8


@dataclass(frozen=True, kw_only=True)
class Setup(Generic[ModelT]):
    """The objects that a run works with once model and data are read: the user's model as it was given, and prepared.

    ``differs`` says whether the two execute differently.
    """

    given: ModelT
    model: ModelT
    differs: bool
    statistics: Statistics
    evaluator: AnyEvaluator[ModelT]
    history: History
    problem: Problem


class Preparing(Generic[ModelT]):
    """Makes the :class:`Setup` of one run.

    Args:
        tuner: The options.
        adapter: Adapter of the framework.
        source: Where accuracy comes from.
        multi_objective: Whether the strategy's study keeps loss and speed apart.
        stages: Stages of this run.

    Attributes:
        loaded: The user's model as soon as it is read, for an answer where the time is up before the rest is.
        space: What may be chosen, likewise.
    """

    def __init__(
        self,
        tuner: Tuner,
        adapter: Adapter[ModelT],
        source: UserFunction | LabelledData,
        *,
        multi_objective: bool,
        stages: Stages,
    ) -> None:
        self._tuner = tuner
        self._adapter = adapter
        self._source = source
        self._multi_objective = multi_objective
        self._stages = stages
        self._execution = Execution(threads=tuner.threads)
        self._workspace = None if tuner.workspace is None else Path(tuner.workspace)
        self._gradients: Callable[[], Gradients | None] | None = None
        self.loaded: ModelT | None = None
        self.space: TuningSpace | None = None

    def __call__(self, source: object, loader: Iterable[object]) -> Setup[ModelT]:
        """Read the model that ``source`` is, and the data; the arguments are those of :meth:`autotune.Tuner.tune`.

        Raises:
            DeadlineReached: The time was up before all was ready.
        """
        self._stages.announce("load")
        with self._stages.timed("load"):
            data.require_repeatable(loader, "dataloader")
            example = Example(loader, self._tuner.batch_axis)
            model = self.loaded = self._adapter.load(source_for(self._adapter, source, example), example)
            self._stages.timetable.require()
            if isinstance(self._adapter, Preparation):
                feeds = (batch.feeds for batch in self._calibration_batches(model, loader))
                model = self._adapter.on_data(model, feeds)
            model, note = told_batch_axes(
                self._adapter, model, loader, self._tuner.batch_axis, self._tuner.batch_size, self._execution
            )
            (given, differs), axes = self.as_given(model), axes_of(model)
            offered = self._adapter.space(model)
            space = self._tuner.restriction.apply(portable_space(offered) if self._tuner.portable else offered)
            self.space = space
            batches = data.iterate(loader, model.inputs, axes=axes)
            calls = latency_calls(batches, model.inputs, axes, self._tuner.batch_size)
            kept = self._workspace is not None or self._tuner.storage is not None
            fingerprint = data.fingerprint(self._calibration_batches(model, loader)) if kept else ""
        converted = source.notes if isinstance(source, OwnSource) else ()
        self._stages.note(*converted, *model.notes, *([] if note is None else [note]), calls.note)
        if not space.tunable:
            self._stages.note("No op of this model can be quantized here")
        # What executes alike has one name, so that a workspace from before there was a difference goes on.
        names = dict.fromkeys((given.fingerprint, model.fingerprint) if differs else (model.fingerprint,))
        history = self._open_history("-".join(names), space, fingerprint)
        statistics = self._calibrate(model, loader, fingerprint)
        if isinstance(self._adapter, DataDependentSpace):
            space, ruled_out = self._adapter.calibrated_space(space, model, statistics)
            self._stages.note(*ruled_out)
        self._gradients = partial(source.gradients, example) if isinstance(source, OwnSource) else None
        insights = self._insights(model, space, statistics, calls, loader, history)
        objective = Objective(self._tuner.objective)
        criterion, seed = self._tuner.criterion, self._tuner.seed
        return Setup(
            given=given,
            model=model,
            differs=differs,
            statistics=statistics,
            evaluator=self._evaluator(given, calls.feeds),
            history=history,
            problem=Problem(space=space, criterion=criterion, objective=objective, seed=seed, insights=insights),
        )

    def as_given(self, model: ModelT) -> tuple[ModelT, bool]:
        """The user's model, which is the baseline, and whether it executes otherwise than what was prepared of it."""
        if not isinstance(self._adapter, Preparation):
            return model, False
        return self._adapter.as_given(model), self._adapter.executes_another_graph(model)

    def _insights(
        self,
        model: ModelT,
        space: TuningSpace,
        statistics: Statistics,
        calls: Calls,
        loader: Iterable[object],
        history: History,
    ) -> Insights:
        batches = data.limit(data.iterate(loader, model.inputs, axes=axes_of(model)), _INSIGHT_SAMPLES)
        return MeasuredInsights(
            adapter=self._adapter,
            model=model,
            space=space,
            statistics=statistics,
            feeds=[batch.feeds for batch in batches],
            latency_feeds=calls.typical,
            execution=self._execution,
            history=history,
            stopwatch=self._stages.stopwatch,
            timeout_s=self._tuner.timeout_s,
            deadline=self._stages.deadline,
            gradients=self._gradients,
        )

    @property
    def _execution_identity(self) -> str:
        """How models are executed, as the history says it."""
        named = "" if self._tuner.batch_axis is None else f" along {self._tuner.batch_axis}"
        return f"{self._tuner.threads} threads, batch {self._tuner.batch_size}{named}"

    def _open_history(self, model: str, space: TuningSpace, calibration_data: str) -> History:
        """Open the study, and see that it is about this model, data, target and host."""
        if self._workspace is not None:
            require_writable(self._workspace)
        identity = {
            "model": model,
            "space": hashlib.sha256(repr(space).encode()).hexdigest()[:16],
            CALIBRATION_DATA: calibration_data,
            "criterion": str(self._tuner.criterion),
            "objective": str(self._tuner.objective),
            "evaluation": self._source.identity,
            "execution": self._execution_identity,
            "host": host_of(self._adapter).fingerprint,
        }
        storage = self._tuner.storage or self._workspace
        history = History(storage, identity, multi_objective=self._multi_objective)
        about = {"criterion": asdict(self._tuner.criterion), "objective": str(self._tuner.objective)}
        history.keep(SETUP, {**about, "op_types": op_types(space)})
        return history

    def _calibration_batches(self, model: ModelT, loader: Iterable[object]) -> Iterable[data.Batch]:
        """The batches to calibrate on, read anew at each call so that memory does not grow with their number."""
        batches = data.iterate(loader, model.inputs, axes=axes_of(model))
        return self._stages.timetable.watched(data.limit(batches, self._tuner.sampling_size))

    def _calibrate(self, model: ModelT, loader: Iterable[object], fingerprint: str) -> Statistics:
        """The statistics of this model on this data, from the workspace where they are there."""
        self._stages.begin("calibrate")
        cached = None
        if self._workspace is not None:
            # Two frameworks may call a model alike; what is theirs alone is kept under their names.
            whose = f"{self._adapter.name}-" if isinstance(self._adapter, OwnStatistics) else ""
            cached = self._workspace / "cache" / f"statistics-{whose}{model.fingerprint}-{fingerprint}.npz"
            if cached.exists():
                return statistics_type(self._adapter).load(cached)
        with self._stages.timed("calibrate"):
            batches = self._stages.timetable.shortened(self._calibration_batches(model, loader))
            feeds = (batch.feeds for batch in batches)
            statistics = self._adapter.calibrate(model, feeds, seed=self._tuner.seed)
            if batches.cut:
                self._stages.note(
                    f"Calibration read {batches.samples} samples only: more would have taken too large a part of the "
                    f"{self._tuner.timeout_s:g} s given to the run"
                )
            if cached is not None:
                cached.parent.mkdir(parents=True, exist_ok=True)
                statistics.save(cached)
        return statistics

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
            "on_progress": self._stages.progressed,
        }
        if tuner.isolation == Isolation.PROCESS:
            return IsolatedEvaluator(isolation=tuner.isolation_options, **options)
        return evaluator_of(**options)


def op_types(space: TuningSpace) -> dict[str, str]:
    """The type of each op that can be quantized, by its name."""
    return {op.name: op.op_type for op in space.ops}
