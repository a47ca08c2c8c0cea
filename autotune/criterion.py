"""The accuracy target, and what can be said of a candidate under it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from autotune.arguments import check_fields
from autotune.errors import CriterionError

_MOST_SAMPLES = 1_000_000
"""Largest evaluation set that is considered: a loss that only a larger one would decide lies on the target."""


class Verdict(StrEnum):
    """Whether a candidate keeps the accuracy target."""

    MET = "met"
    MISSED = "missed"
    UNDECIDED = "undecided"
    """The evaluation set is too small to tell with the confidence that was asked for."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An interval that covers the true value with probability ``confidence``."""

    low: float
    high: float
    confidence: float = 0.95


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """The accuracy target: how much may be lost against the fp32 model.

    A loss is positive where the candidate is worse. Give ``relative`` (a share of the baseline's figure: 0.01 is 1 %)
    or ``absolute`` (in the metric's own unit); with neither it is 1 % relative.

    Attributes:
        relative: The largest relative loss.
        absolute: The largest absolute loss.
        higher_is_better: Whether a larger figure is a better one.
        confidence: Where given, only an upper bound of the loss counts as met, and with this probability a search
            calls nothing met that misses the target, however many candidates it tries (:meth:`for_candidate`). Without
            it the measured figure decides.
    """

    relative: float | None = None
    absolute: float | None = None
    higher_is_better: bool = True
    confidence: float | None = None

    def __post_init__(self) -> None:
        check_fields(self, CriterionError)
        if self.relative is not None and self.absolute is not None:
            raise CriterionError(
                f"Give `relative` or `absolute`, not both, but got relative={self.relative}, absolute={self.absolute}"
            )
        if self.relative is None and self.absolute is None:
            object.__setattr__(self, "relative", 0.01)
        for name in ("relative", "absolute"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise CriterionError(
                    f"`{name} >= 0` must hold, but got {value}: the target is the largest loss allowed"
                )
        if self.relative is not None and self.relative >= 1:
            raise CriterionError(
                f"`relative < 1` must hold, but got {self.relative}: it is a share, so that 1 % is 0.01"
            )
        if self.confidence is not None and not 0.5 <= self.confidence < 1:
            raise CriterionError(f"`0.5 <= confidence < 1` must hold, but got {self.confidence}")

    @property
    def target(self) -> float:
        """The largest loss allowed, in the unit of :meth:`loss`."""
        limit = self.relative if self.relative is not None else self.absolute
        assert limit is not None
        return limit

    def check_baseline(self, baseline: float) -> None:
        """See that a loss against this baseline has a meaning.

        Raises:
            CriterionError: The criterion is relative and the baseline is zero, negative or not finite.
        """
        if not math.isfinite(baseline):
            raise CriterionError(f"The fp32 model's own accuracy must be a finite number, but it is {baseline}")
        if self.relative is not None and baseline <= 0:
            raise CriterionError(
                f"A relative loss needs a positive baseline, but the fp32 model's accuracy is {baseline:g}. "
                + (
                    "Suspect preprocessing or labels first: does the data look as it did in training, and do labels "
                    "count from 0 in the model's order? Where 0 is right, give the target as `absolute`"
                    if baseline == 0
                    else "Give the target as `absolute` instead"
                )
            )

    def loss(self, baseline: float, value: float) -> float:
        """The loss of ``value`` against ``baseline``: a share for a relative criterion, else in the metric's unit."""
        lost = baseline - value if self.higher_is_better else value - baseline
        return lost / baseline if self.relative is not None else lost

    def verdict(self, loss: float, interval: Interval | None = None) -> Verdict:
        """Decide on a measured loss.

        Args:
            loss: Loss as :meth:`loss` returns it.
            interval: Two-sided interval of the loss. With ``confidence`` set it decides where it is given, and an
                interval that holds the target leaves the verdict undecided.
        """
        if self.confidence is not None and interval is not None:
            if interval.high <= self.target:
                return Verdict.MET
            return Verdict.MISSED if interval.low > self.target else Verdict.UNDECIDED
        return Verdict.MET if loss <= self.target else Verdict.MISSED

    def for_candidate(self, rank: int) -> Criterion:
        """The criterion for one candidate of a search, such that the confidence holds for the search as a whole.

        The error that the confidence allows is spent over the candidates in the order of their evaluation: the first
        gets a half of it, the second a sixth, the ``rank``-th one part in ``rank * (rank + 1)``. Together they never
        exceed it, so that it does not matter when a search ends or that a run is continued.

        Args:
            rank: Which candidate it is in the order in which accuracy is evaluated, counted from 1.
        """
        if self.confidence is None:
            return self
        return replace(self, confidence=1 - (1 - self.confidence) * spent(rank))

    def shown(self, interval: Interval) -> Verdict:
        """The verdict that an interval of the loss allows: undecided where the target lies inside of it."""
        if interval.low > self.target:
            return Verdict.MISSED
        return Verdict.MET if interval.high <= self.target else Verdict.UNDECIDED

    def samples_to_decide(self, loss: float, interval: Interval, samples: int) -> int | None:
        """About how many samples an evaluation needs until an interval no longer holds the target.

        An interval narrows with the square root of the number of samples. The answer is the number with which the
        interval's end comes as much closer to the loss as it has to, if the loss stays what it is.

        Args:
            loss: Measured.
            interval: Interval of the loss.
            samples: Number of samples that both come from.

        Returns:
            The number; None where no set of a million samples would do, since the loss lies on the target.
        """
        distance = abs(self.target - loss)
        reach = interval.high - loss if loss <= self.target else loss - interval.low
        if distance <= 0 or not math.isfinite(reach):
            return None
        needed = samples * (reach / distance) ** 2
        return None if needed > _MOST_SAMPLES else max(samples, math.ceil(needed))

    def __str__(self) -> str:
        kind = f"{self.relative:.4g} relative" if self.relative is not None else f"{self.absolute:.4g} absolute"
        sure = f" at {self.confidence:.4g} confidence over all candidates" if self.confidence else ""
        return f"loss of at most {kind}{sure}"


def spent(rank: int) -> float:
    """The share of an allowed error that the ``rank``-th of many decisions gets; all shares add up to 1."""
    return 1 / (rank * (rank + 1))
