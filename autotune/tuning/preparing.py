"""Set-up of a run: reads model and data, opens the history, calibrates, and poses the problem of each runtime."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, cast

from autotune import data
from autotune.adapter import (
    Adapter,
    DataDependentSpace,
    Example,
    Execution,
    Feeds,
    Gradients,
    ModelT,
    Trainable,
    host_of,
)
from autotune.batch import axes_of
from autotune.calls import Calls, latency_calls
from autotune.evaluation import AnyEvaluator, IsolatedEvaluator, Isolation, LabelledData, UserFunction, evaluator_of
from autotune.evaluation.constrained import ConstrainedEvaluator
from autotune.evaluation.remembered import RememberedAccuracy
from autotune.evaluation.serving import ServingEvaluator
from autotune.runtimes.adapter import RuntimeModel, RuntimesAdapter
from autotune.runtimes.fp32 import Fp32Speeds, compare_fp32
from autotune.runtimes.opening import left_out_lines, open_all
from autotune.source import Convertible, OwnSource
from autotune.space import TuningSpace
from autotune.strategy import Objective, Problem
from autotune.trial import Measurement
from autotune.tuning.calibrating import Calibrating
from autotune.tuning.evidence import keep_graph, keep_run
from autotune.tuning.guests import AccuracyAlone, GuestInsights, await_run, await_study, name_run
from autotune.tuning.history import RUNTIMES, SETUP, History
from autotune.tuning.hold import Hold
from autotune.tuning.identity import CALIBRATION_DATA, FUNCTION
from autotune.tuning.insights import MeasuredInsights
from autotune.tuning.loading import Loaded, Loading, insight_feeds
from autotune.tuning.posed import with_target
from autotune.tuning.retarget import KNOWN, Target, retarget
from autotune.tuning.setup import Setup, op_types
from autotune.tuning.side import Side, SideHistory
from autotune.tuning.stages import Stages
from autotune.tuning.storage import forget, is_shared, require_writable
from autotune.tuning.training import Training

if TYPE_CHECKING:
    from autotune.tuning.tuner import Tuner


_INSIGHT_SAMPLES = 8

_SHARED = (Objective.LATENCY, Objective.SIZE)
"""Objectives whose runs workers on other hosts take part in."""

_ANY_LOSS = 1e300
"""A target that every loss keeps, where limits of speed and size decide."""


class Preparing(Generic[ModelT]):
    """Makes the :class:`Setup` of one run.

    Args:
        tuner: The options.
        adapter: Adapter of the framework, or that of several runtimes.
        source: Source of the accuracy: a user's function, or metrics over data.
        multi_objective: Whether the strategy's study keeps loss and speed apart.
        stages: Stages of this run.
        joins: Whether it takes part in a study that another run may hold.

    Attributes:
        loaded: The user's model as soon as it is read, for an answer where the time is up before the rest is.
        space: The choices that are allowed, likewise.
    """

    def __init__(
        self,
        tuner: Tuner,
        adapter: Adapter[ModelT],
        source: UserFunction | LabelledData,
        *,
        multi_objective: bool,
        stages: Stages,
        joins: bool = False,
    ) -> None:
        self._tuner = tuner
        self._adapter = adapter
        self._source = source
        self._multi_objective = multi_objective
        self._stages = stages
        self._execution = Execution(threads=tuner.threads)
        self._workspace = None if tuner.workspace is None else Path(tuner.workspace)
        self._calibrate = Calibrating(tuner, stages)
        self._load = Loading(tuner, stages, self._calibrate.batches, self._remember)
        self._shares = 1  # runtimes among which the time for calibration and insights is divided
        self._gradients: Callable[[], Gradients | None] | None = None
        self._joins = joins
        self._hold: Hold | None = None
        self._history: History | None = None
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
            loaded = self._read(source, loader)
            first = loaded[0]
            self.space = first.space
            model, axes = first.model, axes_of(first.model)
            batches = data.iterate(loader, model.inputs, axes=axes)
            calls = latency_calls(batches, model.inputs, axes, self._tuner.batch_size)
            kept = self._workspace is not None or self._tuner.storage is not None
            fingerprint = data.fingerprint(self._calibrate.batches(model, loader)) if kept else ""
        if isinstance(source, OwnSource):
            self._gradients = partial(source.gradients, Example(loader, self._tuner.batch_axis))
        self._tell(source, loaded, calls)
        history = self._open_history(loaded, fingerprint)
        keep_run(
            history,
            self._tuner,
            self._adapter,
            source=source,
            model=first.given.fingerprint,
            calibration_data=fingerprint,
            evaluation=self._source.identity,
        )
        fp32 = self._fp32_speeds(loaded, calls, history)
        self._shares = len(loaded)
        sides = [self._side(each, loader, fingerprint, calls, history, fp32) for each in loaded]
        baseline = next((side for side in sides if fp32 is not None and side.runtime == fp32.baseline), sides[0])
        evaluator = self._in_front(self._evaluator(baseline.given, calls.feeds), baseline.given, calls.feeds, history)
        training = self._training(source, loader)
        return Setup(
            sides=sides,
            baseline=baseline,
            evaluator=evaluator,
            history=history,
            fp32=fp32,
            training=training,
            home=self._home(source),
        )

    def _home(self, source: object) -> str | None:
        """The runtime that is the framework of the user's model, in a run over several."""
        if not isinstance(self._adapter, RuntimesAdapter) or not isinstance(source, Convertible):
            return None
        return source.name if source.name in (self._tuner.runtimes or ()) else None

    def close(self) -> None:
        """Called when the run has ended: its workspace is free for another one."""
        if self._history is not None:
            self._history.close()
        if self._hold is not None:
            self._hold.release()

    def _training(self, source: object, loader: Iterable[object]) -> Training[ModelT] | None:
        """Training of the user's model; None where it is none that can be trained."""
        if not isinstance(source, OwnSource) or not isinstance(source.framework, Trainable):
            return None
        return Training(
            source,
            loader,
            adapter=self._adapter,
            train_fn=self._tuner.train_fn,
            stages=self._stages,
            workspace=self._workspace,
            reload=lambda adapter, trained, model: self._load.again(adapter, trained, loader, model),
        )

    def _read(self, source: object, loader: Iterable[object]) -> Sequence[Loaded]:
        """The model as each runtime has it, or as the one framework does."""
        if not isinstance(self._adapter, RuntimesAdapter):
            loaded = self._load(self._adapter, source, loader)
            return (dataclasses.replace(loaded, space=self._tuner.restriction.apply(loaded.space)),)
        opened, left_out = open_all(
            self._adapter,
            lambda runtime, adapter: self._load(adapter, source, loader, runtime),
            loader,
            self._tuner.restriction,
            self._execution,
        )
        self._stages.note(*left_out_lines(left_out))
        return opened

    def _remember(self, runtime: str | None, model: Any) -> None:
        """Keep the first model that is read."""
        if self.loaded is None:
            self.loaded = _held(runtime, model)

    def _tell(self, source: object, loaded: Sequence[Loaded], calls: Calls) -> None:
        """Note what a user should know of the models as they were read."""
        if isinstance(source, Convertible):
            self._stages.note(*source.notes)
        for each in loaded:
            on = "" if each.runtime is None else f"{each.runtime}: "
            self._stages.note(*(f"{on}{note}" for note in (*each.model.notes, each.note) if note is not None))
        self._stages.note(calls.note)
        for each in loaded:
            if not each.space.tunable:
                where = "here" if each.runtime is None else f"on {each.runtime}"
                self._stages.note(f"No op of this model can be quantized {where}")

    def _fp32_speeds(self, loaded: Sequence[Loaded], calls: Calls, history: History) -> Fp32Speeds | None:
        """How fast fp32 is on each runtime, measured once for a workspace; None in a run of one framework."""
        if not isinstance(self._adapter, RuntimesAdapter):
            return None
        stored = history.kept(RUNTIMES)
        if stored is None:
            self._stages.begin("runtimes")
            with self._stages.timed("runtimes"):
                found = compare_fp32(
                    self._adapter,
                    {str(each.runtime): _held(each.runtime, each.given) for each in loaded},
                    calls.feeds,
                    self._tuner.latency_options,
                    seed=self._tuner.seed,
                    deadline=self._stages.deadline,
                )
            history.keep(RUNTIMES, found.to_json())
        else:
            found = Fp32Speeds.from_json(stored)
        self._stages.note(str(found))
        return found

    def _side(
        self,
        loaded: Loaded,
        loader: Iterable[object],
        fingerprint: str,
        calls: Calls,
        history: History,
        fp32: Fp32Speeds | None,
    ) -> Side[Any]:
        """One runtime's part of the run."""
        adapter, model, runtime = loaded.adapter, loaded.model, loaded.runtime
        statistics = self._calibrate(loaded, loader, fingerprint, self._shares)
        space = loaded.space
        keep_graph(SideHistory(history, runtime), adapter, model)
        if isinstance(adapter, DataDependentSpace):
            space, ruled_out = adapter.calibrated_space(space, model, statistics)
            self._stages.note(*(ruled_out if runtime is None else (f"{runtime}: {each}" for each in ruled_out)))
        kind = GuestInsights if history.elsewhere and self._tuner.objective == Objective.LATENCY else MeasuredInsights
        insights = kind(
            adapter=adapter,
            model=model,
            space=space,
            statistics=statistics,
            feeds=insight_feeds(model, loader, _INSIGHT_SAMPLES),
            latency_feeds=calls.typical,
            execution=self._execution,
            history=SideHistory(history, runtime),
            stopwatch=self._stages.stopwatch,
            timeout_s=None if self._tuner.timeout_s is None else self._tuner.timeout_s / self._shares,
            deadline=self._stages.deadline,
            gradients=self._gradients,
        )
        problem = Problem(
            space=space,
            criterion=self._tuner.criterion,
            objective=Objective(self._tuner.objective),
            seed=self._tuner.seed,
            insights=insights,
        )
        return Side(
            runtime=runtime,
            given=_held(runtime, loaded.given),
            model=_held(runtime, model),
            differs=loaded.differs,
            statistics=statistics,
            problem=problem,
            fp32_speed=1.0 if fp32 is None or runtime is None else fp32.speeds[runtime],
        )

    @property
    def _execution_identity(self) -> str:
        """How models are executed, as the history says it."""
        named = "" if self._tuner.batch_axis is None else f" along {self._tuner.batch_axis}"
        return f"{self._tuner.threads} threads, batch {self._tuner.batch_size}{named}"

    def _open_history(self, loaded: Sequence[Loaded], calibration_data: str) -> History:
        """Open the study, and see that it is about this model, data, target and host."""
        if self._workspace is not None:
            require_writable(self._workspace)
            if not self._joins:
                self._hold = Hold(self._workspace)
        spaces, host = ", ".join(repr(each.space) for each in loaded), host_of(self._adapter)
        identity = {
            "framework": self._adapter.name,
            "model": ", ".join(_identity(each) for each in loaded),
            "space": hashlib.sha256(spaces.encode()).hexdigest()[:16],
            CALIBRATION_DATA: calibration_data,
            "criterion": str(self._tuner.criterion),
            "objective": self._tuner.objective_identity,
            "evaluation": self._source.identity,
            "execution": self._execution_identity,
            "host": host.fingerprint,
        }
        if isinstance(self._source, UserFunction):
            identity[FUNCTION] = self._source.origin
        storage = self._workspace if self._tuner.storage is None else self._tuner.storage
        if self._tuner.fresh and storage is not None and not self._joins:
            forget(storage)
        if storage is not None and not self._joins:
            target = Target(
                criterion=self._tuner.criterion,
                criteria=self._tuner.criteria,
                objective=Objective(self._tuner.objective),
                constraints=self._tuner.constraints,
            )
            if line := retarget(storage, identity, target):
                self._stages.note(line)
        if self._joins and isinstance(storage, str) and is_shared(storage):
            await_study(storage, self._stages.deadline, self._stages.note)
        # A worker may run on any machine: latency, which depends on it, is then measured by the run.
        on_any_host = self._joins and not self._multi_objective and identity["objective"] in _SHARED
        history = History(storage, identity, multi_objective=self._multi_objective, on_any_host=on_any_host)
        self._history = history
        if history.elsewhere:
            await_run(history, host, self._stages.deadline, self._stages.note)
        elif storage is not None and not self._joins:
            name_run(history, host)
        about = {"criterion": asdict(self._tuner.criterion), "objective": str(self._tuner.objective)}
        by_runtime = {each.runtime: op_types(each.space) for each in loaded if each.runtime is not None}
        runtimes = {"op_types_by_runtime": by_runtime} if by_runtime else {}
        history.keep(SETUP, {**about, "op_types": op_types(loaded[0].space), **runtimes})
        return history

    def _in_front(
        self, evaluator: AnyEvaluator[ModelT], model: ModelT, feeds: Sequence[Feeds], history: History
    ) -> AnyEvaluator[ModelT]:
        """The evaluator behind those that know some accuracies, judge by limits, or measure throughput as well."""
        wrapped: Any = evaluator
        known = history.kept(KNOWN) or {}
        figures = {each: Measurement.from_json(entry["measurement"]) for each, entry in known.items()}
        if history.elsewhere:
            wrapped = AccuracyAlone(wrapped)
        elif figures or self._tuner.storage is not None or self._workspace is not None:
            wrapped = RememberedAccuracy(wrapped, lambda model: figures.get(model) or history.accuracy_of(model))
        if self._tuner.constraints is not None:
            wrapped = ConstrainedEvaluator(wrapped, self._tuner.constraints)
        if self._tuner.objective == Objective.THROUGHPUT:
            samples = axes_of(model).size(feeds[-1])
            options = dataclasses.replace(self._tuner.throughput_options, batch_size=samples)
            wrapped = ServingEvaluator(wrapped, adapter=self._adapter, model=model, feeds=feeds[-1], options=options)
        return cast("AnyEvaluator[ModelT]", wrapped)

    def _evaluator(self, model: ModelT, feeds: Sequence[Feeds]) -> AnyEvaluator[ModelT]:
        tuner = self._tuner
        options: dict[str, Any] = {
            "adapter": self._adapter,
            "model": model,
            "source": self._source,
            "criterion": tuner.criterion if tuner.constraints is None else with_target(tuner.criterion, _ANY_LOSS),
            "latency": tuner.latency_options,
            "feeds": feeds,
            "seed": tuner.seed,
            "cache": None if self._workspace is None else self._workspace / "cache",
            "on_progress": self._stages.progressed,
        }
        if tuner.isolation == Isolation.PROCESS:
            return IsolatedEvaluator(isolation=tuner.isolation_options, **options)
        return evaluator_of(**options)


def _held(runtime: str | None, model: Any) -> Any:
    """A model as the run holds it: with the name of its runtime, where there are several."""
    return model if runtime is None else RuntimeModel(runtime=runtime, model=model)


def _identity(loaded: Loaded) -> str:
    """The name of a model in the history."""
    given, model = (_held(loaded.runtime, each).fingerprint for each in (loaded.given, loaded.model))
    # Models that execute alike have one name, so that a workspace from before there was a difference goes on.
    return "-".join(dict.fromkeys((given, model) if loaded.differs else (model,)))
