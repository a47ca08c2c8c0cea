"""Wall time of a run by stage."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Stopwatch:
    """Adds up wall time by activity; an activity inside another one counts for itself only."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._seconds: dict[str, float] = {}
        self._inner: list[float] = []

    @contextmanager
    def __call__(self, activity: str) -> Iterator[None]:
        """Count what happens inside of the ``with`` block to ``activity``."""
        start = time.monotonic()
        self._inner.append(0.0)
        try:
            yield
        finally:
            took = time.monotonic() - start
            self._seconds[activity] = self._seconds.get(activity, 0.0) + took - self._inner.pop()
            if self._inner:
                self._inner[-1] += took

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds by activity, with ``total`` for everything since the start."""
        return {**self._seconds, "total": time.monotonic() - self._started}
