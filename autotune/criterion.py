"""The accuracy target, and what can be said of a candidate under it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from autotune.errors import CriterionError


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
        confidence: Where given, only an upper bound of the loss at this confidence (one-sided) counts as met; without
            it the measured figure decides.
    """

    relative: float | None = None
    absolute: float | None = None
    higher_is_better: bool = True
    confidence: float | None = None

    def __post_init__(self) -> None:
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
                "Give the target as `absolute` instead"
            )

    def loss(self, baseline: float, value: float) -> float:
        """What ``value`` loses against ``baseline``: a share for a relative criterion, else in the metric's unit."""
        lost = baseline - value if self.higher_is_better else value - baseline
        return lost / baseline if self.relative is not None else lost

    def verdict(self, loss: float, interval: Interval | None = None) -> Verdict:
        """Decide on a measured loss.

        Args:
            loss: As :meth:`loss` gives it.
            interval: Two-sided interval of the loss. With ``confidence`` set it decides where it is given, and an
                interval that holds the target leaves the verdict undecided.
        """
        if self.confidence is not None and interval is not None:
            if interval.high <= self.target:
                return Verdict.MET
            return Verdict.MISSED if interval.low > self.target else Verdict.UNDECIDED
        return Verdict.MET if loss <= self.target else Verdict.MISSED

    def __str__(self) -> str:
        kind = f"{self.relative:.4g} relative" if self.relative is not None else f"{self.absolute:.4g} absolute"
        return f"loss of at most {kind}" + (f" at {self.confidence:.0%} confidence" if self.confidence else "")
