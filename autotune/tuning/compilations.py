"""Limits what a run spends on compiling candidates, and finds out whether compiling pays at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autotune.adapter import Adapter, Compiles, ModelT
from autotune.config import QuantizationConfig
from autotune.errors import TrialError
from autotune.evaluation import AnyEvaluator
from autotune.notes import counted
from autotune.trial import Measurement
from autotune.tuning.history import History
from autotune.tuning.side import Side

PROBE = "compiled probe"
"""Key of :meth:`History.keep`: speedup over fp32 of all ops in the adapter's preferred precision, and the upper end of
its interval."""


class Compilations:
    """Counts the compilations of a run and their seconds.

    Args:
        most: How many candidates may be compiled; None for any number.
        max_s: Seconds that compiling may take in all, after which nothing more is compiled; None for no limit.
    """

    def __init__(self, most: int | None = None, max_s: float | None = None) -> None:
        self._most = most
        self._max_s = max_s
        self._count = 0
        self._seconds = 0.0
        self.shortest_s = 0.0
        """The shortest one so far, in seconds: what the next candidate takes at the least."""

    def add(self, seconds: float | None) -> None:
        """Called with what compiling a candidate took; None where it was not compiled."""
        if seconds is None:
            return
        self._count += 1
        self._seconds += seconds
        self.shortest_s = min(seconds, self.shortest_s or seconds)

    def spent(self) -> str | None:
        """Why nothing more may be compiled; None where something may."""
        if self._most is not None and self._count >= self._most:
            return f"max_compilations: {counted(self._count, 'candidate')} compiled"
        if self._max_s is not None and self._seconds >= self._max_s:
            return f"compilation_max_s: compiling took {self._seconds:.0f} of the {self._max_s:g} s given to it"
        return None


@dataclass(frozen=True, kw_only=True)
class NoGain:
    """A candidate that shows that none is worth its compilation.

    Attributes:
        reason: Why the search ends with it.
        config: Every op in its preferred precision.
        measured: Its speed; None where an earlier run measured and recorded it.
    """

    reason: str
    config: QuantizationConfig
    measured: Measurement | None


def no_gain(
    adapter: Adapter[ModelT],
    side: Side[ModelT],
    evaluator: AnyEvaluator[ModelT],
    history: History,
    *,
    deadline: float | None,
) -> NoGain | None:
    """Why no candidate is worth its compilation; None where one may be.

    Candidates of other frameworks cost no more than a comparison. Where each has to be compiled, one is compiled first:
    every op in its preferred precision, without what takes seconds to apply. Where that runs no faster than fp32, there
    is nothing to be had of the others. The figure is kept for a run that continues.

    Raises:
        DeadlineReached: The deadline passed.
    """
    if not isinstance(adapter, Compiles) or not side.problem.space.tunable:
        return None
    space = side.problem.space
    config = space.quick(space.preferred)
    found: Any = history.kept(PROBE)
    measured = None
    if found is None:
        try:
            measured = evaluator.speed_of(adapter.apply(side.model, config, side.statistics), deadline=deadline)
        except TrialError:
            return None  # another candidate may be one that it compiles
        assert measured.speedup_interval is not None
        found = [measured.speedup, measured.speedup_interval.high]
        history.keep(PROBE, found)
    speedup, high = found
    if high > 1.0:
        return None
    reason = (
        f"given up early: with every op in its preferred precision, the compiled model runs at {speedup:.2f}x fp32's "
        "speed, so that no other candidate was compiled"
    )
    return NoGain(reason=reason, config=config, measured=measured)
