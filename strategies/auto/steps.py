"""The choices that ``auto`` makes: for each op, steps from its fastest precision towards fp32.

An op that int8 alone is offered for has one step, to fp32. Where there is something in between, slower than one and
more exact than the other, it is a step of its own: to the dynamic kernel, say, and from there to fp32. Each step
adds its own time and takes away its own loss, so that steps are to the integer program what ops would be. Only those
on the lower convex hull of time against error are kept: the first step of an op is always the better bargain, and a
choice that takes the second without the first is never needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from autotune.config import FP32, OpConfig, Precision, QuantizationConfig
from autotune.strategies.auto.prediction import Vector
from autotune.strategies.auto.program import Flags
from autotune.strategies.planning.moves import can_fall_back
from autotune.strategy import Objective, Problem

DOUBT = 0.15
RESOLUTION_S = 2e-6
"""One precision counts as faster than another only where its profile says so by more than this share and these seconds:
profiles of two models are told apart no better, and count whole microseconds. Where repeated profiles of an op vary by
more than that, twice their standard error counts instead."""

_ALIKE = 4
_DOUBT_OF_MANY = 0.04
"""Gaps of so many alike ops that no profile tells from nothing one by one are added up, and count beyond this share of
their time: what varies from op to op is averaged, what is wrong with all profiles of a precision is not."""

Seconds = Mapping[str, Mapping[Precision, float]]


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How much longer an op takes in one precision than in another, as profiles say.

    Attributes:
        kind: Equal for ops that are alike.
        seconds: The difference; negative where the other one is faster.
        least: The smaller of both times.
        noise: Standard error of the difference in seconds.
    """

    kind: object
    seconds: float
    least: float
    noise: float

    @property
    def doubt(self) -> float:
        """Seconds by which a single profile may be wrong."""
        return max(DOUBT * self.least, 2 * self.noise) + RESOLUTION_S


@dataclass(frozen=True, kw_only=True)
class Step:
    """A flag of a choice: when it is on, the op computes in ``after`` instead of ``before``.

    Attributes:
        op: The op whose step it is.
        before: The choice that the step leaves.
        after: The choice that the step leads to.
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
    """Steps from each op's choice in a config to fp32 at once."""
    return [Step(op=op, before=config[op], after=FP32) for op in can_fall_back(problem.space) if config[op] != FP32]


def config_of(template: QuantizationConfig, steps: Sequence[Step], choice: Flags) -> QuantizationConfig:
    """The config that a choice stands for."""
    return template.replace({step.op: step.after for step, on in zip(steps, choice, strict=True) if on})


def in_order(steps: Sequence[Step], choices: Flags) -> Flags:
    """Whether each choice, (p, n), takes no step without the one before it."""
    second = [(i, step.needs) for i, step in enumerate(steps) if step.needs is not None]
    if not second:
        return np.ones(len(choices), dtype=bool)
    after, before = (np.array(positions) for positions in zip(*second, strict=True))
    ordered: Flags = np.all(choices[:, before] | ~choices[:, after], axis=1)
    return ordered


def latency_of(problem: Problem) -> Seconds:
    """The profile, where latency is what counts."""
    return problem.insights.op_latency() if problem.objective is Objective.LATENCY else {}


def noise_of(problem: Problem) -> Seconds:
    """Standard errors of the profile, where they are known."""
    return problem.insights.op_latency_noise() if problem.objective is Objective.LATENCY else {}


def fastest_config(problem: Problem) -> QuantizationConfig:
    """The preferred config, with each op in the quantized precision that its profile says is fastest.

    Preferred it stays where another is not faster by more than the noise of profiles. Ops that are preferred in fp32
    stay there: adapters know of accuracy what profiles do not.
    """
    latency, noise = latency_of(problem), noise_of(problem)
    preferred = problem.space.preferred
    others: dict[str, OpConfig] = {}
    gaps: dict[str, Gap] = {}
    for op in problem.space.tunable:
        own = preferred[op.name]
        seconds = latency.get(op.name, {})
        if own == FP32 or own.precision not in seconds:
            continue
        offered = [p for p in op.precisions if p.precision in seconds and p.precision is not Precision.FP32]
        best = min(offered, key=lambda within: seconds[within.precision])
        if best.precision is not own.precision:
            others[op.name] = best.preferred
            gaps[op.name] = gap_between(op.op_type, best.precision, own.precision, seconds, noise.get(op.name, {}))
    return preferred.replace({op: others[op] for op, certain in certain_gaps(gaps).items() if certain < 0})


def gap_between(
    op_type: str, one: Precision, other: Precision, seconds: Mapping[Precision, float], noise: Mapping[Precision, float]
) -> Gap:
    """By how much ``one`` takes longer than ``other``; noise that nobody measured is taken to be what is usual."""
    least = min(seconds[one], seconds[other])
    known = one in noise and other in noise
    return Gap(
        kind=(op_type, one, other),
        seconds=seconds[one] - seconds[other],
        least=least,
        noise=math.hypot(noise[one], noise[other]) if known else 0.5 * DOUBT * least,
    )


def certain_gaps(gaps: Mapping[str, Gap]) -> dict[str, float]:
    """The part of each gap that is beyond doubt, in seconds; 0 where nothing is.

    An op whose gap is within its noise is undecided. Undecided ops that are alike are decided together: 37 MatMuls
    that are 6 % faster each in another precision are 37 times as much seconds, and hardly more noise.
    """
    certain = {op: math.copysign(max(abs(gap.seconds) - gap.doubt, 0.0), gap.seconds) for op, gap in gaps.items()}
    undecided: dict[object, list[str]] = {}
    for op, gap in gaps.items():
        if certain[op] == 0:
            undecided.setdefault(gap.kind, []).append(op)
    for ops in undecided.values():
        total = sum(gaps[op].seconds for op in ops)
        noise = math.sqrt(sum(gaps[op].noise ** 2 + RESOLUTION_S**2 for op in ops))
        doubt = _DOUBT_OF_MANY * sum(gaps[op].least for op in ops) + 2 * noise
        if len(ops) >= _ALIKE and abs(total) > doubt:
            share = (abs(total) - doubt) / len(ops)
            certain.update(dict.fromkeys(ops, math.copysign(share, total)))
    return certain


def is_faster(seconds: float, than: float) -> bool:
    """Whether one profiled time is less than another by more than the noise of both."""
    return than - seconds > DOUBT * min(seconds, than) + RESOLUTION_S


def ladder(
    start: OpConfig, others: Mapping[OpConfig, float], start_error: float, seconds: Mapping[Precision, float]
) -> list[tuple[OpConfig, float]]:
    """Choices between an op's start and fp32, with output errors: those on the convex hull of time and error.

    Args:
        start: Fastest choice of the op.
        others: The errors of others that are offered.
        start_error: Output error of the start.
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
        op: Name of the op.
        rungs: Choices as :func:`ladder` returns them.
        opening_error: The error of what the first config gave the op; its share is the same for every step.
        position: Position of the first step among all.
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
    """The output error that each step removes, and the one that it would have removed from the first config."""
    return np.array([step.error for step in steps]), np.array([step.opening_error for step in steps])
