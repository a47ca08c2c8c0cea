"""Latency of finalists against each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from autotune.errors import InputError
from autotune.evaluation.latency.clock import Clock, SystemClock
from autotune.evaluation.latency.compare import Sessions, as_sessions
from autotune.evaluation.latency.contest import Contest, Pace
from autotune.evaluation.latency.estimate import Ratio, Spread, ratio_of
from autotune.evaluation.latency.options import LatencyOptions
from autotune.evaluation.latency.results import RaceResult

_HEATS = (1, 2, 5)
"""Rounds at each look, as a multiple of those of a comparison. The last two are run only where it takes them."""


def race_latency(
    baseline: Sessions,
    finalists: Sequence[Sessions],
    options: LatencyOptions,
    *,
    seed: int = 0,
    deadline: float | None = None,
    clock: Clock | None = None,
    pace: Pace | None = None,
    fair_s: float | None = None,
) -> RaceResult:
    """Race finalists against each other and drop those that are proven slower than any other.

    All that are still in run once per round, in a random order, with the baseline among them. At each look a finalist
    leaves when the interval of its time over that of another lies above 1. The confidence is shared among all pairs,
    the baseline's included, and all looks (Bonferroni), so that a wrong thing is proven in at most ``1 - confidence``
    of races. Finalists that a short heat leaves undecided run a longer one.

    Args:
        baseline: One call of the fp32 model, or one for each of its sessions.
        finalists: The same of each finalist.
        options: Warm-up, rounds (for ``min_pairs`` to ``max_pairs`` calls), interval. ``max_seconds`` counts per
            finalist.
        seed: Seed of the order.
        deadline: A ``time.monotonic()`` value.
        clock: Times the calls; that of this process by default.
        pace: Earlier latencies of the same sessions of the baseline.
        fair_s: Seconds beyond which no further heat is run to tell equals apart, once it is known of each on which side
            of fp32 it lies; None: as many as the options allow.

    Raises:
        InputError: There is no finalist.
        DeadlineReached: The deadline passed before five rounds were run.
    """
    if not finalists:
        raise InputError("A race needs at least one finalist, but got none")
    clock = clock or SystemClock(options.threads)
    contest = Contest(
        [as_sessions(baseline), *map(as_sessions, finalists)],
        options,
        clock,
        seed=seed,
        deadline=deadline,
        pace=pace,
        share=len(finalists),
    )
    race = _Race(contest, options)
    contest.warm_up()
    race.run(clock, fair_s)
    contest.note_pace()
    return race.result()


class _Race:
    """The state of a race: the members that are left, and what is proven of each. Member 0 is the baseline."""

    def __init__(self, contest: Contest, options: LatencyOptions) -> None:
        self._contest = contest
        self._options = options
        count = contest.models - 1
        comparisons = len(_HEATS) * (count * (count - 1) // 2 + count)
        self._shared = 1 - (1 - options.confidence) / comparisons
        self.alive = list(range(1, count + 1))
        self._faster: dict[int, bool | None] = dict.fromkeys(self.alive)
        self._close = False

    @property
    def decided(self) -> bool:
        """Whether those that are left are known to be equals, and on which side of fp32 they lie."""
        return (len(self.alive) == 1 or self._close) and self.sides_known

    @property
    def sides_known(self) -> bool:
        """Whether it is known of all that are left on which side of fp32 they lie."""
        return all(self._faster[member] is not None for member in self.alive)

    def run(self, clock: Clock, fair_s: float | None) -> None:
        """Run heats, each longer than the one before, until all is decided or the time is up."""
        first, most = (self._contest.rounds_for(calls) for calls in (self._options.min_pairs, self._options.max_pairs))
        began, done = clock.now_s(), 0
        for multiple in _HEATS:
            rounds = min(most, first * multiple)
            spent_s = clock.now_s() - began
            if done and fair_s is not None and self.sides_known and spent_s * rounds / done > fair_s:
                break
            ended = self._contest.run([0, *self.alive], rounds)
            done = rounds
            self.look()
            if self.decided or ended:
                break

    def look(self) -> None:
        """Compare the finalists on the calls so far; one that is proven slower than another leaves."""
        width = self._options.interval_width
        slower: set[int] = set()
        close = True
        for first, second in itertools.combinations(self.alive, 2):
            interval = self._ratio(first, second, self._shared).interval  # time of the first over that of the second
            if interval.low > 1:
                slower.add(first)
            elif interval.high < 1:
                slower.add(second)
            elif interval.high > 1 + width or interval.low < 1 / (1 + width):
                close = False
        for member in self.alive:
            if self._faster[member] is None:
                self._faster[member] = self._against_baseline(member)
        self.alive = [member for member in self.alive if member not in slower]
        self._close = close

    def _against_baseline(self, member: int) -> bool | None:
        interval = self._ratio(0, member, self._shared).interval
        if interval.low > 1:
            return True
        return False if interval.high <= 1 + self._options.interval_width else None

    def _ratio(self, first: int, second: int, confidence: float) -> Ratio:
        """Time of one over that of the other, in rounds that both ran."""
        figures = self._contest.figures([first, second])
        return ratio_of(
            figures[first],
            figures[second],
            self._spread(),
            confidence,
            slow_down=self._contest.slow_down([first, second]),
        )

    def _spread(self) -> Spread:
        """Spread between sessions, from all that ran: each over the rounds that it ran."""
        return Spread({member: self._contest.figures([member])[member] for member in range(self._contest.models)})

    def result(self) -> RaceResult:
        """The result of the race."""
        contest, count = self._contest, self._contest.models - 1
        ratios = [self._ratio(0, member, self._options.confidence) for member in range(1, count + 1)]
        rounds = [contest.rounds(member) for member in range(1, count + 1)]
        baseline_ms = math.exp(float(np.mean(contest.figures([0])[0]))) / 1e6
        latencies_ms = [baseline_ms / ratio.value for ratio in ratios]
        # Who stayed is faster than who left, and who left later than who left before; among those that left at the
        # same look the speedup over the same rounds decides.
        order = sorted(range(count), key=lambda i: (i + 1 not in self.alive, -rounds[i], -ratios[i].value))
        return RaceResult(
            order=tuple(order),
            speedups=tuple(ratio.value for ratio in ratios),
            intervals=tuple(ratio.interval for ratio in ratios),
            latencies_ms=tuple(latencies_ms),
            baseline_ms=baseline_ms,
            rounds=tuple(rounds),
            decided=self.decided,
            survivors=tuple(index for index in order if index + 1 in self.alive),
            faster=tuple(self._faster[member] for member in range(1, count + 1)),
            sessions=min(contest.sessions(member) for member in range(1, count + 1)),
            cache=self._options.cache_state,
            percentiles=tuple(
                contest.percentiles(member, [0, member], latency_ms)
                for member, latency_ms in enumerate(latencies_ms, 1)
            ),
            baseline_percentiles=contest.percentiles(0, [0], baseline_ms),
        )
