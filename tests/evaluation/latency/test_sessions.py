"""How many sessions of a model are opened."""

from __future__ import annotations

from typing import Any

import numpy as np
import psutil
import pytest

from autotune.adapter import Array, Feeds, Runner
from autotune.evaluation import LatencyOptions
from autotune.evaluation.latency import Call
from autotune.evaluation.latency.sessions import open_sessions
from tests.evaluation.latency.scripted import ScriptedClock

FEEDS = {"x": np.zeros(1, np.float32)}


def opened(
    *, call_ms: float = 1.0, open_s: float = 0.01, size_bytes: int = 1000, fewest: int = 1, **changes: Any
) -> tuple[list[Call], list[int]]:
    """The calls, and the numbers of the sessions that they run, 0 being the one that was open already."""
    clock = ScriptedClock(taken_ms=call_ms)
    ran: list[int] = []
    numbers = iter(range(1, 10))

    def runner(number: int) -> Runner:
        def run(feeds: Feeds) -> tuple[Array, ...]:  # noqa: ARG001
            ran.append(number)
            return ()

        return run

    def open_one() -> Runner:
        clock.now += open_s
        return runner(next(numbers))

    spare_first = changes.pop("spare_first", False)
    calls = open_sessions(
        runner(0),
        open_one,
        [FEEDS],
        LatencyOptions(**changes),
        size_bytes=size_bytes,
        fewest=fewest,
        clock=clock,
        spare_first=spare_first,
    )
    ran.clear()
    for call in calls:
        call()
    return calls, ran


def test_cheap_sessions_are_as_many_as_asked_for() -> None:
    assert opened()[1] == [0, 1, 2]
    assert opened(sessions=5)[1] == [0, 1, 2, 3, 4]
    assert opened(sessions=1)[1] == [0]


def test_the_first_session_of_a_process_is_spared() -> None:
    assert opened(spare_first=True)[1] == [1, 2, 3]


def test_opening_takes_a_twentieth_of_a_comparison_at_the_most() -> None:
    assert opened(open_s=0.6)[1] == [0, 1]
    assert opened(open_s=0.6, fewest=3)[1] == [0, 1, 2]


def test_slow_calls_leave_no_time_for_further_sessions() -> None:
    assert opened(call_ms=1000.0)[1] == [0]
    assert opened(call_ms=1000.0, fewest=2)[1] == [0, 1]


def test_large_models_leave_no_room_for_further_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 100_000

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    assert opened(size_bytes=1000)[1] == [0, 1, 2]
    assert opened(size_bytes=4000)[1] == [0, 1]
    assert opened(size_bytes=10_000)[1] == [0]
