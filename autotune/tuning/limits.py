"""Why and when a search ends."""

from __future__ import annotations

import time
from dataclasses import dataclass

from autotune.notes import counted


@dataclass(frozen=True, kw_only=True)
class SearchEnd:
    """Why a search ended.

    Attributes:
        reason: Reason in words.
        interrupted: Whether the user ended it.
        timed_out: Whether the time was up.
    """

    reason: str
    interrupted: bool = False
    timed_out: bool = False


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits at which a search ends.

    Attributes:
        max_trials: Trials in the history, the baseline not counted.
        deadline: Latest end in seconds, a value of ``time.monotonic()``.
        max_compilations: Candidates that may be compiled, where the adapter compiles them.
        compilation_max_s: Seconds that compiling may take in all.
    """

    max_trials: int | None = None
    deadline: float | None = None
    max_compilations: int | None = None
    compilation_max_s: float | None = None

    def reached(self, trials: int) -> SearchEnd | None:
        """The end where a limit is reached, or None."""
        if self.max_trials is not None and trials >= self.max_trials:
            return SearchEnd(reason=f"max_trials: {counted(trials, 'candidate')} tried")
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return SearchEnd(reason="timeout: the time is up", timed_out=True)
        return None

    def too_late(self, price_s: float) -> SearchEnd | None:
        """The end where what takes ``price_s`` seconds cannot be done in time, or None."""
        if self.deadline is None or time.monotonic() + price_s < self.deadline:
            return None
        left = max(0.0, self.deadline - time.monotonic())
        reason = f"timeout: a candidate takes {price_s:.3g} s or more, and {left:.3g} s are left for it"
        return SearchEnd(reason=reason, timed_out=True)
