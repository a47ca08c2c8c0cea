"""Observers that pass on what a run does: to several others, or to the log."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from autotune.config import QuantizationConfig
from autotune.observer import Observer
from autotune.trial import Trial

_LOGGER = logging.getLogger("autotune")


class Several(Observer):
    """Passes every event on to several observers, in their order.

    Args:
        observers: The observers.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def phase(self, name: str, detail: str = "") -> None:
        """See :class:`Observer`."""
        for each in self._observers:
            each.phase(name, detail)

    def note(self, text: str) -> None:
        """See :class:`Observer`."""
        for each in self._observers:
            each.note(text)

    def trial_started(self, number: int, config: QuantizationConfig, note: str) -> None:
        """See :class:`Observer`."""
        for each in self._observers:
            each.trial_started(number, config, note)

    def progress(self, done: int, total: int | None) -> None:
        """See :class:`Observer`."""
        for each in self._observers:
            each.progress(done, total)

    def trial_finished(self, trial: Trial, best: Trial | None) -> None:
        """See :class:`Observer`."""
        for each in self._observers:
            each.trial_finished(trial, best)


class Log(Observer):
    """Writes stages, notes and trials to the logger ``autotune``; what happens within a trial is not logged."""

    def phase(self, name: str, detail: str = "") -> None:
        """A stage begins: level INFO."""
        _LOGGER.info("%s%s", name, f": {detail}" if detail else "")

    def note(self, text: str) -> None:
        """A note for the user: level INFO, since the result has it too."""
        _LOGGER.info("%s", text)

    def trial_started(self, number: int, config: QuantizationConfig, note: str) -> None:
        """A candidate is about to be measured: level DEBUG."""
        _LOGGER.debug("trial %d (config %s): %s", number, config.fingerprint, note)

    def trial_finished(self, trial: Trial, best: Trial | None) -> None:
        """A trial ended: level INFO."""
        _LOGGER.info(
            "trial %d %s: loss %s, speedup %s%s; best so far: trial %s",
            trial.number,
            trial.state,
            trial.loss,
            trial.speedup,
            f", {trial.reason}" if trial.reason else "",
            None if best is None else best.number,
        )
