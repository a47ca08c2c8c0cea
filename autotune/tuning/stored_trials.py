"""Trials as an Optuna study stores them: the keys of their attributes, and how they are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from autotune.config import QuantizationConfig
from autotune.errors import WorkspaceError
from autotune.parsing import parse_json
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.bulk import CONFIG

NOTE, MEASUREMENT = "autotune:note", "autotune:measurement"
STATE, REASON, DURATION, DUPLICATE = (
    "autotune:state",  # Optuna has no pruned trials in studies of several objectives, and no interrupted ones at all
    "autotune:reason",
    "autotune:duration_s",
    "autotune:duplicate_of",
)
MODEL, SAME_AS = "autotune:model", "autotune:same_as"
HANDED, TAKEN = "autotune:handed_over", "autotune:taken_from"
"""Keys of a trial that another host handed over, and of the one in which it is timed."""
IDENTITY, FORMAT, KEPT = "autotune:identity", "autotune:format", "autotune:kept:"
"""Keys of a study: what its trials are about, the format, and the prefix of what is kept beside them."""
REVISION = "revision:"
"""Prefix of a trial's number in the key under which the trial that :meth:`History.revise` is given is kept."""


def objective_value(measurement: Measurement, objective: Objective) -> float | None:
    """The figure to minimise: latency or the time per sample as a share of the baseline's, bytes, or the loss.

    None where it was not measured.
    """
    if objective is Objective.LATENCY:
        return None if measurement.speedup is None else 1.0 / measurement.speedup
    if objective is Objective.ACCURACY:
        return measurement.loss
    if objective is Objective.THROUGHPUT:
        return None if measurement.throughput_gain is None else 1.0 / measurement.throughput_gain
    size = measurement.size_bytes if objective is Objective.SIZE else measurement.peak_memory_bytes
    return None if size is None else float(size)


def constraint_of(trial: Trial, loss: float, objective: Objective, target: float) -> float:
    """The figure by which a constrained sampler tells what is allowed: at most 0 where it is."""
    if objective is Objective.ACCURACY:
        return -1.0 if trial.met else 1.0
    return loss - target


def told_values(measurement: Measurement, objective: Objective, *, multi_objective: bool) -> list[float] | None:
    """The values that a sampler is told of a trial; None where one was not measured."""
    if not multi_objective:
        value = objective_value(measurement, objective)
        return None if value is None else [value]
    values = [objective_value(measurement, Objective.LATENCY), measurement.loss, measurement.size_bytes]
    return None if None in values else [float(value) for value in values if value is not None]


def counts(frozen: FrozenTrial) -> bool:
    """Whether a trial of the study is one of the run's: it was given a config, and no earlier trial answered it.

    The config of one that was interrupted counts as untried.
    """
    attrs = frozen.user_attrs
    return CONFIG in attrs and DUPLICATE not in attrs and not interrupted(frozen)


def interrupted(frozen: FrozenTrial) -> bool:
    """Whether a trial ended without an outcome of ours."""
    return frozen.state is OptunaState.FAIL and STATE not in frozen.user_attrs and DUPLICATE not in frozen.user_attrs


def lost(frozen: FrozenTrial) -> bool:
    """Whether a trial ended without an outcome of ours, and nothing of it was handed over."""
    return interrupted(frozen) and HANDED not in frozen.user_attrs


def to_trial(frozen: FrozenTrial) -> Trial:
    """A trial as the study has it.

    Raises:
        WorkspaceError: It says what no version writes.
    """
    try:
        return _as_written(frozen)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WorkspaceError(
            f"Trial {frozen.number} of the history was altered, or is damaged: {type(error).__name__}: {error}. "
            "Restore it from a copy, or choose another workspace"
        ) from error


def _as_written(frozen: FrozenTrial) -> Trial:
    attrs = frozen.user_attrs
    config, measurement = attrs[CONFIG], attrs.get(MEASUREMENT)
    return Trial(
        number=frozen.number,
        config=QuantizationConfig.from_json(parse_json(config) if isinstance(config, str) else config),
        state=TrialState(attrs[STATE]) if frozen.state.is_finished() else TrialState.RUNNING,
        measurement=None if measurement is None else Measurement.from_json(measurement),
        reason=attrs.get(REASON),
        duration_s=attrs.get(DURATION),
        note=attrs.get(NOTE, ""),
        params=frozen.params,
        same_as=attrs.get(SAME_AS),
        model_fingerprint=attrs.get(MODEL),
    )


def revised(trial: Trial, revision: Mapping[str, Any] | None) -> Trial:
    """A trial with what :meth:`History.revise` recorded of it; None: nothing."""
    if revision is None:
        return trial
    measurement = revision["measurement"]
    return dataclasses.replace(
        trial,
        state=TrialState(revision["state"]),
        reason=revision["reason"],
        measurement=None if measurement is None else Measurement.from_json(measurement),
    )
