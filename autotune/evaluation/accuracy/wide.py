"""Accuracy on all cores: latency is measured with the user's threads, correctness does not depend on them."""

from __future__ import annotations

from collections.abc import Callable

from autotune.adapter import Array, Feeds, Runner

_WIDE_BATCH = 8
"""Rows of an input (samples, or the steps of a sequence) from which on a call is worth several threads; below, waking
them costs what they save."""


class WideRunner:
    """Runs large calls on all cores and small ones as the given runner does.

    Args:
        narrow: Session with the user's threads.
        make_wide: Makes the one with all cores; called with the first large batch.
    """

    def __init__(self, narrow: Runner, make_wide: Callable[[], Runner]) -> None:
        self._narrow = narrow
        self._make_wide = make_wide
        self._wide: Runner | None = None

    def __call__(self, feeds: Feeds) -> tuple[Array, ...]:
        """Run one batch and return the outputs in graph order."""
        rows = max((array.shape[0] for array in feeds.values() if array.ndim), default=1)
        if rows < _WIDE_BATCH:
            return self._narrow(feeds)
        if self._wide is None:
            self._wide = self._make_wide()
        return self._wide(feeds)
