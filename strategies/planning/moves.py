"""The moves that strategies share: configs that treat all ops alike, and the order in which ops fall back to fp32."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from autotune.config import FP32, OpConfig, Precision, QuantizationConfig
from autotune.space import TuningSpace
from autotune.strategy import Objective, Problem
from autotune.trial import Trial
from autotune.tuning.stored_trials import objective_value


def uniform_configs(space: TuningSpace) -> Iterator[tuple[QuantizationConfig, str]]:
    """Configs that treat all ops alike, and what is particular about each.

    First the adapter's preference, then it with one thing changed: the calibration algorithm, the weight scheme, a
    recipe option, the precision, the activation scheme. Each once; their number does not grow with that of the ops.
    """
    seen = set()
    for config, note in _uniform_configs(space):
        if config not in seen:
            seen.add(config)
            yield config, note


def _uniform_configs(space: TuningSpace) -> Iterator[tuple[QuantizationConfig, str]]:
    preferred = space.preferred
    yield preferred, "every op as preferred"
    for algorithm in _offered(space, "algorithms"):
        yield _with(space, "calibration", "algorithms", algorithm), f"every op with {algorithm} calibration"
    for weight in _offered(space, "weights"):
        yield _with(space, "weight", "weights", weight), f"every op with {weight} weights"
    for name in reversed(space.recipe.names):
        for recipe in space.recipe.others(preferred.recipe, name):
            changed = f"{name}={space.recipe.value(recipe, name)}"
            yield dataclasses.replace(preferred, recipe=recipe), f"every op as preferred, {changed}"
    for precision in Precision:
        choices = {op.name: within.preferred for op in space.ops if (within := op.space_of(precision)) is not None}
        if precision is not Precision.FP32 and choices:
            # The recipe anew: a choice of it that the preferred config has no use for is not part of that.
            config = QuantizationConfig(ops={**preferred.ops, **choices}, recipe=space.recipe.preferred)
            yield config, f"every op that can be in {precision}"
    for activation in _offered(space, "activations"):
        yield _with(space, "activation", "activations", activation), f"every op with {activation} activations"


def _offered(space: TuningSpace, axis: str) -> list[object]:
    """The values that any op offers in its preferred precision."""
    # Ops share the few tuples there are, and hashing their members for each of 500 ops takes milliseconds.
    axes = {id(values): values for op in space.ops for values in (getattr(op.precisions[0], axis),)}
    return list(dict.fromkeys(value for values in axes.values() for value in values))


def _with(space: TuningSpace, field: str, axis: str, value: object) -> QuantizationConfig:
    """The preferred config, each op changed where it offers the change."""
    choices: dict[str, OpConfig] = {}
    changed: dict[int, OpConfig] = {}
    for op in space.ops:
        if value in getattr(op.precisions[0], axis):
            choice = changed.get(id(op.preferred))
            if choice is None:
                choice = dataclasses.replace(op.preferred, **{field: value})  # type: ignore[arg-type]  # its own values
                changed[id(op.preferred)] = choice
            choices[op.name] = choice
    return space.preferred.replace(choices)


def can_fall_back(space: TuningSpace) -> list[str]:
    """The ops that may compute in fp32 or in something else, in graph order."""
    return [op.name for op in space.tunable if FP32 in op]


def most_precise(space: TuningSpace) -> QuantizationConfig:
    """Every op in fp32 that can be, the others as preferred."""
    return space.preferred.replace(dict.fromkeys(can_fall_back(space), FP32))


def fallback_order(problem: Problem) -> list[str]:
    """The ops that can fall back to fp32, the most sensitive first; equals in graph order."""
    sensitivity = problem.insights.sensitivity()
    return sorted(can_fall_back(problem.space), key=lambda name: -sensitivity.get(name, 0.0))


def cost_of(problem: Problem, trial: Trial) -> float:
    """Cost of a trial by the objective, less is better; infinite where it was not measured.

    A latency that the machine was too busy to decide on was not measured.
    """
    if problem.objective is Objective.LATENCY and not speed_known(trial):
        return float("inf")
    cost = None if trial.measurement is None else objective_value(trial.measurement, problem.objective)
    return float("inf") if cost is None else cost


def speed_known(trial: Trial) -> bool:
    """Whether a trial's latency was measured and decided; the baseline's is the unit, whatever its noise."""
    measured = trial.measurement
    return measured is not None and (trial.config.is_fp32 or measured.latency_decided is not False)


def error_of(problem: Problem, config: QuantizationConfig) -> float:
    """The output error of a config; infinite also where there was no time to measure it, so that it comes last."""
    error = problem.insights.output_error(config)
    return float("inf") if math.isnan(error) else error


def loss_of(trial: Trial) -> float:
    """The measured loss; infinite where there is none."""
    return float("inf") if trial.loss is None else trial.loss
