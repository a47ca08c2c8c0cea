"""Which runtime is searched next, and which are given up since they cannot win."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Generic

from autotune.adapter import ModelT
from autotune.runtimes.probes import Probe
from autotune.strategy import Objective
from autotune.trial import Trial
from autotune.tuning.selection import incumbent
from autotune.tuning.side import Side

MARGIN = 0.25
"""By how much the fastest config of a runtime may beat what was timed of it before its search, as a share."""


class Turns(Generic[ModelT]):
    """The turns of the sides: the one with the fewest trials is next, and of equals the one with the fastest probe.

    All is a function of what the history holds, so that a run that continues goes on in the same order. A side leaves
    when its strategy is exhausted, or when it cannot win: when the most that is known of its candidates' speeds, and a
    margin for configs that were not timed, lie below what is proven of the best that keeps the target. The margin
    shrinks with each trial of the side, since strategies try first what they predict to be fastest. The side that has
    the fastest known candidate is never given up.

    Args:
        sides: In the order in which the user names them.
        probes: By runtime, what was timed before the search; empty where nothing is given up.
        objective: Figure to minimize.
        note: Told why a side is given up.
    """

    def __init__(
        self,
        sides: Sequence[Side[ModelT]],
        probes: Mapping[str | None, Sequence[Probe]],
        objective: Objective,
        note: Callable[[str], None],
    ) -> None:
        self._probes = probes
        self._objective = objective
        self._note = note
        self._ended: dict[str | None, str] = {}
        self.sides = sorted(sides, key=lambda side: -max((each.speedup for each in self._of(side)), default=0.0))

    @property
    def reason(self) -> str:
        """Why the search ended: the reason of each side."""
        if len(self.sides) == 1:
            return self._ended[self.sides[0].runtime]
        return "; ".join(f"{name}: {reason}" for name, reason in self._ended.items())

    def end(self, side: Side[ModelT], reason: str) -> None:
        """Called when a side's strategy has nothing left to try."""
        self._ended[side.runtime] = reason

    def next(self, trials: Sequence[Trial]) -> Side[ModelT] | None:
        """The side whose turn it is; None where all have left."""
        if self._probes:
            self._give_up(trials)
        left = [side for side in self.sides if side.runtime not in self._ended]
        return min(left, key=lambda side: len(side.own(trials)), default=None)

    def _give_up(self, trials: Sequence[Trial]) -> None:
        """Let the sides leave that cannot win any more."""
        best = incumbent(trials, self._objective)
        interval = None if best is None or best.measurement is None else best.measurement.speedup_interval
        if best is None or interval is None:
            return
        known = {side.runtime: self._fastest(side, trials) for side in self.sides}
        leader = max(known, key=lambda runtime: known[runtime], default=None)
        for side in self.sides:
            fastest, own = known[side.runtime], len(side.own(trials))
            margin = MARGIN / (1 + own)
            if side.runtime in self._ended or side.runtime == leader or fastest * (1 + margin) >= interval.low:
                continue
            than = "fp32, the baseline" if best.config.is_fp32 else f"trial {best.number} on {best.config.runtime}"
            reason = (
                f"given up after {own} trial{'' if own == 1 else 's'}: its fastest candidate is at most {fastest:.2f}x "
                f"as fast as the baseline, at most {fastest * (1 + margin):.2f}x with {margin:.0%} for configs that "
                f"were not timed, and {than} keeps the target at {best.speedup or 1.0:.2f}x"
            )
            self._ended[side.runtime] = reason
            self._note(f"{side.runtime} was {reason}")

    def _fastest(self, side: Side[ModelT], trials: Sequence[Trial]) -> float:
        """The most that the fastest candidate of a side may reach, by what was measured; infinite where nothing was."""
        highs = [each.high for each in self._of(side)]
        for trial in side.own(trials):
            measured = trial.measurement
            if measured is not None and measured.speedup is not None:
                highs.append(measured.speedup if measured.speedup_interval is None else measured.speedup_interval.high)
        return max([side.fp32_speed, *highs]) if highs else math.inf

    def _of(self, side: Side[ModelT]) -> Sequence[Probe]:
        return self._probes.get(side.runtime, ())
