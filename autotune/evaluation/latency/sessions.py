"""Opens several sessions of one model, where they are cheap: only several tell how much sessions differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import psutil

from autotune.adapter import Feeds, Runner
from autotune.evaluation.latency import Call, Clock, LatencyOptions

_OPENING_SHARE = 0.05
"""Share of ``max_seconds`` that opening further sessions of one model may take."""
_RUNNING_SHARE = 0.5
"""Share of ``max_seconds`` that the shortest possible comparison may take with them."""
_LEAST_CALLS = 10
"""Calls that one session makes at the least."""
_MEMORY_SHARE = 0.1
"""Share of the free memory that further sessions of one model may fill."""
_USUAL_S = 10.0
"""Seconds of a comparison where no limit is set."""


def open_sessions(
    first: Runner,
    open_one: Callable[[], Runner],
    batches: Sequence[Feeds],
    options: LatencyOptions,
    *,
    size_bytes: int,
    fewest: int,
    clock: Clock,
    spare_first: bool = False,
) -> list[Call]:
    """Sessions of one model, as timed calls: as many as asked for, or fewer where they are expensive.

    Args:
        first: A session that is open already, and has run.
        open_one: Opens another.
        batches: Batches of one timed call, in this order.
        options: How many sessions there are to be, and how long a comparison may take.
        size_bytes: Size of the model; a session is taken to need twice as much.
        fewest: Sessions that are opened whatever they cost.
        clock: Tells what opening costs.
        spare_first: Leave out ``first`` where others can be opened: the first session of a process lies in other
            memory than later ones and was slower than they in 16 of 16 processes, by 1.2 %.
    """
    limit_s = options.max_seconds or _USUAL_S
    call_s = clock.time(_call(first, batches)).nanoseconds / 1e9
    affordable = int(_RUNNING_SHARE * limit_s / max(1e-9, 2 * _LEAST_CALLS * call_s))
    room = int(_MEMORY_SHARE * psutil.virtual_memory().available / max(1, 2 * size_bytes))
    count = min(options.sessions, max(fewest, min(affordable, 1 + room)))
    runners, started = [first], clock.now_s()
    while len(runners) < count:
        if len(runners) >= fewest and clock.now_s() - started > _OPENING_SHARE * limit_s:
            break
        runners.append(open_one())
    if spare_first and len(runners) == options.sessions:
        runners = [*runners[1:], open_one()]
    return [_call(runner, batches) for runner in runners]


def _call(runner: Runner, batches: Sequence[Feeds]) -> Call:
    if len(batches) == 1:
        only = batches[0]
        return lambda: runner(only)
    return lambda: [runner(feeds) for feeds in batches]
