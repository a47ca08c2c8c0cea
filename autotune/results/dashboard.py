"""A study of the trials in a form for ``optuna-dashboard``, beside the history that a run goes on from.

The history's own study serves the search: its value for a candidate that misses the target is a penalty, and its
parameters are those of every op. A reader wants the model's name, figures by their names, and what differs.
"""

from __future__ import annotations

import datetime
import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autotune.criterion import Verdict
from autotune.recipe import recipe_names
from autotune.results.summary import TuningSummary
from autotune.strategy import Objective
from autotune.trial import Trial
from autotune.tuning.storage import add_trials, open_storage, remove_study, storage_errors

_MOST_PARAMETERS = 40
"""Parameters of a trial; a page with more shows nothing."""

_METRICS = {
    Objective.LATENCY: "speedup",
    Objective.SIZE: "size_bytes",
    Objective.MEMORY: "peak_memory_bytes",
    Objective.ACCURACY: "loss",
    Objective.THROUGHPUT: "throughput_gain",
}
_MAXIMIZED = frozenset({"speedup", "throughput_gain"})
_OURS = "autotune:dashboard"
"""Attribute of a study that this module wrote; others of that name are the user's, and stay."""


def write_dashboard(storage: Path | str, summary: TuningSummary, model: str = "") -> str:
    """Write the study anew, in the place of the one that an earlier call wrote.

    Its best trial is the run's answer: trials that miss the target, or that a race has found slower, are pruned.

    Args:
        storage: The workspace folder, or the Optuna storage URL of the history.
        summary: The run's outcome.
        model: Name of the model, which becomes the study's. Empty takes that of the last run: the file's without its
            ending, or the name of the module's class.

    Returns:
        The study's name: the model's, with a number where the storage has another study of that name.

    Raises:
        WorkspaceError: The storage cannot be written.
    """
    import optuna  # noqa: PLC0415  half a second

    metric = _METRICS[summary.objective]
    model = model or _model_of(summary)
    with storage_errors(storage):
        opened = open_storage(storage)
        there = optuna.get_all_study_names(opened)
        tried = itertools.chain([model], (f"{model} ({count})" for count in itertools.count(2)))
        name = next(each for each in tried if each not in there or _is_ours(opened, each))
        if name in there:
            remove_study(name, opened)
        directions = optuna.study.StudyDirection
        direction = directions.MAXIMIZE if metric in _MAXIMIZED else directions.MINIMIZE
        study = optuna.create_study(study_name=name, storage=opened, direction=direction)
        study.set_user_attr(_OURS, True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([metric])
        study.set_user_attr("verdict", str(summary.verdict))
        study.set_user_attr("reason", summary.reason)
        add_trials(study, _trials(summary, metric))
    return name


def _model_of(summary: TuningSummary) -> str:
    runs = summary.evidence.runs
    return Path(str(runs[-1].get("model", ""))).stem if runs and runs[-1].get("model") else "model"


def _is_ours(storage: Any, name: str) -> bool:
    import optuna  # noqa: PLC0415  as above

    return _OURS in optuna.load_study(study_name=name, storage=storage).user_attrs


def _trials(summary: TuningSummary, metric: str) -> list[Any]:
    from optuna.distributions import BaseDistribution, CategoricalDistribution  # noqa: PLC0415  as above
    from optuna.trial import TrialState, create_trial  # noqa: PLC0415

    parameters = differing(summary.history)
    choices: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(tuple(dict.fromkeys(values))) for name, values in parameters.items()
    }
    best = _value(summary.best, metric)
    made, times = [], _times(summary)
    for index, trial in enumerate(summary.history):
        value = shown = _value(trial, metric)
        answers = trial.number == summary.best.number
        if not answers and (not _meets(trial) or _better(value, best, metric)):
            shown = None
        state = TrialState.PRUNED if trial.measurement is not None else TrialState.FAIL
        one = create_trial(
            state=state if shown is None else TrialState.COMPLETE,
            value=shown,
            params={name: values[index] for name, values in parameters.items()},
            distributions=choices,
            user_attrs=_attributes(trial),
            # The dashboard draws pruned trials by them.
            intermediate_values={} if shown is not None or value is None else {0: value},
        )
        one.datetime_start, one.datetime_complete = times[index]
        made.append(one)
    return made


def _times(summary: TuningSummary) -> list[tuple[datetime.datetime, datetime.datetime]]:
    """Begin and end of each trial: one after the other, from the beginning of the first run on."""
    runs = summary.evidence.runs
    began = datetime.datetime.fromisoformat(str(runs[0]["started"])) if runs else datetime.datetime.now(datetime.UTC)
    at = began.astimezone().replace(tzinfo=None)  # as Optuna stores them
    found = []
    for trial in summary.history:
        end = at + datetime.timedelta(seconds=trial.duration_s or 0.0)
        found.append((at, end))
        at = end
    return found


def differing(trials: Sequence[Trial]) -> dict[str, list[str]]:
    """By op or option that differs between trials, its choice in each of them; those that vary most come first."""
    configs = [trial.config for trial in trials]
    ops = dict.fromkeys(name for config in configs for name in config.ops)
    found = {
        name: [str(config.ops[name].precision) if name in config.ops else "fp32" for config in configs] for name in ops
    }
    options = dict.fromkeys(name for config in configs for name in recipe_names(tuple(config.recipe.options)))
    for name in options:
        found[f"recipe/{name}"] = [str(_option(config.recipe, name)) for config in configs]
    rare = {name: len(values) - max(map(values.count, set(values))) for name, values in found.items()}
    names = sorted((name for name in found if rare[name]), key=lambda name: -rare[name])[:_MOST_PARAMETERS]
    return {name: found[name] for name in names}


def _option(recipe: Any, name: str) -> object:
    try:
        return recipe[name]
    except KeyError:
        return "default"


def _value(trial: Trial, metric: str) -> float | None:
    value = None if trial.measurement is None else getattr(trial.measurement, metric)
    if value is None and metric in _MAXIMIZED and trial.config.is_fp32 and not trial.config.prepared:
        return 1.0
    return None if value is None else float(value)


def _meets(trial: Trial) -> bool:
    return trial.measurement is not None and trial.measurement.verdict in (Verdict.MET, None)


def _better(value: float | None, best: float | None, metric: str) -> bool:
    if value is None or best is None:
        return False
    return value > best if metric in _MAXIMIZED else value < best


def _attributes(trial: Trial) -> dict[str, Any]:
    measured = trial.measurement
    figures: dict[str, Any] = {"number": trial.number, "note": trial.note or "", "reason": trial.reason or ""}
    if measured is not None:
        names = ("accuracy", "loss", "speedup", "latency_ms", "size_bytes")
        figures |= {name: getattr(measured, name) for name in names}
        figures["verdict"] = None if measured.verdict is None else str(measured.verdict)
    return {name: value for name, value in figures.items() if value not in (None, "")}
