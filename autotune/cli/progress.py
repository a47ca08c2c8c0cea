"""Shows the progress of a run: a line for every stage and trial, and on a terminal a status line below them."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from autotune.cli.figures import brief, loss_text, measured_speedup, number_text, seconds_text
from autotune.config import QuantizationConfig
from autotune.criterion import Criterion, Verdict
from autotune.notes import counted
from autotune.observer import Observer
from autotune.trial import Trial, TrialState

_PHASES = {
    "load": "Reading the model",
    "calibrate": "Calibrating",
    "runtimes": "Comparing the runtimes",
    "baseline": "Measuring the fp32 model",
    "search": "Searching",
    "train": "Training",
    "finalists": "Racing the finalists",
    "save": "Saving",
}
_HEADING = f"{'trial':>5}  {'accuracy':>8}  {'loss':>8}  {'speedup':>7}  what"
_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_BAR = 20
_REFRESHES = 1
"""Drawings of the status in a second: as often as its clock changes, since a latency is measured at the same time."""
_VERDICT_STYLES = {Verdict.MET: "green", Verdict.MISSED: "red", Verdict.UNDECIDED: "yellow"}


class ProgressDisplay(Observer):
    """Shows a run on a console. Use it as a context manager, so that the terminal is left as it was found.

    Args:
        console: Where to show it. Without a terminal there is no status line, and nothing is ever drawn over.
        criterion: The accuracy target.
        max_trials: How many candidates are tried at the most.
        timeout_s: How long the run may take.
    """

    def __init__(
        self, console: Console, criterion: Criterion, *, max_trials: int | None, timeout_s: float | None
    ) -> None:
        self._console = console
        self._criterion = criterion
        self._max_trials = max_trials
        self._timeout_s = timeout_s
        self._started = time.monotonic()
        self._search_started = self._started
        self._phase = ""
        self._detail = ""
        self._done: tuple[int, int | None] | None = None
        self._best: Trial | None = None
        self._finished = 0
        self._searched = 0  # in this session: a run that continues has finished some before
        self._live = Live(console=console, get_renderable=self._status, refresh_per_second=_REFRESHES, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def phase(self, name: str, detail: str = "") -> None:
        """A stage of the run begins."""
        self._phase, self._detail, self._done = name, detail, None
        title = _PHASES.get(name, name.capitalize())
        self._print(
            Text(f"{seconds_text(self._elapsed_s):>6}  {title}" + (f": {detail}" if detail else ""), style="dim")
        )
        if name == "search":
            self._search_started = time.monotonic()
        if name == "baseline":
            self._print(Text(_HEADING, style="bold"))

    def note(self, text: str) -> None:
        """A note for the user."""
        self._print(Text("Note: ", style="yellow").append(text, style="default"))

    def trial_started(self, number: int, config: QuantizationConfig, note: str) -> None:
        """A candidate is about to be applied and measured."""
        self._detail, self._done = f"trial {number}: {_on(config)}{note}", None

    def progress(self, done: int, total: int | None) -> None:
        """An accuracy evaluation has come this far."""
        self._done = (done, total)

    def trial_finished(self, trial: Trial, best: Trial | None) -> None:
        """Called when a trial has ended."""
        self._finished = max(self._finished, trial.number)
        self._searched += self._phase == "search"
        new_best = best is not None and (self._best is None or best.number != self._best.number)
        self._best, self._detail, self._done = best, "", None
        self._print(self._line(trial, is_best=new_best and best is not None and best.number == trial.number))

    @property
    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started

    def _line(self, trial: Trial, *, is_best: bool) -> Text:
        measured = trial.measurement
        line = Text(f"{trial.number:>5}  {number_text(measured.accuracy if measured else None):>8}  ")
        verdict = measured.verdict if measured is not None else None
        style = "default" if verdict is None or trial.config.is_fp32 else _VERDICT_STYLES[verdict]
        line.append(f"{loss_text(trial.loss, self._criterion) if not trial.config.is_fp32 else '':>8}", style=style)
        line.append(f"  {measured_speedup(measured):>7}  ")
        if trial.state in (TrialState.FAILED, TrialState.PRUNED):
            line.append(
                f"{_on(trial.config)}{trial.state}: {trial.reason}",
                style="red" if trial.state is TrialState.FAILED else "dim",
            )
            line.append(f" ({trial.note})" if trial.note else "", style="dim")
        else:
            line.append(f"{_on(trial.config)}{trial.note}")
        if is_best and not trial.config.is_fp32:
            line.append("  <- best so far", style="bold green")
        return line

    def _print(self, line: Text) -> None:
        self._console.print(line, soft_wrap=True, highlight=False)

    def _status(self) -> Text:
        """Two lines of plain text: tables and bars of Rich take three times as long to draw."""
        shown = Text(overflow="ellipsis", no_wrap=True)
        shown.append(_FRAMES[int(self._elapsed_s * _REFRESHES) % len(_FRAMES)], style="cyan")
        shown.append(f" {self._detail or _PHASES.get(self._phase, self._phase)}")
        done, total = self._done or (0, None)
        if total:
            filled = round(_BAR * min(1.0, done / total))
            shown.append(" " + "━" * filled, style="cyan")
            shown.append("━" * (_BAR - filled), style="dim")
            shown.append(f" {done:,}/{counted(total, 'sample')}", style="dim")
        parts = [f"best {brief(self._best, self._criterion)}"] if self._best is not None else []
        if self._max_trials is not None and self._phase == "search":
            parts.append(f"{self._finished} of at most {counted(self._max_trials, 'trial')}")
        parts.append(f"{seconds_text(self._elapsed_s)} elapsed")
        if (left := self._left_s()) is not None:
            parts.append(left)
        return shown.append("\n  " + " · ".join(parts), style="dim")

    def _left_s(self) -> str | None:
        """The time left: exact where a time limit was set, else from the pace of the trials so far."""
        if self._timeout_s is not None:
            return f"{seconds_text(max(0.0, self._timeout_s - self._elapsed_s))} left"
        if self._phase != "search" or self._max_trials is None or self._searched == 0:
            return None
        pace = (time.monotonic() - self._search_started) / self._searched
        return f"at most about {seconds_text(pace * (self._max_trials - self._finished))} left"


def shown(criterion: Criterion, *, max_trials: int | None, timeout_s: float | None) -> ProgressDisplay:
    """A display on standard error, for runs that Python started."""
    return ProgressDisplay(Console(stderr=True), criterion, max_trials=max_trials, timeout_s=timeout_s)


def _on(config: QuantizationConfig) -> str:
    """The runtime of a trial, in front of what it is; empty in a run of one framework."""
    return "" if config.runtime is None else f"{config.runtime}: "
