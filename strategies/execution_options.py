"""What is left to gain once the ops are settled: how the same integers are executed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from autotune.config import Recipe
from autotune.strategies.moves import cost_of
from autotune.strategies.replay import Plan
from autotune.strategy import Objective, Problem, Proposal
from autotune.trial import Trial

_FIELDS = ("format", "optimization")

_FASTER = 1.03
"""How much faster an option must be for certain before a trial is spent on it: two sessions of one model can differ by
up to 5 % for as long as they live, and the first one opened is the slower one more often than not."""


def with_execution_options(problem: Problem, plan: Plan) -> Plan:
    """Follow a plan to its end; then try execution options on the best config that it found.

    The options are compared with the best config side by side in a second or two
    (:meth:`autotune.strategy.Insights.relative_speed`), and only those that are clearly faster become trials: none on
    most models, since what ONNX Runtime does by default is best for most.

    Args:
        problem: Whose space says which options there are.
        plan: What settles the ops.
    """
    best: Trial | None = None
    try:
        proposal = next(plan)
        while True:
            trial = yield proposal
            if trial.met and not trial.config.is_fp32:
                best = trial if best is None else min(best, trial, key=lambda each: cost_of(problem, each))
            proposal = plan.send(trial)
    except StopIteration as end:
        reason: str = end.value
    if best is None or problem.objective is not Objective.LATENCY:
        return reason
    speeds = {
        recipe: problem.insights.relative_speed(best.config, dataclasses.replace(best.config, recipe=recipe))
        for recipe in _changed(problem, best)
    }
    for recipe, (low, high) in sorted(speeds.items(), key=lambda item: -item[1][0]):
        if low > _FASTER:
            note = f"{_named(best.config.recipe, recipe)}: {low:.2f} to {high:.2f} times as fast when tried by itself"
            yield Proposal(config=dataclasses.replace(best.config, recipe=recipe), note=note)
    return reason


def _changed(problem: Problem, best: Trial) -> Iterator[Recipe]:
    """The best config's recipe with one execution option changed."""
    for field in _FIELDS:
        for value in getattr(problem.space.recipe, field):
            if value != getattr(best.config.recipe, field):
                yield dataclasses.replace(best.config.recipe, **{field: value})


def _named(before: Recipe, after: Recipe) -> str:
    changed = next(field for field in _FIELDS if getattr(before, field) != getattr(after, field))
    return f"{changed} {getattr(after, changed)}"
