"""The result of the finalists' race, as it is stored and shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from autotune.criterion import Interval
from autotune.evaluation.latency import RaceResult
from autotune.trial import Measurement, Trial


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """One trial in a race.

    Attributes:
        number: Number of the trial.
        speedup: Speedup over fp32, from this race's own calls.
        interval: Interval of the speedup.
        searched: The speedup that was measured during the search.
        latency_ms: Median of one call in this race.
        latency_p90_ms: Latency that 90 % of its calls there stayed under.
        latency_p99_ms: Latency that 99 % of them stayed under.
        rounds: How many rounds it ran before it was out.
        survived: Whether it is not proven slower than any other finalist.
        faster: Whether it is proven faster than fp32 (True), is not faster (False), or neither is known (None).
    """

    number: int
    speedup: float
    interval: Interval
    searched: float | None
    latency_ms: float
    rounds: int
    survived: bool
    faster: bool | None
    latency_p90_ms: float | None = None
    latency_p99_ms: float | None = None

    def revise(self, measured: Measurement, race: Race) -> Measurement:
        """The measurement of the trial with the figures of the race, which are fresh: nobody was picked by them."""
        return dataclasses.replace(
            measured,
            latency_ms=self.latency_ms,
            latency_p90_ms=self.latency_p90_ms,
            latency_p99_ms=self.latency_p99_ms,
            baseline_ms=self.latency_ms * self.speedup,
            baseline_p90_ms=race.baseline_p90_ms,
            baseline_p99_ms=race.baseline_p99_ms,
            latency_decided=self.faster is not None,
            latency_cache=race.cache,
            latency_sessions=race.sessions,
            speedup=self.speedup,
            speedup_interval=self.interval,
        )


@dataclass(frozen=True, kw_only=True)
class Race:
    """A race of finalists and fp32, all against all.

    Attributes:
        finalists: Fastest first.
        baseline_ms: Median of one call of fp32 in this race.
        decided: Whether the fastest are known, and of each whether it is faster than fp32.
        sessions: Sessions of each finalist that took part, the fewest of them.
        cache: State of the processor's caches when the timed calls began.
        baseline_p90_ms: Latency that 90 % of fp32's calls in this race stayed under.
        baseline_p99_ms: Latency that 99 % of them stayed under.
    """

    finalists: Sequence[Finalist]
    baseline_ms: float
    decided: bool
    sessions: int
    cache: str
    baseline_p90_ms: float | None = None
    baseline_p99_ms: float | None = None

    @classmethod
    def of(cls, trials: Sequence[Trial], outcome: RaceResult) -> Self:
        """The race of these trials, in the order in which they were given to it."""
        finalists = tuple(
            Finalist(
                number=trials[index].number,
                speedup=outcome.speedups[index],
                interval=outcome.intervals[index],
                searched=trials[index].speedup,
                latency_ms=outcome.latencies_ms[index],
                rounds=outcome.rounds[index],
                survived=index in outcome.survivors,
                faster=outcome.faster[index],
                latency_p90_ms=outcome.percentiles[index].p90_ms if outcome.percentiles else None,
                latency_p99_ms=outcome.percentiles[index].p99_ms if outcome.percentiles else None,
            )
            for index in outcome.order
        )
        fp32 = outcome.baseline_percentiles
        return cls(
            finalists=finalists,
            baseline_ms=outcome.baseline_ms,
            decided=outcome.decided,
            sessions=outcome.sessions,
            cache=str(outcome.cache),
            baseline_p90_ms=None if fp32 is None else fp32.p90_ms,
            baseline_p99_ms=None if fp32 is None else fp32.p99_ms,
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        finalists = [Finalist(**{**each, "interval": Interval(**each["interval"])}) for each in data["finalists"]]
        return cls(**{**data, "finalists": tuple(finalists)})

    def to_json(self) -> dict[str, Any]:
        """A JSON value that :meth:`from_json` reads."""
        return dataclasses.asdict(self)
