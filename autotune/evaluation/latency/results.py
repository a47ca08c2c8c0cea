"""Results of latency measurements."""

from __future__ import annotations

from dataclasses import dataclass

from autotune.criterion import Interval
from autotune.evaluation.latency.options import CacheState


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    """Latency of one call in milliseconds: the median, and the times that 90 and 99 % of the calls stay under."""

    p50_ms: float
    p90_ms: float
    p99_ms: float


@dataclass(frozen=True, kw_only=True)
class LatencyComparison:
    """The speedup of a candidate over the baseline, from interleaved runs.

    Attributes:
        baseline_ms: Median of one call of the baseline.
        candidate_ms: Median of one call of the candidate.
        speedup: ``baseline_ms / candidate_ms``.
        interval: Interval of the speedup.
        pairs: Pairs of calls that were timed.
        decided: Whether the interval became as narrow as was asked for before a cap was reached.
        baseline_percentiles: Percentiles of the baseline's calls.
        candidate_percentiles: Percentiles of the candidate's calls.
        cache: State of the caches when the timed calls began.
        sessions: Sessions of the candidate that took part.
    """

    baseline_ms: float
    candidate_ms: float
    speedup: float
    interval: Interval
    pairs: int
    decided: bool
    baseline_percentiles: Percentiles
    candidate_percentiles: Percentiles
    cache: CacheState = CacheState.WARM
    sessions: int = 1


@dataclass(frozen=True, kw_only=True)
class RaceResult:
    """The finalists by speed, as a race of all against all left them; fp32 ran among them throughout.

    Figures by finalist come in the order in which the finalists were given.

    Attributes:
        order: Indices into the finalists, fastest first; whoever is proven slower than another comes after all that
            are not.
        speedups: By finalist: baseline over finalist, from this race's own calls.
        intervals: By finalist: interval of the speedup, at the confidence asked for, each by itself.
        latencies_ms: By finalist: median of one call. ``baseline_ms / latencies_ms`` is the speedup.
        baseline_ms: Median of one call of fp32.
        rounds: By finalist: how many rounds it ran before it was out.
        decided: Whether one finalist is left, or all that are left are proven to lie within the asked interval width of
            each other, and whether each of those is faster than fp32 is known as well.
        survivors: Indices of those that are not proven slower than any other, in their order.
        faster: By finalist: True where it is proven faster than fp32; False where it is proven slower, or faster by no
            more than the asked interval width; None where neither is proven. The confidence is shared among all
            comparisons of the race.
        sessions: Sessions of each finalist that took part, the fewest of them.
        cache: State of the caches when the timed calls began.
        percentiles: By finalist: of its calls in this race.
        baseline_percentiles: Percentiles of fp32's calls in this race.
    """

    order: tuple[int, ...]
    speedups: tuple[float, ...]
    intervals: tuple[Interval, ...]
    latencies_ms: tuple[float, ...]
    baseline_ms: float
    rounds: tuple[int, ...]
    decided: bool
    survivors: tuple[int, ...]
    faster: tuple[bool | None, ...]
    sessions: int
    cache: CacheState = CacheState.WARM
    percentiles: tuple[Percentiles, ...] = ()
    baseline_percentiles: Percentiles | None = None

    @property
    def tied(self) -> list[int]:
        """The survivors: those that the race could not tell from the fastest, in its order."""
        return list(self.survivors)
