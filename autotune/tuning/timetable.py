"""How much of a run's time is left, and whether a stage can still be done in it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from autotune.data import Batch
from autotune.errors import DeadlineReached

_CALIBRATION_SHARE = 0.25
"""The largest share of the time given that calibration takes, once it has one batch."""

_TELLING = 0.1
"""Share of the time a stage has, after which its pace is believed."""

_HOPELESS = 2.0
"""How many times that time a stage must be predicted to take to be given up. A first part is slower than the rest."""

_AFTER_BASELINE = 3
"""Evaluations of the fp32 model that insights, a few candidates and their finals take."""

_LEAST_SUGGESTED_S = 30.0
"""Shortest time that is ever suggested: measuring ops, comparisons and a race take that on a busy machine, however
small the model is."""

_STAGES = {
    "load": "the model was loaded and the data were read",
    "runtimes": "the fp32 model was timed on all runtimes",
    "calibrate": "the calibration data ran through the model",
    "baseline": "the fp32 model itself was measured",
    "search": "the first candidate was prepared or measured",
    "train": "a candidate was trained",
}

_Item = TypeVar("_Item")


class Timetable:
    """The stages of a run against its deadline. Without a time limit nothing here ever raises or shortens anything.

    Args:
        timeout_s: Wall time of the run in seconds; None sets no limit.
    """

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self._began = self._stage_began = time.monotonic()
        self._stage = "load"
        self._pace_began = self._began
        self._predicted_s: float | None = None
        self._evaluation_s = 0.0
        self.deadline = None if timeout_s is None else self._began + timeout_s
        """A ``time.monotonic()`` value; None where there is no limit."""

    @property
    def stage(self) -> str:
        """The stage that runs."""
        return self._stage

    def part(self, share: float) -> float | None:
        """The ``time.monotonic()`` value at which a share of the time left is over; None where there is no limit."""
        if self.deadline is None:
            return None
        now = time.monotonic()
        return now + share * max(0.0, self.deadline - now)

    def begin(self, stage: str) -> None:
        """Called before each stage.

        Raises:
            DeadlineReached: There is no time left for it, so that it must not begin.
        """
        now = time.monotonic()
        if self._stage == "baseline":
            self._evaluation_s = now - self._stage_began
        self._stage, self._stage_began, self._pace_began, self._predicted_s = stage, now, now, None
        self.require()

    def require(self) -> None:
        """See that there is time left.

        Raises:
            DeadlineReached: There is not.
        """
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise DeadlineReached(f"The time given to the run was up before {_STAGES.get(self._stage, self._stage)}")

    def watched(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """The same items, as long as there is time.

        Raises:
            DeadlineReached: The time was up before an item was read.
        """
        for item in items:
            self.require()
            yield item

    def shortened(self, batches: Iterable[Batch], passes: int = 1) -> ShortenedBatches:
        """The first batches that can be read and worked on in the time that calibration may take, at least one.

        Args:
            batches: All of them.
            passes: How many runtimes calibrate, which share the time.
        """
        allowed = math.inf
        if self._timeout_s is not None and self.deadline is not None:
            allowed = min(_CALIBRATION_SHARE * self._timeout_s / passes, self.deadline - time.monotonic())
        return ShortenedBatches(batches, allowed)

    def progressed(self, done: int, total: int | None) -> None:
        """Called with how much of the stage is done; with 0 when the model is ready and the first sample begins.

        The pace counts from there: what comes before, such as half a minute of a compiler, comes once.

        Raises:
            DeadlineReached: At this pace the evaluation takes far more than the time that is left.
        """
        if not done:
            self._pace_began = time.monotonic()
        if not done or total is None:
            return
        elapsed = time.monotonic() - self._pace_began
        self._predicted_s = elapsed / done * total
        if self.deadline is None:
            return
        available = self.deadline - self._pace_began
        if elapsed >= _TELLING * available and self._predicted_s > _HOPELESS * available:
            raise DeadlineReached(
                f"Evaluating the fp32 model takes about {self._predicted_s:.0f} s, and {available:.0f} s were left"
            )

    def end_reason(self) -> str:
        """Why the run ended where its time was up before anything was tried, and what to give it instead."""
        assert self._timeout_s is not None
        what = _STAGES.get(self._stage, self._stage)
        return (
            f"timeout: the {self._timeout_s:g} s given to the run were up before {what}{self._pace()}. "
            f"Give it {self.suggested_s():,.0f} s or more (`timeout_s`, or `--timeout`), or evaluate on fewer samples"
        )

    def suggested_s(self) -> float:
        """Seconds in which a run like this one should find an answer, estimated; two digits count."""
        assert self._timeout_s is not None
        now = time.monotonic()
        stage = now - self._pace_began
        before = self._pace_began - self._began
        predicted = 2 * stage if self._predicted_s is None else max(stage, self._predicted_s)
        if self._stage != "search" and self._predicted_s is None:
            # An evaluation that has hardly begun tells nothing of the rest: it is taken to be as long as all before it.
            predicted = max(predicted, before)
        if self._evaluation_s:
            predicted += _AFTER_BASELINE * self._evaluation_s
        else:
            predicted *= 1 + _AFTER_BASELINE
        needed = max(before + predicted, 2 * self._timeout_s, _LEAST_SUGGESTED_S)
        unit = 10.0 ** max(0, math.floor(math.log10(needed)) - 1)
        return math.ceil(needed / unit) * unit

    def _pace(self) -> str:
        if self._stage != "baseline" or self._predicted_s is None:
            return ""
        return f": all samples together take about {self._predicted_s:,.0f} s"


class ShortenedBatches:
    """Batches that end early where the next one would take more time than is allowed.

    Args:
        batches: Iterated once.
        allowed_s: Seconds for all of them and for what is done with each.

    Attributes:
        samples: Samples of the batches so far.
        cut: Whether it ended early.

    Raises:
        DeadlineReached: While the first batch was read; later it only ends.
    """

    def __init__(self, batches: Iterable[Batch], allowed_s: float) -> None:
        self._batches = batches
        self._allowed_s = allowed_s
        self.samples = 0
        self.cut = False

    def __iter__(self) -> Iterator[Batch]:
        """The batches; the time of earlier ones, for reading and work, predicts that of the next."""
        began = time.monotonic()
        took, done = 0.0, 0
        batches = iter(self._batches)
        while True:
            try:
                batch = next(batches, None)
            except DeadlineReached:
                if not done:
                    raise
                self.cut = True
                return
            if batch is None:
                return
            if done and took * (done + 1) / done > self._allowed_s:
                self.cut = True
                return
            done += 1
            self.samples += batch.size
            yield batch
            took = time.monotonic() - began
