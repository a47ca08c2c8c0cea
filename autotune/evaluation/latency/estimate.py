"""Ratios of latencies with intervals that hold what repeats of a measurement show.

Two things make one measurement differ from the next: when it was taken, since the machine does other work, and which
sessions were measured, since their buffers lie elsewhere. Both are seen inside of one measurement, where it is spread
over several times and several sessions of each model, and both are part of the interval. A bootstrap over calls holds
neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autotune.criterion import Interval

Figures = npt.NDArray[np.float64]
"""Logarithms of the latency of one model, shape (sessions, stretches of time)."""

SINGLE_SESSION_SPREAD = 0.005
"""Standard deviation between sessions of one model that is assumed where no model has two. Measured: 0.5 and 0.6 % of
ten sessions of ResNet-20 and of MobileNetV2 on a Xeon with AMX."""
_SETTLED = 4.0
"""How many times the variance over time that between sessions is, where more calls no longer help."""


class Spread:
    """How much sessions of one model differ, pooled over all models that took part.

    Args:
        members: The figures of each model.
    """

    def __init__(self, members: Mapping[int, Figures]) -> None:
        means = [figures.mean(axis=1) for figures in members.values() if len(figures) > 1]
        self.freedom = float(sum(len(each) - 1 for each in means))
        if means:
            self.variance = float(sum(((each - each.mean()) ** 2).sum() for each in means)) / self.freedom
        else:
            self.variance, self.freedom = SINGLE_SESSION_SPREAD**2, math.inf


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A ratio of two latencies.

    Attributes:
        value: Baseline over candidate.
        interval: Interval of the value.
        settled: Whether more calls would hardly narrow the interval, since most of it is what sessions differ by.
    """

    value: float
    interval: Interval
    settled: bool

    @property
    def half_width(self) -> float:
        """Half width of the interval as a share of the value."""
        return max(self.interval.high - self.value, self.value - self.interval.low) / self.value


def ratio_of(
    baseline: Figures, candidate: Figures, spread: Spread, confidence: float, *, slow_down: float = 0.0
) -> Ratio:
    """Ratio of two latencies and its interval, Student's t on logarithms.

    The variance is the sum of that between sessions and that between stretches of time; its degrees of freedom are
    those of Welch and Satterthwaite.

    Args:
        baseline: Figures of the baseline, shape (sessions, stretches).
        candidate: Figures of the candidate over the same stretches, shape (sessions, stretches).
        spread: How much sessions of one model differ.
        confidence: Confidence of the interval.
        slow_down: By how much, in logarithms, all of it is wider than the noise tells.
    """
    paired = baseline.mean(axis=0) - candidate.mean(axis=0)
    stretches = len(paired)
    sessions = spread.variance * (1 / len(baseline) + 1 / len(candidate))
    time = float(paired.var(ddof=1)) / stretches
    half = slow_down
    if sessions + time > 0:
        share = sessions / (sessions + time)
        inverse = share**2 / spread.freedom + (1 - share) ** 2 / (stretches - 1)
        freedom = 1 / inverse if inverse > 0 else math.inf
        from scipy.special import stdtrit  # noqa: PLC0415  a run needs it, `import autotune` does not

        half += float(stdtrit(freedom, (1 + confidence) / 2)) * math.sqrt(sessions + time)
    middle = float(paired.mean())
    return Ratio(
        value=math.exp(middle),
        interval=Interval(low=math.exp(middle - half), high=math.exp(middle + half), confidence=confidence),
        settled=sessions > _SETTLED * time,
    )
