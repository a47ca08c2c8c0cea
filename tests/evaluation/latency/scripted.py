"""Sessions whose calls say what they take, and the clock that believes them: no test waits or is disturbed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from autotune.evaluation.latency import Call, Reading


@dataclass
class ScriptedClock:
    """Calls return milliseconds, or leave them in ``taken_ms``; time goes by as they say.

    Attributes:
        now: Seconds since the start.
        slow: By how much everything is slower at a time.
        disturb: Milliseconds of other work in a call at a time.
        taken_ms: Time that the last call took, where it returned something else.
    """

    now: float = 0.0
    slow: Callable[[float], float] = lambda _: 1.0
    disturb: Callable[[float], float] = lambda _: 0.0
    taken_ms: float = 0.0

    def now_s(self) -> float:
        return self.now

    def time(self, call: Call) -> Reading:
        found = call()
        milliseconds = (found if isinstance(found, float) else self.taken_ms) * self.slow(self.now)
        extra = self.disturb(self.now)
        self.now += (milliseconds + extra) / 1e3
        return Reading(nanoseconds=round((milliseconds + extra) * 1e6), disturbed=extra > 0)


@dataclass
class Models:
    """Makes sessions with noise of their own.

    Attributes:
        seed: Seed of the noise.
        noise: Noise of a call, as a share.
        spread: Standard deviation between sessions, as a share.
        log: Names of the sessions in the order of their calls, those that are discarded included.
    """

    seed: int = 0
    noise: float = 0.02
    spread: float = 0.0
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._generator = np.random.default_rng(self.seed)

    def session(self, milliseconds: float, name: str = "") -> Callable[[], float]:
        own = milliseconds * math.exp(self.spread * self._generator.standard_normal())

        def call() -> float:
            self.log.append(name)
            return own * math.exp(self.noise * abs(self._generator.standard_normal()))

        return call

    def sessions(self, milliseconds: float, count: int = 3, name: str = "") -> Sequence[Call]:
        return [self.session(milliseconds, f"{name}{index}") for index in range(count)]
