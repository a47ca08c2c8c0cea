"""Candidates that ``auto`` tries once the ops are settled: other execution, and free accuracy."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator

from autotune.config import CalibrationMethod, Precision, Recipe, WeightRounding
from autotune.space import RecipeSpace
from autotune.strategies.planning.moves import cost_of
from autotune.strategies.planning.planned import Plan
from autotune.strategy import Objective, Problem, Proposal
from autotune.trial import Trial

_FASTER = 1.03
"""How much faster an option must be for certain before a trial is spent on it: two sessions of one model can differ by
up to 5 % for as long as they live, and the first one opened is the slower one more often than not."""

_COMFORTABLE = 0.25
"""Share of the target up to which less loss is not looked for."""


def afterwards(problem: Problem, plan: Plan, *, spare: int) -> Plan:
    """Follow a plan to its end; then try what is left to gain on the best config that it found.

    *Execution options* are compared with the best config side by side in a second or two
    (:meth:`autotune.strategy.Insights.relative_speed`), and only those that are clearly faster become trials: none on
    most models, since what a runtime does by default is best for most.

    *Free accuracy*: where the best loses more than a quarter of what is allowed, other weight roundings and
    calibration algorithms run the same kernels and may lose less. Among configs that are equally fast, the one that
    loses least is the answer (:mod:`autotune.tuning.answer`).

    Args:
        problem: The problem, whose space says what there is.
        plan: The plan that settles the ops.
        spare: How many configs may be tried for their accuracy.
    """
    reason, best = yield from _follow(problem, plan)
    if best is None or problem.objective is not Objective.LATENCY:
        return reason
    for proposal in list(_faster_options(problem, best)):
        trial = yield proposal
        best = _better(problem, best, trial)
    losses = [_loss(best)]
    for proposal in list(_equally_fast(problem, best))[:spare]:
        if min(losses) <= _COMFORTABLE * problem.criterion.target:
            break
        losses.append(_loss((yield proposal), otherwise=losses[0]))
    return reason


def _follow(problem: Problem, plan: Plan) -> Generator[Proposal, Trial, tuple[str, Trial | None]]:
    """Pass a plan's proposals on; its reason to end, and the best trial that keeps the target."""
    best: Trial | None = None
    try:
        proposal = next(plan)
        while True:
            trial = yield proposal
            best = _better(problem, best, trial)
            proposal = plan.send(trial)
    except StopIteration as end:
        return end.value, best


def _better(problem: Problem, best: Trial | None, trial: Trial) -> Trial | None:
    if not trial.met or trial.config.is_fp32:
        return best
    return trial if best is None else min(best, trial, key=lambda each: cost_of(problem, each))


def _faster_options(problem: Problem, best: Trial) -> Iterator[Proposal]:
    """The best config with one execution option changed, the fastest first, where it is clearly faster."""
    speeds: dict[Recipe, tuple[float, float]] = {}
    space = problem.space.recipe
    for option in space.execution_options:
        for recipe in space.others(best.config.recipe, option):
            config = dataclasses.replace(best.config, recipe=recipe)
            speeds[recipe] = problem.insights.relative_speed(best.config, config)
            if speeds[recipe][1] < 1.0:
                break  # the values of an option go ever further away from the default
    for recipe, (low, high) in sorted(speeds.items(), key=lambda item: -item[1][0]):
        if low > _FASTER:
            changed = _named(space, best.config.recipe, recipe)
            note = f"{changed}: {low:.2f} to {high:.2f} times as fast when tried by itself"
            yield Proposal(config=dataclasses.replace(best.config, recipe=recipe), note=note)


def _named(space: RecipeSpace, before: Recipe, after: Recipe) -> str:
    changed = next(name for name in space.execution_options if space.value(before, name) != space.value(after, name))
    return f"{changed} {space.value(after, changed)}"


def _equally_fast(problem: Problem, best: Trial | None) -> Iterator[Proposal]:
    """The best config with other values on the same kernels: other ranges, then weights rounded with care.

    Ranges first, least squared error before percentiles: they cost no time, GPTQ takes seconds.
    """
    if best is None:
        return
    config, recipe = best.config, best.config.recipe
    static = [op for op, choice in config.ops.items() if choice.precision is Precision.INT8]
    offered = dict.fromkeys(
        algorithm
        for op in static
        for within in problem.space.by_name[op].precisions
        if within.precision is Precision.INT8
        for algorithm in within.algorithms
        if algorithm != config[op].calibration and algorithm.method is not CalibrationMethod.MINMAX
    )
    for algorithm in sorted(offered, key=lambda each: each.method is not CalibrationMethod.MSE):
        wanted = {op: dataclasses.replace(config[op], calibration=algorithm) for op in static}
        changes = {op: choice for op, choice in wanted.items() if choice in problem.space.by_name[op]}
        yield Proposal(config=config.replace(changes), note=f"as fast, ranges by {algorithm}", needs_accuracy=True)
    for rounding in problem.space.recipe.weight_rounding:
        if rounding is WeightRounding.GPTQ is not recipe.weight_rounding:
            changed = dataclasses.replace(config, recipe=dataclasses.replace(recipe, weight_rounding=rounding))
            yield Proposal(config=changed, note=f"as fast, weights rounded by {rounding}", needs_accuracy=True)


def _loss(trial: Trial | None, otherwise: float = 0.0) -> float:
    """The measured loss of a trial that keeps the target."""
    return otherwise if trial is None or not trial.met or trial.loss is None else trial.loss
