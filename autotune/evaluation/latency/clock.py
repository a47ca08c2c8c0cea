"""Times a call, and tells whether another process ran meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

Call: TypeAlias = Callable[[], object]
"""One inference of one session."""

_FINE_S = 1e-6
"""Resolution from which on a clock of processor time can time a call; that of Windows ticks every 15 ms."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One timed call.

    Attributes:
        nanoseconds: Time that the call took.
        disturbed: Whether time went by in it that was not the model's and could not be told from the model's.
    """

    nanoseconds: int
    disturbed: bool = False


class Clock(Protocol):
    """Times calls. Tests use a scripted one."""

    def now_s(self) -> float:
        """Seconds of a clock that never goes back, that of deadlines."""
        ...

    def time(self, call: Call) -> Reading:
        """Run one call and say what it took."""
        ...


class SystemClock:
    """The clocks of this process.

    With one thread a call takes the lesser of its wall time and the thread's processor time: they agree where nothing
    came between, and where the scheduler gave the core to somebody else only the second still says what the model
    takes. Wall time alone counts where a call waits of its own accord, for a device or for other threads, and where the
    system does not tell. With several threads there is wall time only, and a call in which any thread lost its core
    is disturbed.

    Args:
        threads: Threads inside of one call.
    """

    def __init__(self, threads: int) -> None:
        fine = time.get_clock_info("thread_time").resolution <= _FINE_S
        self._scope: int | None = None
        if resource is not None:
            self._scope = resource.RUSAGE_SELF if threads > 1 else getattr(resource, "RUSAGE_THREAD", None)
        self._processor_time = threads == 1 and fine and self._scope is not None

    def now_s(self) -> float:
        """``time.monotonic()``."""
        return time.monotonic()

    def time(self, call: Call) -> Reading:
        """Run one call and say what it took."""
        waits, losses = self._switches()
        processor = time.thread_time_ns()
        wall = time.perf_counter_ns()
        call()
        wall = time.perf_counter_ns() - wall
        processor = time.thread_time_ns() - processor
        waits_after, losses_after = self._switches()
        lost = losses_after > losses
        if self._processor_time and waits_after == waits:
            return Reading(nanoseconds=min(wall, processor))
        return Reading(nanoseconds=wall, disturbed=lost)

    def _switches(self) -> tuple[int, int]:
        """How often the thread waited, and how often it lost its core; zeros where the system does not tell."""
        if self._scope is None:
            return 0, 0
        usage = resource.getrusage(self._scope)
        return usage.ru_nvcsw, usage.ru_nivcsw
