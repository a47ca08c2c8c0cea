"""The choices that ``auto`` makes: for each op, steps from its fastest precision towards fp32.

An op that int8 alone is offered for has one step, to fp32. Where there is something in between, slower than one and
more exact than the other, it is a step of its own: to the dynamic kernel, say, and from there to fp32. Each step
adds its own time and takes away its own loss, so that steps are to the integer program what ops would be. Only those
on the lower convex hull of time against error are kept: the first step of an op is always the better bargain, and a
choice that takes the second without the first is never needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from autotune.config import FP32, OpConfig, Precision, QuantizationConfig
from autotune.strategies.moves import can_fall_back
from autotune.strategies.prediction import Vector
from autotune.strategies.program import Flags
from autotune.strategy import Objective, Problem

DOUBT = 0.15
RESOLUTION_S = 2e-6
"""One precision counts as faster than another only where its profile says so by more than this share and these seconds:
profiles of two models are told apart no better, and count whole microseconds."""

Seconds = Mapping[str, Mapping[Precision, float]]


@dataclass(frozen=True, kw_only=True)
class Step:
    """A flag of a choice: when it is on, the op computes in ``after`` instead of ``before``.

    Attributes:
        op: Whose step it is.
        before: What it leaves.
        after: What it comes to.
        error: By how much the output error falls; 0 where it was not needed.
        opening_error: The same if the op started from what the first config gave it.
        needs: Position of the step before it; None for the first.
    """

    op: str
    before: OpConfig
    after: OpConfig
    error: float = 0.0
    opening_error: float = 0.0
    needs: int | None = None


def single_steps(problem: Problem, config: QuantizationConfig) -> list[Step]:
    """From each op's choice in a config to fp32 at once."""
    return [Step(op=op, before=config[op], after=FP32) for op in can_fall_back(problem.space) if config[op] != FP32]


def config_of(template: QuantizationConfig, steps: Sequence[Step], choice: Flags) -> QuantizationConfig:
    """The config that a choice stands for."""
    return template.replace({step.op: step.after for step, on in zip(steps, choice, strict=True) if on})


def in_order(steps: Sequence[Step], choices: Flags) -> Flags:
    """Of each choice, (p, n), whether no step is taken without the one before it."""
    second = [(i, step.needs) for i, step in enumerate(steps) if step.needs is not None]
    if not second:
        return np.ones(len(choices), dtype=bool)
    after, before = (np.array(positions) for positions in zip(*second, strict=True))
    ordered: Flags = np.all(choices[:, before] | ~choices[:, after], axis=1)
    return ordered


def latency_of(problem: Problem) -> Seconds:
    """The profile, where latency is what counts."""
    return problem.insights.op_latency() if problem.objective is Objective.LATENCY else {}


def fastest_config(problem: Problem) -> QuantizationConfig:
    """The preferred config, with each op in the quantized precision that its profile says is fastest.

    Preferred it stays where another is not faster by more than the noise of profiles. Ops that are preferred in fp32
    stay there: adapters know of accuracy what profiles do not.
    """
    latency = latency_of(problem)
    preferred = problem.space.preferred
    faster = {}
    for op in problem.space.tunable:
        own = preferred[op.name]
        seconds = latency.get(op.name, {})
        if own == FP32 or own.precision not in seconds:
            continue
        others = [p for p in op.precisions if p.precision in seconds and p.precision is not Precision.FP32]
        best = min(others, key=lambda within: seconds[within.precision])
        if is_faster(seconds[best.precision], seconds[own.precision]):
            faster[op.name] = best.preferred
    return preferred.replace(faster)


def is_faster(seconds: float, than: float) -> bool:
    """Whether one profiled time is less than another by more than the noise of both."""
    return than - seconds > DOUBT * min(seconds, than) + RESOLUTION_S


def ladder(
    start: OpConfig, others: Mapping[OpConfig, float], start_error: float, seconds: Mapping[Precision, float]
) -> list[tuple[OpConfig, float]]:
    """What lies between an op's start and fp32, with output errors: those on the convex hull of time and error.

    Args:
        start: Its fastest choice.
        others: The errors of others that are offered.
        start_error: That of the start.
        seconds: By precision.

    Returns:
        From the start to fp32, both included.
    """
    known = start.precision in seconds and Precision.FP32 in seconds
    points = [(seconds[start.precision], start_error, start)] if known else []
    end = (seconds[Precision.FP32], 0.0, FP32) if known else None
    if end is None:
        return [(start, start_error), (FP32, 0.0)]
    between = [
        (seconds[choice.precision], error, choice)
        for choice, error in others.items()
        if choice.precision in seconds and error < start_error and is_faster(seconds[choice.precision], end[0])
    ]
    hull = points
    for point in [*sorted(between, key=lambda each: each[:2]), end]:
        if point is not end and point[1] >= hull[-1][1]:
            continue
        while len(hull) > 1 and _slope(hull[-1], point) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(point)
    return [(choice, error) for _, error, choice in hull]


def _slope(first: tuple[float, float, OpConfig], second: tuple[float, float, OpConfig]) -> float:
    """Seconds for each unit of error that is taken away."""
    removed = first[1] - second[1]
    # A start that is no faster than what follows costs nothing to leave.
    return max(second[0] - first[0], 0.0) / removed if removed > 0 else float("inf")


def steps_of(op: str, rungs: Sequence[tuple[OpConfig, float]], opening_error: float, position: int) -> list[Step]:
    """The steps along a ladder.

    Args:
        op: Its name.
        rungs: As :func:`ladder` gives them.
        opening_error: The error of what the first config gave the op; its share is the same for every step.
        position: Of the first step among all.
    """
    total = rungs[0][1]
    ratio = opening_error / total if total > 0 and np.isfinite(total) and np.isfinite(opening_error) else 1.0
    return [
        Step(
            op=op,
            before=before,
            after=after,
            error=error - left,
            opening_error=ratio * (error - left),
            needs=None if index == 0 else position + index - 1,
        )
        for index, ((before, error), (after, left)) in enumerate(pairwise(rungs))
    ]


def errors_of(steps: Sequence[Step]) -> tuple[Vector, Vector]:
    """What each step takes away of the output error, and what it would have from the first config."""
    return np.array([step.error for step in steps]), np.array([step.opening_error for step in steps])
