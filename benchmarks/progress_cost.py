"""Processor time that showing a run on a terminal takes, as a share of the run's wall time.

A run of the quickstart is recorded: what an observer is told, and when. Then the display is told the same at the same
moments, with nothing else going on, and the processor time of that is taken.
Run it as ``python benchmarks/progress_cost.py``; it ends with status 1 where the share is above 1 %.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

QUICKSTART = Path(__file__).resolve().parents[1] / "examples/quickstart"
sys.path.insert(0, str(QUICKSTART))

import digits  # noqa: E402  the line above finds it

import autotune  # noqa: E402
from autotune.cli.progress import ProgressDisplay  # noqa: E402
from autotune.criterion import Criterion  # noqa: E402
from autotune.observer import Observer  # noqa: E402

LIMIT = 0.01
_EVENTS = ("phase", "note", "trial_started", "progress", "trial_finished")


class Recorder(Observer):
    """Keeps what it is told, with the seconds since it was made."""

    def __init__(self) -> None:
        self.events: list[tuple[float, str, tuple[Any, ...]]] = []
        self._began = time.monotonic()
        for name in _EVENTS:
            setattr(self, name, self._keeper(name))

    def _keeper(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.events.append((time.monotonic() - self._began, name, arguments))


def recorded() -> Recorder:
    """The events of a run of the quickstart."""
    recorder = Recorder()
    evaluation = [*digits.evaluation()]
    autotune.tune(
        QUICKSTART / "digits.onnx", [*digits.training()], metric="topk", eval_dataloader=evaluation, observer=recorder
    )
    return recorder


def replayed(recorder: Recorder) -> float:
    """Processor seconds that the display takes for the same events at the same moments."""
    with Path(os.devnull).open("w", encoding="utf-8") as sink:
        console = Console(file=sink, force_terminal=True, width=120)
        display = ProgressDisplay(console, Criterion(), max_trials=50, timeout_s=None)
        began, used = time.monotonic(), time.process_time()
        with display:
            for moment, name, arguments in recorder.events:
                time.sleep(max(0.0, began + moment - time.monotonic()))
                getattr(display, name)(*arguments)
        return time.process_time() - used


def main() -> None:
    """Parse the command line and run."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    recorder = recorded()
    wall_s = recorder.events[-1][0]
    replayed(recorder)  # imports and caches of the first time, which are no matter of how long a run is
    used_s = replayed(recorder)
    share = used_s / wall_s
    print(f"{len(recorder.events)} events in {wall_s:.1f} s: {used_s * 1e3:.0f} ms of processor time, {share:.2%}")
    sys.exit(share > LIMIT)


if __name__ == "__main__":
    main()
