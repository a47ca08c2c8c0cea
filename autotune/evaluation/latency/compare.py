"""Latency of a candidate against the fp32 baseline, and of finalists against each other.

One-shot wall times lie: on a busy two-core machine two sessions of one and the same model differ by more than 5 % in
half of the comparisons. Here both sides run in turn, pair by pair, so that whatever slows the machine slows both, and
the figure is a ratio of medians with a bootstrap interval. A call from which the scheduler took the core away is run
again: with ten busy processes on two cores the longer call of a pair is interrupted more often than the shorter one,
and a speedup of 1.6 was measured as anything from 1.1 to 4.2.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.criterion import Interval
from autotune.errors import DeadlineReached, InputError
from autotune.evaluation.latency.options import FEWEST_ROUNDS, LatencyOptions
from autotune.evaluation.latency.results import LatencyComparison, Percentiles, RaceResult

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_RESAMPLES = 400
_ATTEMPTS = 5
_GROWTH = 1.25
"""How many times more pairs there are at one look at the interval than at the one before."""


def compare_latency(
    baseline: Callable[[], object],
    candidate: Callable[[], object],
    options: LatencyOptions,
    *,
    seed: int = 0,
    deadline: float | None = None,
) -> LatencyComparison:
    """Time two callables in turn until the interval of their ratio is narrow enough or a cap is reached.

    Args:
        baseline: One call of the fp32 model.
        candidate: One call of the candidate.
        options: Warm-up, pairs, interval.
        seed: Of the order inside the pairs and of the bootstrap.
        deadline: A ``time.monotonic()`` value.

    Raises:
        DeadlineReached: The deadline passed before five pairs were drawn.
    """
    race = _Stopwatch([baseline, candidate], options, seed, deadline)
    race.warm_up([0, 1])
    look = options.min_pairs
    while True:
        ended = race.run([0, 1], look)
        times = race.times_ms([0, 1])
        speedup, interval = speedup_interval(times[0], times[1], options.confidence, seed=seed)
        decided = _narrow(interval, speedup, options.interval_width)
        if decided or ended or look >= options.max_pairs:
            break
        look = min(options.max_pairs, math.ceil(look * _GROWTH))
    return LatencyComparison(
        baseline_ms=float(np.median(times[0])),
        candidate_ms=float(np.median(times[1])),
        speedup=speedup,
        interval=interval,
        pairs=times.shape[1],
        decided=decided,
        baseline_percentiles=_percentiles(times[0]),
        candidate_percentiles=_percentiles(times[1]),
    )


def race_latency(
    baseline: Callable[[], object],
    finalists: Sequence[Callable[[], object]],
    options: LatencyOptions,
    *,
    seed: int = 0,
    deadline: float | None = None,
) -> RaceResult:
    """Race finalists against each other and drop those that are proven slower (successive elimination).

    All that are still in run once per round, in a random order, with the baseline among them. At each look a finalist
    leaves when the interval of its time over that of the fastest lies above 1; the confidence is shared among the
    comparisons of all looks (Bonferroni), so that the true winner is dropped in at most ``1 - confidence`` of races.

    Args:
        baseline: One call of the fp32 model.
        finalists: One call of each finalist.
        options: Warm-up, rounds (``min_pairs`` to ``max_pairs``), interval. ``max_seconds`` counts per finalist.
        seed: Of the order and of the bootstrap.
        deadline: A ``time.monotonic()`` value.

    Raises:
        DeadlineReached: The deadline passed before five rounds were run.
    """
    if not finalists:
        raise InputError("A race needs at least one finalist, but got none")
    stopwatch = _Stopwatch([baseline, *finalists], options, seed, deadline, share=max(1, len(finalists)))
    alive = list(range(1, len(finalists) + 1))
    stopwatch.warm_up([0, *alive])
    looks = 1 + math.ceil(math.log(options.max_pairs / options.min_pairs) / math.log(_GROWTH))
    confidence = 1 - (1 - options.confidence) / (looks * len(finalists) ** 2)
    look, decided = options.min_pairs, False
    while True:
        ended = stopwatch.run([0, *alive], look)
        times = stopwatch.times_ms(alive)
        best = int(np.argmin(np.median(times, axis=1)))
        ratios = [speedup_interval(row, times[best], confidence, seed=seed) for row in times]
        width = options.interval_width
        tied = all(ratio[1].high <= 1 + width for ratio in ratios)
        alive = [index for index, ratio in zip(alive, ratios, strict=True) if ratio[1].low <= 1]
        decided = len(alive) == 1 or tied
        if decided or ended or look >= options.max_pairs:
            break
        look = min(options.max_pairs, math.ceil(look * _GROWTH))
    return _race_result(stopwatch, alive, options, confidence, decided=decided, seed=seed)


def _race_result(
    stopwatch: _Stopwatch, alive: list[int], options: LatencyOptions, confidence: float, *, decided: bool, seed: int
) -> RaceResult:
    count = stopwatch.members - 1
    speedups, intervals, rounds, faster = [], [], [], []
    for index in range(1, count + 1):
        times = stopwatch.times_ms([0, index])
        speedup, interval = speedup_interval(times[0], times[1], options.confidence, seed=seed)
        _, sure = speedup_interval(times[0], times[1], confidence, seed=seed)
        speedups.append(speedup)
        intervals.append(interval)
        rounds.append(times.shape[1])
        faster.append(True if sure.low > 1 else False if sure.high <= 1 + options.interval_width else None)
    # Who stayed longer is faster; among those that left at the same look the speedup over the same rounds decides.
    order = sorted(range(count), key=lambda i: (i + 1 not in alive, -rounds[i], -speedups[i]))
    baseline_ms = float(np.median(stopwatch.times_ms([0])))
    return RaceResult(
        order=tuple(order),
        speedups=tuple(speedups),
        intervals=tuple(intervals),
        latencies_ms=tuple(baseline_ms / speedup for speedup in speedups),
        baseline_ms=baseline_ms,
        rounds=tuple(rounds),
        decided=decided,
        survivors=tuple(index for index in order if index + 1 in alive),
        faster=tuple(faster),
        sessions=1,
    )


def speedup_interval(
    baseline: npt.NDArray[np.float64], candidate: npt.NDArray[np.float64], confidence: float, *, seed: int
) -> tuple[float, Interval]:
    """Ratio of medians of paired times, and its percentile bootstrap interval.

    Blocks of neighbouring pairs are drawn rather than single pairs (circular block bootstrap, Politis and Romano
    1992): whatever else runs on the machine disturbs many calls in a row, and pairs drawn one by one would pretend
    to be independent.

    Args:
        baseline: Times of the baseline's calls, shape (pairs,).
        candidate: Times of the candidate's calls, shape (pairs,).
        confidence: Of the interval.
        seed: Of the resampling.
    """
    pairs = len(baseline)
    block = max(1, round(pairs ** (1 / 3)))
    generator = np.random.default_rng([seed, pairs])
    starts = generator.integers(0, pairs, size=(_RESAMPLES, math.ceil(pairs / block)))
    index = ((starts[:, :, None] + np.arange(block)) % pairs).reshape(_RESAMPLES, -1)[:, :pairs]
    ratios = np.median(baseline[index], axis=1) / np.median(candidate[index], axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    speedup = float(np.median(baseline) / np.median(candidate))
    return speedup, Interval(low=min(float(low), speedup), high=max(float(high), speedup), confidence=confidence)


class _Stopwatch:
    """Times callables in rounds: each that still takes part runs once per round, in a random order."""

    def __init__(
        self,
        callables: Sequence[Callable[[], object]],
        options: LatencyOptions,
        seed: int,
        deadline: float | None,
        share: int = 1,
    ) -> None:
        self._callables = callables
        self._options = options
        self._generator = np.random.default_rng(seed)
        self._deadline = deadline
        self._end = math.inf if options.max_seconds is None else time.monotonic() + options.max_seconds * share
        self._times: list[list[int]] = [[] for _ in callables]
        self._disturbed: list[dict[int, int]] = []

    @property
    def members(self) -> int:
        """How many callables there are."""
        return len(self._callables)

    def warm_up(self, members: Sequence[int]) -> None:
        """Run every member ``warmup`` times, in turn."""
        started = time.monotonic()
        for _ in range(self._options.warmup):
            for member in members:
                self._callables[member]()
            self._check_deadline(0)
            # Seconds-long calls need no ten warm-up calls, and a third of the time is enough for it.
            if time.monotonic() - started > (self._end - started) / 3:
                return

    def run(self, members: Sequence[int], rounds: int) -> bool:
        """Run rounds until there are ``rounds`` undisturbed ones; True where time ran out before.

        Where it ran out with too few, disturbed rounds count as well.
        """
        with _no_garbage_collection():
            while len(self._times[members[0]]) < rounds:
                times = self._round(members)
                if times is not None:
                    self._add(times)
                done = len(self._times[members[0]])
                self._check_deadline(done + len(self._disturbed))
                if self._late and done + len(self._disturbed) >= FEWEST_ROUNDS:
                    for spare in self._disturbed[: max(0, FEWEST_ROUNDS - done)]:
                        self._add(spare)
                    return True
        return False

    @property
    def _late(self) -> bool:
        return time.monotonic() > min(self._end, math.inf if self._deadline is None else self._deadline)

    def _round(self, members: Sequence[int]) -> dict[int, int] | None:
        """Nanoseconds of one call by member; None where one of them was interrupted again and again."""
        times: dict[int, int] = {}
        clean = True
        for position in self._generator.permutation(len(members)):
            member = members[position]
            for _ in range(_ATTEMPTS):
                interruptions = _interruptions(self._options.threads)
                before = time.perf_counter_ns()
                self._callables[member]()
                times[member] = time.perf_counter_ns() - before
                interrupted = _interruptions(self._options.threads) > interruptions
                if not interrupted:
                    break
            clean &= not interrupted
        if not clean:
            self._disturbed.append(times)
        return times if clean else None

    def _add(self, times: Mapping[int, int]) -> None:
        for member, nanoseconds in times.items():
            self._times[member].append(nanoseconds)

    def times_ms(self, members: Sequence[int]) -> npt.NDArray[Any]:
        """Times in milliseconds over the rounds that all ``members`` took part in, shape (members, rounds)."""
        rounds = min(len(self._times[member]) for member in members)
        return np.array([self._times[member][:rounds] for member in members], np.float64) / 1e6

    def _check_deadline(self, done: int) -> None:
        if self._deadline is not None and done < FEWEST_ROUNDS and time.monotonic() > self._deadline:
            raise DeadlineReached("The time given to the run ended while latency was being measured")


def _interruptions(threads: int) -> int:
    """How often the scheduler took the core away from the calling thread, or from any where calls have several.

    0 where the system does not tell (Windows): every round counts there.
    """
    if resource is None:
        return 0
    scope = resource.RUSAGE_SELF if threads > 1 else getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
    return int(resource.getrusage(scope).ru_nivcsw)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _narrow(interval: Interval, speedup: float, width: float) -> bool:
    return max(interval.high - speedup, speedup - interval.low) <= width * speedup


def _percentiles(times: npt.NDArray[np.float64]) -> Percentiles:
    p50, p90, p99 = np.percentile(times, [50, 90, 99])
    return Percentiles(p50_ms=float(p50), p90_ms=float(p90), p99_ms=float(p99))
