"""Progress of a run as JSON: an object per line, for programs that read it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from autotune.config import QuantizationConfig
from autotune.observer import Observer
from autotune.trial import Trial


class JsonLines(Observer):
    """Writes every event of a run as one JSON object, whose ``event`` says what it is; progress in a trial is left out.

    Args:
        write: Takes a line without its end.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def event(self, event: str, /, **values: Any) -> None:
        """Write one event. JSON has no infinity and no NaN: such a figure is null."""
        self._write(json.dumps({"event": event, **_finite(values)}, allow_nan=False))

    def phase(self, name: str, detail: str = "") -> None:
        """A stage of the run begins."""
        self.event("phase", name=name, detail=detail)

    def note(self, text: str) -> None:
        """A note for the user."""
        self.event("note", text=text)

    def trial_started(self, number: int, config: QuantizationConfig, note: str) -> None:
        """A candidate is about to be measured."""
        self.event("trial_started", number=number, config=config.fingerprint, note=note)

    def trial_finished(self, trial: Trial, best: Trial | None) -> None:
        """A trial ended."""
        self.event(
            "trial_finished",
            number=trial.number,
            state=str(trial.state),
            reason=trial.reason,
            note=trial.note,
            duration_s=trial.duration_s,
            measurement=None if trial.measurement is None else trial.measurement.to_json(),
            best=None if best is None else best.number,
        )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
