"""Reads the user's model as one framework has it, with what may be chosen there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune import data
from autotune.adapter import Adapter, Example, Execution, ModelT, Preparation
from autotune.batch import BatchChoice, axes_of
from autotune.calls import told_batch_axes
from autotune.conversion import until
from autotune.errors import DeadlineReached, ModelError
from autotune.portability import portable_space
from autotune.source import source_for
from autotune.space import TuningSpace
from autotune.tuning.gradients import LabelledFeeds
from autotune.tuning.stages import Stages

if TYPE_CHECKING:
    from autotune.tuning.tuner import Tuner

_CONVERSION_SHARE = 0.5
"""The largest share of the time left that a converter takes where other runtimes may do without it."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model as one adapter has read it.

    Attributes:
        runtime: Name of the runtime; None in a run of one framework.
        adapter: Adapter of the framework.
        model: The user's model, prepared, on data and with its batch axes.
        space: Choices on this host, before the user's restriction.
        note: Why a call's batch is not what the shapes promise; None where it is.
    """

    runtime: str | None = None
    adapter: Adapter[Any]
    model: Any
    space: TuningSpace
    note: str | None = None

    @property
    def given(self) -> Any:
        """The user's model as it was given."""
        return self.adapter.as_given(self.model) if isinstance(self.adapter, Preparation) else self.model

    @property
    def differs(self) -> bool:
        """Whether the user's model executes otherwise than what was prepared of it."""
        return isinstance(self.adapter, Preparation) and self.adapter.executes_another_graph(self.model)


class Loading:
    """Reads models for one run.

    Args:
        tuner: The options.
        stages: Stages of this run.
        calibration: Gives the batches to calibrate on, for a model and a data loader.
        on_loaded: Told of each model, after the name of its runtime, as soon as it is read.
    """

    def __init__(
        self,
        tuner: Tuner,
        stages: Stages,
        calibration: Callable[[Any, Iterable[object]], Iterable[data.Batch]],
        on_loaded: Callable[[str | None, Any], None],
    ) -> None:
        self._tuner = tuner
        self._stages = stages
        self._calibration = calibration
        self._on_loaded = on_loaded
        self._execution = Execution(threads=tuner.threads)

    def __call__(
        self, adapter: Adapter[Any], source: object, loader: Iterable[object], runtime: str | None = None
    ) -> Loaded:
        """Read the model that ``source`` is, with the first data.

        Args:
            adapter: Adapter that reads it.
            source: The user's model.
            loader: The calibration data.
            runtime: Name of the runtime, where there are several.

        Raises:
            InputError: The adapter cannot read it, or the model cannot read the data.
            DeadlineReached: The time was up before it was read.
        """
        example = Example(loader, self._tuner.batch_axis)
        model = adapter.load(self._source(adapter, source, example, alone=runtime is None), example)
        self._on_loaded(runtime, model)
        self._stages.timetable.require()
        model = self._on_data(adapter, model, loader)
        model, note = told_batch_axes(
            adapter, model, loader, self._tuner.batch_axis, self._tuner.batch_size, self._execution
        )
        offered = adapter.space(model)
        space = portable_space(offered) if self._tuner.portable else offered
        return Loaded(runtime=runtime, adapter=adapter, model=model, space=space, note=note)

    def _source(self, adapter: Adapter[Any], source: object, example: Example, *, alone: bool) -> object:
        """The source that an adapter loads.

        A converter has until the deadline, or half of what is left where other runtimes may do without it.

        Raises:
            ModelError: It was not done by then, so that there is nothing to load.
        """
        timetable = self._stages.timetable
        with until(timetable.deadline if alone else timetable.part(_CONVERSION_SHARE)):
            try:
                return source_for(adapter, source, example)
            except DeadlineReached as error:
                given = "the time given to the run" if alone else "half of the time given to the run"
                raise ModelError(
                    f"A converter must be done within {given}, but {error}. Give the run more time (`timeout_s`, or "
                    "`--timeout`), or convert the model by hand and tune the .onnx file"
                ) from error

    def again(self, adapter: Adapter[Any], source: object, loader: Iterable[object], like: ModelT) -> ModelT:
        """Read a source of the same graph with other weights.

        Args:
            adapter: Adapter that reads it.
            source: The source.
            loader: The calibration data.
            like: The model as it was read of the user's source.

        Raises:
            InputError: The adapter cannot read it.
            DeadlineReached: It is to be converted, and the time was up before it was.
        """
        example = Example(loader)
        with until(self._stages.deadline):
            readable = source_for(adapter, source, example)
        model: ModelT = self._on_data(adapter, adapter.load(readable, example), loader)
        return adapter.with_batch_axes(model, axes_of(like)) if isinstance(adapter, BatchChoice) else model

    def _on_data(self, adapter: Adapter[Any], model: Any, loader: Iterable[object]) -> Any:
        """A model as the user's data want it prepared."""
        if not isinstance(adapter, Preparation):
            return model
        return adapter.on_data(model, (batch.feeds for batch in self._calibration(model, loader)))


def insight_feeds(model: ModelT, loader: Iterable[object], samples: int) -> list[Any]:
    """The first calibration batches, as what is learnt of ops without an evaluation is measured on."""
    batches = data.limit(data.iterate(loader, model.inputs, axes=axes_of(model)), samples)
    return [LabelledFeeds(batch.feeds, batch.labels) for batch in batches]
