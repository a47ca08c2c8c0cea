"""The keywords of ``tune``, so that a type checker sees a name that does not exist, as ``max_trails=3``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from autotune.batch import BatchAxis
from autotune.config import QuantizationConfig
from autotune.constraints import Constraints
from autotune.criterion import Criterion
from autotune.evaluation import CacheState, Isolation, Metric
from autotune.observer import Observer
from autotune.restriction import SpaceRestriction
from autotune.strategy import Objective, Strategy

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

DEFAULT_FRAMEWORK = "onnxruntime"
"""The framework of a model where the user names none."""

EvalFunction: TypeAlias = Callable[[Any], float | Mapping[str, float]]
"""The user's score. It gets a callable, or for a framework's own object a model of its class, and may say which."""
Metrics: TypeAlias = str | Metric | Sequence[str | Metric]
ConfigSource: TypeAlias = str | Path | QuantizationConfig
"""A config; or a path: of a config's JSON, of a workspace, ``WORKSPACE:TRIAL``, or of a model that a run has saved."""
TrainFunction: TypeAlias = Callable[[Any], Any]
"""The user's training: given a model of their framework in training mode, trains it in place or returns another."""


class Options(TypedDict, total=False):
    """The options of :class:`autotune.Tuner`, which says what each of them means."""

    criterion: Criterion
    strategy: str | Strategy | BaseSampler
    strategy_options: Mapping[str, Any]
    objective: Objective | str
    constraints: Constraints | None
    instances: int
    max_trials: int | None
    timeout_s: float | None
    seed: int
    threads: int
    batch_size: int
    batch_axis: BatchAxis | None
    warmup: int
    sampling_size: int | None
    workspace: str | Path | None
    storage: str | None
    fresh: bool
    framework: str
    runtimes: Sequence[str] | None
    restriction: SpaceRestriction
    portable: bool
    interval_width: float
    latency_max_s: float | None
    latency_cache: CacheState | str
    criteria: Mapping[str, Criterion]
    holdout: float | None
    early_stopping: bool
    isolation: Isolation | str
    trial_timeout_s: float | None
    trial_memory_bytes: int | None
    max_compilations: int | None
    compilation_max_s: float | None
    train_fn: TrainFunction | None
    start_from: ConfigSource | None
    stop_when_confirmed: bool
    command: str | None
    progress: bool
    observer: Observer


class Keywords(Options, total=False):
    """The same, and the other way of scoring; see :meth:`autotune.Tuner.tune`."""

    metric: Metrics | None
    eval_dataloader: Iterable[object] | None


def explicit(short: Callable[..., Any], tuner: type[Any]) -> inspect.Signature:
    """The signature of ``tune`` with each option by its name and default, for ``help`` and notebooks.

    Args:
        short: The function, which takes the options as keywords of any name.
        tuner: The class that has them.
    """
    own, options = inspect.signature(short), inspect.signature(tuner).parameters
    sources = inspect.signature(tuner.tune).parameters
    named = [*options.values(), sources["metric"], sources["eval_dataloader"]]
    given = [each for each in own.parameters.values() if each.kind is not each.VAR_KEYWORD]
    return own.replace(parameters=[*given, *(each.replace(kind=each.KEYWORD_ONLY) for each in named)])
