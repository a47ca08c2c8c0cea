"""The user's fp32 model on every runtime: which one is the baseline, and how fast it is on the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from autotune.adapter import Adapter, Execution, Feeds
from autotune.evaluation.latency import Call, Clock, LatencyOptions, SystemClock, race_latency
from autotune.evaluation.latency.sessions import open_sessions
from autotune.runtimes.adapter import RuntimeModel

_MOST_S = 3.0
"""Seconds of the comparison for each further runtime: near equals need not be told apart, since either may be the
baseline."""

_SESSIONS = 2
"""Sessions of each runtime that are opened whatever they cost: two of one model differ, and only several tell by how
much."""


@dataclass(frozen=True, kw_only=True)
class Fp32Speeds:
    """How fast the user's model is on each runtime.

    Attributes:
        baseline: Name of the runtime that all speeds of the run are relative to.
        speeds: By name of every runtime of the run: its speed over the baseline.
        proven: Whether the baseline is proven to be the fastest; otherwise it is the first that may be.
    """

    baseline: str
    speeds: Mapping[str, float]
    proven: bool = True

    def __str__(self) -> str:
        others = ", ".join(f"{speed:.2f}x on {name}" for name, speed in self.speeds.items() if name != self.baseline)
        if not others:
            return f"The baseline is fp32 on {self.baseline}"
        why = "" if self.proven else "; which of them is faster could not be told, so that the first named counts"
        return f"The baseline is fp32 on {self.baseline}; the speed of fp32 is {others}{why}"

    def to_json(self) -> dict[str, Any]:
        """A JSON value that :meth:`from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(**data)


def compare_fp32(
    adapter: Adapter[RuntimeModel],
    models: Mapping[str, RuntimeModel],
    batches: Sequence[Feeds],
    options: LatencyOptions,
    *,
    seed: int,
    deadline: float | None,
    clock: Clock | None = None,
) -> Fp32Speeds:
    """Time the user's model on all runtimes, interleaved in this process.

    The baseline is the runtime that is proven to be faster than the first named one, and of several such runtimes the
    fastest; where none is, the first named.

    Args:
        adapter: Runs the models.
        models: By name of the runtime, the one that the user names first in front.
        batches: Batches that one timed call runs, in this order.
        options: How latency is measured.
        seed: Seed of the order of calls.
        deadline: A ``time.monotonic()`` value.
        clock: Times the calls; that of this process by default.

    Raises:
        DeadlineReached: The deadline passed before anything could be said.
    """
    first, *others = models
    if not others:
        return Fp32Speeds(baseline=first, speeds={first: 1.0})
    clock = clock or SystemClock(options.threads)
    limit_s = _MOST_S if options.max_seconds is None else min(_MOST_S, options.max_seconds)
    options = dataclasses.replace(options, max_seconds=limit_s)
    sessions = [_sessions(adapter, models[name], batches, options, clock) for name in models]
    race = race_latency(sessions[0], sessions[1:], options, seed=seed, deadline=deadline, clock=clock)
    found = {first: 1.0, **dict(zip(others, race.speedups, strict=True))}
    faster = [others[index] for index in race.order if race.faster[index]]
    baseline = faster[0] if faster else first
    return Fp32Speeds(
        baseline=baseline,
        speeds={name: speed / found[baseline] for name, speed in found.items()},
        proven=bool(faster) or all(known is not None for known in race.faster),
    )


def _sessions(
    adapter: Adapter[RuntimeModel],
    model: RuntimeModel,
    batches: Sequence[Feeds],
    options: LatencyOptions,
    clock: Clock,
) -> list[Call]:
    execution: Execution = options.execution
    runner = adapter.runner(model, execution)
    for feeds in batches:
        runner(feeds)
    return open_sessions(
        runner,
        lambda: adapter.runner(model, execution),
        batches,
        options,
        size_bytes=model.size_bytes,
        fewest=_SESSIONS,
        clock=clock,
    )
