"""Latency of a candidate against the fp32 baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from autotune.evaluation.latency.clock import Call, Clock, SystemClock
from autotune.evaluation.latency.contest import Contest, Pace
from autotune.evaluation.latency.estimate import Ratio, Spread, ratio_of
from autotune.evaluation.latency.options import LatencyOptions
from autotune.evaluation.latency.results import LatencyComparison

Sessions: TypeAlias = Call | Sequence[Call]
"""One session of a model, or several."""

_GROWTH = 1.5
"""How many times more rounds there are at one look at the interval than at the one before."""
_LATER_ROUNDS = 3
"""Rounds that are run some time after the others."""
_HOPELESS = 1.5
"""How many times too wide an interval is that more calls do not make narrow, where it is settled."""
_SIDES = (0, 1)


def compare_latency(
    baseline: Sessions,
    candidate: Sessions,
    options: LatencyOptions,
    *,
    seed: int = 0,
    deadline: float | None = None,
    clock: Clock | None = None,
) -> LatencyComparison:
    """Time two models in turn until the interval of their ratio is narrow enough or a cap is reached.

    For a model that is given as one session, the interval assumes that other sessions would differ by as little as was
    measured elsewhere; give several, and how much they differ is measured.

    Args:
        baseline: One call of the fp32 model, or one for each of its sessions.
        candidate: One call of the candidate, or one for each of its sessions.
        options: Warm-up, calls, interval.
        seed: Seed of the order inside of the rounds.
        deadline: A ``time.monotonic()`` value.
        clock: Times the calls; that of this process by default.

    Raises:
        DeadlineReached: The deadline passed before five rounds were run.
    """
    comparison = Comparison(baseline, candidate, options, seed=seed, deadline=deadline, clock=clock)
    return comparison.run()


class Comparison:
    """A comparison that can be taken up again later, so that what it says is spread over time.

    Args:
        baseline: See :func:`compare_latency`, as for all that follow.
        candidate: Calls the candidate.
        options: Warm-up, calls, interval.
        seed: Seed of the order inside of the rounds.
        deadline: A ``time.monotonic()`` value.
        clock: Times the calls.
        pace: Earlier latencies of the same sessions of the baseline.
    """

    def __init__(
        self,
        baseline: Sessions,
        candidate: Sessions,
        options: LatencyOptions,
        *,
        seed: int = 0,
        deadline: float | None = None,
        clock: Clock | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._options = options
        self._contest = Contest(
            [as_sessions(baseline), as_sessions(candidate)],
            options,
            clock or SystemClock(options.threads),
            seed=seed,
            deadline=deadline,
            pace=pace,
        )
        self._look = 0

    def run(self) -> LatencyComparison:
        """Time calls until the interval is narrow enough or a cap is reached.

        Raises:
            DeadlineReached: The deadline passed before five rounds were run.
        """
        self._contest.warm_up()
        self._look = self._contest.rounds_for(self._options.min_pairs)
        most = max(self._look, self._contest.rounds_for(self._options.max_pairs))
        while True:
            ended = self._contest.run(_SIDES, self._look)
            if ended or self._enough(self._ratio()) or self._look >= most:
                return self._result()
            self._look = min(most, math.ceil(self._look * _GROWTH))

    def _enough(self, ratio: Ratio) -> bool:
        """Whether the interval is narrow enough, or will not be by more calls."""
        width = self._options.interval_width
        return ratio.half_width <= width or (ratio.settled and ratio.half_width > _HOPELESS * width)

    def again(self) -> LatencyComparison:
        """Run a few rounds more, some time after :meth:`run`."""
        self._look += _LATER_ROUNDS
        self._contest.run(_SIDES, self._look)
        return self._result()

    def close(self) -> None:
        """Remember what fp32 took, by which later comparisons tell a slow spell; called once, at the end."""
        self._contest.note_pace()

    def _ratio(self) -> Ratio:
        figures = self._contest.figures(_SIDES)
        slow_down = self._contest.slow_down(_SIDES)
        return ratio_of(figures[0], figures[1], Spread(figures), self._options.confidence, slow_down=slow_down)

    def _result(self) -> LatencyComparison:
        contest, options, ratio = self._contest, self._options, self._ratio()
        candidate_ms = float(np.exp(contest.figures(_SIDES)[1].mean())) / 1e6
        baseline_ms = candidate_ms * ratio.value
        return LatencyComparison(
            baseline_ms=baseline_ms,
            candidate_ms=candidate_ms,
            speedup=ratio.value,
            interval=ratio.interval,
            pairs=contest.pairs(_SIDES),
            decided=ratio.half_width <= options.interval_width,
            baseline_percentiles=contest.percentiles(0, _SIDES, baseline_ms),
            candidate_percentiles=contest.percentiles(1, _SIDES, candidate_ms),
            cache=options.cache_state,
            sessions=contest.sessions(1),
        )


def as_sessions(sessions: Sessions) -> Sequence[Call]:
    """The sessions as a list, where there may be one alone."""
    return [sessions] if callable(sessions) else list(sessions)
