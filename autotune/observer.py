"""The events of a run, for whatever watches it: the command line's live display, a log, a test."""

from __future__ import annotations

from autotune.config import QuantizationConfig
from autotune.trial import Trial


class Observer:
    """Is told what a run does, in the order in which it happens. Every method does nothing until overridden."""

    def phase(self, name: str, detail: str = "") -> None:
        """A stage of the run begins: ``load``, ``calibrate``, ``baseline``, ``search``, ``finalists``, ``save``."""

    def note(self, text: str) -> None:
        """Called with a note for the user that is no error: a line, or a few."""

    def trial_started(self, number: int, config: QuantizationConfig, note: str) -> None:
        """A candidate is about to be applied and measured."""

    def progress(self, done: int, total: int | None) -> None:
        """The accuracy evaluation that runs has seen ``done`` of ``total`` samples; None where nobody knows."""

    def trial_finished(self, trial: Trial, best: Trial | None) -> None:
        """A trial ended; ``best`` is the best so far that keeps the target, the fp32 baseline included."""
