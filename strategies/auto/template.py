"""The template after a first config that misses: a config, and the steps from it towards fp32."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeAlias

import numpy as np

from autotune.config import FP32, OpConfig, Precision, QuantizationConfig
from autotune.strategies.auto.loss_model import Template
from autotune.strategies.auto.steps import Step, fastest_config, is_faster, ladder, latency_of, steps_of
from autotune.strategies.planning.moves import can_fall_back, uniform_configs
from autotune.strategy import Problem

_FOCUS = 12
"""How many ops, the most sensitive ones, are looked at one by one under another calibration or precision."""

_ABOUT = 1.1
"""Output errors within this factor say nothing of which loss is smaller."""

_NOISE = 0.3
"""Output error beyond which ranges are not compared: what does that much is an op that no range makes harmless."""

_ErrorOf: TypeAlias = Callable[[Mapping[str, OpConfig]], float]
"""The output error of choices; not a number where there was no time to measure it."""


def make_template(problem: Problem, opening: QuantizationConfig, templates: int) -> Template:
    """The config with the least output error among uniform ones and a mixture of two of them, and steps to fp32.

    Only those compete that compute as the fastest one does and share its recipe, since nothing is known of their speed,
    and with the ops that are faster in fp32 left there. In the mixture the most sensitive ops take the calibration and
    weight scheme that disturb less when they alone are quantized. Recipes that take seconds to apply are left out of
    the comparison, as they are of the sensitivities.

    Args:
        problem: The problem whose insights are asked.
        opening: The config that missed.
        templates: How many uniform configs compete.
    """
    fastest = fastest_config(problem)
    quick = problem.space.recipe.quick(problem.space.preferred.recipe)
    ops = [op for op in can_fall_back(problem.space) if fastest[op] != FP32]
    fast = {op for op in ops if opening[op] == FP32}

    def error_of(choices: Mapping[str, OpConfig]) -> float:
        kept = {op: choice for op, choice in choices.items() if op not in fast}
        return problem.insights.output_error(QuantizationConfig(ops=kept, recipe=quick))

    errors = _own_errors(problem, fastest, ops, quick_error=error_of)
    config, single = _least_disturbed(problem, fastest, errors, fast, templates, error_of)
    focus = set(_most_sensitive(single, fast))
    steps = _steps(problem, config, errors, single, focus, error_of)
    return Template(config=config, steps=steps, measured=True)


def with_recipe_that_helps(
    problem: Problem, opening: QuantizationConfig, template: Template, *, evaluated: bool
) -> Template:
    """The template, without what its recipe does to values in seconds, unless that is known to help.

    Predictions and checks are of the quick recipe. The additions of the expensive one, above all biases corrected in
    full, halve the loss of MobileNetV2 and may harm a detector whose scores are small: YOLOv8n with its worst six ops
    in fp32 has an output error of 0.010 with the quick recipe, which takes 0.3 s, and of 0.012 with the full one, which
    takes 4 s.

    Args:
        problem: The problem whose insights are asked.
        opening: The first config.
        template: The template to continue from.
        evaluated: Whether the first config was; where its output error ruled it out, nothing speaks for its recipe.
    """
    quick = problem.space.quick(template.config)
    if template.config == quick:
        return template
    if evaluated:
        error = problem.insights.output_error(dataclasses.replace(opening, recipe=quick.recipe))
        if not problem.insights.output_error(opening) > error:
            return template
    return dataclasses.replace(template, config=quick)


def dynamic_alone(problem: Problem) -> QuantizationConfig | None:
    """The ops that their profile says are faster in dynamic int8 than in fp32, and nothing else quantized.

    Ranges that every call finds anew disturb least, and one large matrix product may be all that a model can have in
    integers: PP-OCRv4, which reads lines of text, keeps 1 % so at 1.05x and with no static config that was tried.

    Args:
        problem: The problem whose space and profile are read.

    Returns:
        None where no op is of that kind.
    """
    seconds = latency_of(problem)
    ops = {}
    for op in problem.space.tunable:
        within = op.space_of(Precision.INT8_DYNAMIC)
        if within is not None and _beats_fp32(within.precision, seconds.get(op.name, {})):
            ops[op.name] = within.preferred
    return problem.space.quick(QuantizationConfig(ops=ops, recipe=problem.space.preferred.recipe)) if ops else None


def _beats_fp32(precision: Precision, seconds: Mapping[Precision, float]) -> bool:
    """Whether an op's profile says that it is faster in a precision than in fp32."""
    return is_faster(seconds.get(precision, math.inf), seconds.get(Precision.FP32, 0.0))


def _own_errors(
    problem: Problem, fastest: QuantizationConfig, ops: Sequence[str], quick_error: _ErrorOf
) -> dict[str, float]:
    """By op, the output error with it alone in its fastest precision."""
    own = problem.insights.sensitivity()
    preferred = problem.space.preferred
    moved = {op: quick_error({op: fastest[op]}) for op in ops if fastest[op] != preferred[op]}
    return {op: own.get(op, 0.0) if math.isnan(moved.get(op, math.nan)) else moved[op] for op in ops}


def _uniform(problem: Problem, fastest: QuantizationConfig) -> Iterator[QuantizationConfig]:
    """Configs like the fastest one but for the calibration or the weight scheme; that one first, each once."""
    preferred = problem.space.preferred
    moved = {op: choice for op, choice in fastest.ops.items() if choice.precision != preferred[op].precision}
    seen = set()
    for config, _ in uniform_configs(problem.space):
        alike = config.recipe == preferred.recipe and all(
            config[op].precision is preferred[op].precision and config[op].activation == preferred[op].activation
            for op in preferred.ops
        )
        changed = config.replace(moved)
        if alike and changed not in seen:
            seen.add(changed)
            yield changed


def _least_disturbed(
    problem: Problem,
    fastest: QuantizationConfig,
    errors: Mapping[str, float],
    fast: set[str],
    templates: int,
    error_of: _ErrorOf,
) -> tuple[QuantizationConfig, dict[str, float]]:
    """The config to go on with, and by op its output error alone in it."""
    alike = list(islice(_uniform(problem, fastest), templates))
    if len(alike) < 2:
        return fastest, dict(errors)
    first = error_of(alike[0].ops)
    if first > _NOISE:
        return fastest, dict(errors)
    others = (error_of(config.ops) for config in alike[1:])
    whole = [math.inf if math.isnan(error) else error for error in (first, *others)]
    # The fastest one has been measured and missed: one that is about as good deserves its turn.
    whole[0] *= _ABOUT
    best = alike[int(np.argmin(whole))]
    if best == fastest:
        return best, dict(errors)
    share = min(whole) / whole[0] if math.isfinite(whole[0]) and whole[0] > 0 else 1.0
    focus = _most_sensitive(errors, fast)
    looked_at = {op: error_of({op: best[op]}) for op in focus}
    single = {op: error * share for op, error in errors.items()}
    single |= {op: error for op, error in looked_at.items() if not math.isnan(error)}
    better = [op for op in focus if errors[op] < single[op]]
    mixed = best.replace({op: fastest[op] for op in better})
    if better and error_of(mixed.ops) < min(whole):
        best = mixed
        single.update({op: errors[op] for op in better})
    return best, single


def _steps(
    problem: Problem,
    config: QuantizationConfig,
    errors: Mapping[str, float],
    single: Mapping[str, float],
    focus: set[str],
    error_of: _ErrorOf,
) -> list[Step]:
    """The steps of every op; those of the most sensitive ones go through the choices in between."""
    latency = latency_of(problem)
    steps: list[Step] = []
    for op in errors:
        others: dict[OpConfig, float] = {}
        if op in focus:
            offered = problem.space.by_name[op].precisions
            seconds = latency.get(op, {})
            # Choices that are no faster than fp32 are left out, whatever their error.
            between = [p.preferred for p in offered if p.preferred != FP32 and _beats_fp32(p.precision, seconds)]
            measured = {c: error_of({op: c}) for c in between if c.precision is not config[op].precision}
            others = {choice: error for choice, error in measured.items() if not math.isnan(error)}
        rungs = ladder(config[op], others, single[op], latency.get(op, {}))
        steps += steps_of(op, rungs, errors[op], len(steps))
    return steps


def _most_sensitive(errors: Mapping[str, float], fast: set[str]) -> list[str]:
    return sorted((op for op in errors if op not in fast), key=lambda op: -errors[op])[:_FOCUS]
