"""The stages of one run as they pass: the observer is notified, the deadline checked, the time counted."""

from __future__ import annotations

from contextlib import AbstractContextManager

from autotune.observer import Observer
from autotune.tuning.stopwatch import Stopwatch
from autotune.tuning.timetable import Timetable


class Stages:
    """The events that all parts of a run report, and the time that they share.

    Args:
        observer: Is told of stages, progress and notes.
        timeout_s: Wall time of the run in seconds; None sets no limit.
    """

    def __init__(self, observer: Observer, timeout_s: float | None) -> None:
        self.observer = observer
        self.stopwatch = Stopwatch()
        self.timetable = Timetable(timeout_s)
        self.notes: list[str] = []

    @property
    def deadline(self) -> float | None:
        """A ``time.monotonic()`` value; None where there is no limit."""
        return self.timetable.deadline

    def announce(self, stage: str, detail: str = "") -> None:
        """Called before each stage that is done whether there is time left or not; ``detail`` says of what."""
        self.observer.phase(stage, detail)

    def begin(self, stage: str, detail: str = "") -> None:
        """Called before each other stage.

        Raises:
            DeadlineReached: There is no time left for it.
        """
        self.announce(stage, detail)
        self.timetable.begin(stage)

    def timed(self, activity: str) -> AbstractContextManager[None]:
        """Count what happens inside of the ``with`` block to ``activity``."""
        return self.stopwatch(activity)

    def progressed(self, done: int, total: int | None) -> None:
        """Called while an accuracy evaluation runs; ``total`` is None where nobody knows how many samples there are.

        Raises:
            DeadlineReached: It is the baseline's, and its pace shows that it cannot end in time.
        """
        self.observer.progress(done, total)
        if self.timetable.stage == "baseline":
            self.timetable.progressed(done, total)

    def note(self, *notes: str) -> None:
        """Keep lines that the user should know, for the result, and show them now."""
        for note in notes:
            self.notes.append(note)
            self.observer.note(note)
