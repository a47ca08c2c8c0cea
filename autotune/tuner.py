"""The public entry: a tuner holds the options of a run, ``tune`` runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.samplers import BaseSampler

from autotune import data
from autotune.adapters import get_adapter
from autotune.criterion import Criterion
from autotune.errors import CriterionError, InputError
from autotune.evaluation import LabelledData, Metric, UserFunction, create_metric
from autotune.observer import Observer
from autotune.restriction import SpaceRestriction
from autotune.result import TuningResult
from autotune.run import Run
from autotune.strategy import Objective, Strategy

EvalFunction = Callable[[Callable[[object], Any]], float | Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Tuner:
    """Finds the fastest quantized model whose accuracy loss stays under a target.

    Attributes:
        criterion: The accuracy target; 1 % relative loss by default.
        strategy: A strategy's name, a strategy, or any Optuna sampler.
        strategy_options: For a strategy given by name.
        objective: What to minimise under the target: ``latency``, ``size`` or ``memory``.
        max_trials: Candidates to try at the most.
        timeout_s: Wall time of one ``tune`` in seconds, calibration and baseline included.
        seed: Of every random choice.
        threads: Threads of one inference when latency is measured.
        batch_size: Samples of one inference when latency is measured.
        warmup: Inferences before latency is measured.
        sampling_size: Calibration samples to use at the most; None: all that the loader yields.
        workspace: Folder for the history, cached statistics and the best model so far; the same workspace resumes.
            None: nothing is kept.
        storage: Optuna storage URL for the history instead of a file in the workspace.
        framework: Name of the adapter.
        restriction: What part of the space may be searched.
        observer: Is told what the run does.
    """

    criterion: Criterion = field(default_factory=Criterion)
    strategy: str | Strategy | BaseSampler = "auto"
    strategy_options: Mapping[str, Any] = field(default_factory=dict)
    objective: Objective | str = Objective.LATENCY
    max_trials: int | None = 50
    timeout_s: float | None = None
    seed: int = 0
    threads: int = 1
    batch_size: int = 1
    warmup: int = 10
    sampling_size: int | None = 100
    workspace: str | Path | None = None
    storage: str | None = None
    framework: str = "onnxruntime"
    restriction: SpaceRestriction = field(default_factory=SpaceRestriction)
    observer: Observer = field(default_factory=Observer)

    def __post_init__(self) -> None:
        for name in ("max_trials", "threads", "batch_size", "sampling_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"`{name} >= 1` must hold, but got {value}")
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise InputError(f"`timeout_s > 0` must hold, but got {self.timeout_s}")
        if self.objective not in list(Objective):
            raise InputError(f"The objective must be one of {[str(o) for o in Objective]}, but got {self.objective!r}")

    def tune(
        self,
        model: object,
        dataloader: Iterable[object],
        eval_fn: EvalFunction | None = None,
        *,
        metric: str | Metric | None = None,
        eval_dataloader: Iterable[object] | None = None,
    ) -> TuningResult:
        """Tune a model.

        Args:
            model: A path or the framework's own object.
            dataloader: Calibration data: an iterable that can be iterated again and yields ``inputs`` or
                ``(inputs, labels)``; ``inputs`` is an array, a tuple in graph order or a dict by input name.
            eval_fn: Called with a callable, ``model(inputs)`` gives one array or a tuple; returns the accuracy, or
                several figures by name of which the first is judged.
            metric: Instead of ``eval_fn``, with ``eval_dataloader``: a metric or its name. Accuracy is then streamed
                per sample, so that evaluations can stop early and losses have intervals.
            eval_dataloader: Labelled evaluation data; yields ``(inputs, labels)``.

        Returns:
            The answer, never None.

        Raises:
            InputError: The model, the data, the target or an option cannot be used.
            Exception: What the user's own ``eval_fn`` raises on the fp32 model, unchanged.
        """
        run = Run(self, get_adapter(self.framework), _source(self.criterion, eval_fn, metric, eval_dataloader))
        return run(model, dataloader)


def tune(
    model: object, dataloader: Iterable[object], eval_fn: EvalFunction | None = None, **options: Any
) -> TuningResult:
    """Tune a model with 1 % relative loss as the target; see :class:`Tuner` for ``options``.

    ``metric`` and ``eval_dataloader`` are taken as :meth:`Tuner.tune` takes them.
    """
    sources = {name: options.pop(name) for name in ("metric", "eval_dataloader") if name in options}
    return Tuner(**options).tune(model, dataloader, eval_fn, **sources)


def _source(
    criterion: Criterion,
    eval_fn: EvalFunction | None,
    metric: str | Metric | None,
    eval_dataloader: Iterable[object] | None,
) -> UserFunction | LabelledData:
    """Where accuracy comes from.

    Raises:
        InputError: Both ways are given, or none, or half of one.
        CriterionError: The metric and the criterion disagree on what is better.
    """
    if (eval_fn is None) == (metric is None):
        raise InputError("Give either `eval_fn`, or `metric` with `eval_dataloader`, so that accuracy can be measured")
    if eval_fn is not None:
        if not callable(eval_fn):
            raise InputError(f"`eval_fn` must be callable, but it is a {type(eval_fn).__name__}")
        if eval_dataloader is not None:
            raise InputError("`eval_dataloader` goes with `metric`: an `eval_fn` reads its own data")
        return UserFunction(function=eval_fn)
    if eval_dataloader is None:
        raise InputError("`metric` needs an `eval_dataloader` that yields (inputs, labels)")
    chosen = create_metric(metric) if isinstance(metric, str) else metric
    assert chosen is not None
    if chosen.higher_is_better != criterion.higher_is_better:
        better = "higher" if chosen.higher_is_better else "lower"
        raise CriterionError(
            f"{chosen.name} is better when {better}, but the criterion has "
            f"higher_is_better={criterion.higher_is_better}. Set it to {chosen.higher_is_better}"
        )
    data.require_repeatable(eval_dataloader, "eval_dataloader")
    return LabelledData(loader=eval_dataloader, metrics=(chosen,))
