"""Runs what an experiment file describes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from autotune.adapters import get_adapter
from autotune.errors import CriterionError, ExperimentError, InputError, StrategyError
from autotune.evaluation import Metric, create_metric
from autotune.experiment.references import resolve
from autotune.experiment.schema import Experiment
from autotune.observer import Observer
from autotune.results.result import TuningResult
from autotune.results.stored_config import of_model, read_config
from autotune.results.summary import read_summary
from autotune.tuning.applying import QuantizedModel, made_by
from autotune.tuning.keywords import DEFAULT_FRAMEWORK, ConfigSource
from autotune.tuning.limits import SearchEnd
from autotune.tuning.metadata import metadata_of
from autotune.tuning.models import require_measured
from autotune.tuning.tuner import Tuner

_Found = TypeVar("_Found")

_SECTIONS: dict[type[InputError], tuple[str, ...]] = {
    ExperimentError: ("quantization",),
    StrategyError: ("tuning", "strategy"),
    CriterionError: ("tuning", "accuracy_criterion"),
}
"""The section that is to blame for an error that shows only when model and data are there."""


def tune_experiment(
    experiment: Experiment, observer: Observer, command: str | None = None, *, fresh: bool = False
) -> TuningResult:
    """Tune the model of an experiment.

    Args:
        experiment: The experiment as :func:`load_experiment` read it.
        observer: Is told what the run does.
        command: The command that repeats the run, for its report.
        fresh: Whether the history of an earlier run is removed first.

    Raises:
        InputError: An input that the experiment names cannot be used.
        Exception: Exceptions of the user's own functions, unchanged.
    """
    tuner = dataclasses.replace(make_tuner(experiment, observer), command=command, fresh=fresh)
    return _opened(experiment, tuner.tune)


def join_experiment(experiment: Experiment, observer: Observer) -> SearchEnd:
    """Take part in a run of an experiment; see :meth:`autotune.Tuner.take_part`, and :func:`tune_experiment`."""
    return _opened(experiment, make_tuner(experiment, observer).take_part)


def apply_experiment(experiment: Experiment, config: ConfigSource) -> QuantizedModel[Any]:
    """Quantize the model of an experiment by a stored config; see :func:`autotune.apply`.

    Args:
        experiment: Names the model, the calibration data and how much of it is used.
        config: The config, or where it is.

    Raises:
        InputError: An input that the experiment names cannot be used, or the config is of another model.
    """
    _require_filled(experiment)
    stored = read_config(config, experiment.model.framework)
    tuner = dataclasses.replace(make_tuner(experiment, Observer()), workspace=None, storage=None)
    runtime = stored.config.runtime if experiment.runtimes is not None else None
    model = experiment.model.open(experiment.directory, experiment.trust)
    loader = experiment.calibration.dataset.open(experiment.directory, experiment.trust)
    return made_by(tuner, model, stored.config, loader, runtime)


def _opened(experiment: Experiment, action: Callable[..., _Found]) -> _Found:
    """Call an action of the tuner with model and data."""
    _require_filled(experiment)
    model = experiment.model.open(experiment.directory, experiment.trust)
    loader = experiment.calibration.dataset.open(experiment.directory, experiment.trust)
    sources = _accuracy_sources(experiment)
    with _place_of_errors(experiment):
        return action(model, loader, **sources)


@contextmanager
def _place_of_errors(experiment: Experiment) -> Iterator[None]:
    """Put the line of the section that is to blame in front of an error."""
    try:
        yield
    except tuple(_SECTIONS) as error:
        keys = next(keys for kind, keys in _SECTIONS.items() if isinstance(error, kind))
        raise type(error)(f"{experiment.where(*keys)}: {error}") from error


def export_experiment(experiment: Experiment, number: int | None = None) -> QuantizedModel[Any]:
    """Make the model of a trial again, as it was measured.

    Args:
        experiment: The experiment whose run had the trial.
        number: Number of the trial; None: the answer.

    Raises:
        InputError: An input that the experiment names cannot be used, or there is no such trial.
        WorkspaceError: There is no run, or the model comes out otherwise than it was measured.
    """
    _require_filled(experiment)
    summary = read_summary(experiment.workspace if experiment.tuning.storage is None else experiment.tuning.storage)
    trial = summary.best if number is None else summary.trial(number)
    if trial.config.trained:
        raise InputError(f"Trial {trial.number} was trained: `Tuner.tune` in its workspace has its weights, and `save`")
    runtime = trial.config.runtime or summary.baseline_runtime
    tuner = make_tuner(experiment, Observer())
    model = experiment.model.open(experiment.directory, experiment.trust)
    loader = experiment.calibration.dataset.open(experiment.directory, experiment.trust)
    figures = metadata_of(get_adapter(runtime or tuner.framework), trial.config, trial.measurement, summary.criterion)
    made = made_by(tuner, model, trial.config, loader, runtime, figures)
    require_measured(trial, made.fingerprint if runtime is None else f"{runtime}:{made.fingerprint}")
    return made


def _require_filled(experiment: Experiment) -> None:
    if experiment.unfilled:
        raise ExperimentError("\n".join(experiment.unfilled))


def make_tuner(experiment: Experiment, observer: Observer) -> Tuner:
    """The tuner that an experiment describes."""
    storage = _storage(experiment)
    with _place_of_errors(experiment):
        return _made_tuner(experiment, observer, storage)


def _start_from(experiment: Experiment) -> ConfigSource | None:
    """The config to try first; of several models each has its own in the workspace of such a run."""
    source = experiment.tuning.start_from
    return source if source is None or experiment.name is None else of_model(source, experiment.name)


def _made_tuner(experiment: Experiment, observer: Observer, storage: str | None) -> Tuner:
    tuning, performance = experiment.tuning, experiment.evaluation.performance
    accuracy, train = experiment.evaluation.accuracy, experiment.quantization.train
    return Tuner(
        criterion=tuning.accuracy_criterion.criterion,
        strategy=tuning.strategy.name,
        strategy_options=tuning.strategy.options,
        objective=tuning.objective,
        constraints=None if tuning.constraints is None else tuning.constraints.constraints,
        instances=tuning.instances,
        max_trials=tuning.exit_policy.max_trials,
        timeout_s=tuning.exit_policy.timeout,
        max_compilations=tuning.exit_policy.max_compilations,
        compilation_max_s=tuning.exit_policy.compilation_timeout,
        start_from=_start_from(experiment),
        stop_when_confirmed=tuning.exit_policy.when_confirmed,
        seed=tuning.random_seed,
        threads=performance.threads,
        batch_size=performance.batch_size,
        batch_axis=performance.batch_axis,
        warmup=performance.warmup,
        interval_width=performance.interval_width,
        latency_max_s=performance.max_seconds,
        latency_cache=performance.cache,
        criteria={name: section.criterion for name, section in accuracy.criteria.items()},
        holdout=accuracy.holdout,
        early_stopping=accuracy.early_stopping,
        isolation=experiment.evaluation.isolation,
        trial_timeout_s=experiment.evaluation.trial_timeout,
        trial_memory_bytes=experiment.evaluation.trial_memory,
        sampling_size=experiment.calibration.sampling_size,
        workspace=experiment.workspace,
        storage=storage,
        framework=experiment.model.framework if experiment.runtimes is None else DEFAULT_FRAMEWORK,
        runtimes=experiment.runtimes,
        restriction=experiment.quantization.restriction(),
        portable=tuning.portable,
        train_fn=None if train is None else resolve(train.function, experiment.directory, experiment.trust),
        observer=observer,
    )


def _storage(experiment: Experiment) -> str | None:
    """The storage of an experiment.

    Raises:
        ExperimentError: Several models would share one history.
    """
    if experiment.tuning.storage is not None and experiment.name is not None:
        raise ExperimentError(
            f"{experiment.where('tuning', 'storage')}: a storage holds the history of one model, and `models` names "
            "several. Leave it out: each model has a workspace of its own"
        )
    return experiment.tuning.storage


def _accuracy_sources(experiment: Experiment) -> dict[str, Any]:
    """The arguments of ``Tuner.tune`` that say how accuracy is measured."""
    accuracy = experiment.evaluation.accuracy
    if accuracy.function is not None:
        function: Callable[..., Any] = resolve(accuracy.function, experiment.directory, experiment.trust)
        return {"eval_fn": function}
    assert accuracy.dataset is not None
    metrics = metrics_of(experiment)
    reading = [metric.name for metric in metrics if not metric.label_free]
    if reading and not accuracy.dataset.labelled:
        where = experiment.where("evaluation", "accuracy", "dataset")
        raise ExperimentError(
            f"{where}: metric {reading[0]!r} needs labels: name their array, or the file with the class of each "
            "picture, as `labels`, or use `agreement` or `cosine`, which compare with the fp32 model's own outputs"
        )
    loader: Iterable[object] = accuracy.dataset.open(experiment.directory, experiment.trust)
    return {"metric": metrics, "eval_dataloader": loader}


def metrics_of(experiment: Experiment) -> list[Metric]:
    """The metrics of an experiment; none where a function of the user's scores.

    Raises:
        ExperimentError: A metric is unknown, or an option of it.
    """
    accuracy = experiment.evaluation.accuracy
    if accuracy.metric is not None:
        return [_metric(experiment, accuracy.metric, accuracy.options, "metric")]
    return [_metric(experiment, each.metric, each.options, "metrics") for each in accuracy.metrics or ()]


def _metric(experiment: Experiment, name: str, options: dict[str, Any], key: str) -> Metric:
    try:
        return create_metric(name, **options)
    except InputError as error:
        raise ExperimentError(f"{experiment.where('evaluation', 'accuracy', key)}: {error}") from error
