"""Trials that a worker on another host hands over: it has measured their accuracy, and their latency is for the run.

Latency is compared on one host alone, and accuracy is shared. A worker elsewhere thus ends a trial without an outcome
and leaves beside it what it measured. A process on the run's host tries the config again in a trial of its own, which
names the one that it was taken from, and times it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from autotune.config import QuantizationConfig
from autotune.parsing import parse_json
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.bulk import CONFIG
from autotune.tuning.stored_trials import HANDED, MODEL, NOTE, TAKEN, interrupted

_ACCURACY, _NEEDED = "measurement", "needs_accuracy"


@dataclass(frozen=True, kw_only=True)
class HandedOver:
    """A config that waits for its latency.

    Attributes:
        number: Number of the trial on the other host.
        config: The config.
        note: Why the strategy proposed it.
        needs_accuracy: Whether the strategy wants its accuracy whatever its speed.
        model: Fingerprint of the model that the config made there; None where none was made.
        measurement: The figures without latency; None where that host could not measure any.
    """

    number: int
    config: QuantizationConfig
    note: str
    needs_accuracy: bool
    model: str | None
    measurement: Measurement | None

    @property
    def running(self) -> Trial:
        """The trial as strategies see it until it is taken: it has no outcome yet."""
        return Trial(number=self.number, config=self.config, state=TrialState.RUNNING, note=self.note)


class Handovers:
    """The trials of a study that were handed over, and which of them were taken."""

    def __init__(self) -> None:
        self._pending: dict[int, HandedOver] = {}
        self._accuracies: dict[str, Measurement] = {}

    def settle(self, trials: Sequence[FrozenTrial]) -> None:
        """Called once with each trial that has ended, in the order of their numbers."""
        for trial in trials:
            self._update(self._pending, trial)

    def pending(self, rest: Sequence[FrozenTrial]) -> list[HandedOver]:
        """Those that nobody has taken.

        Args:
            rest: The trials of the study that were not settled.
        """
        found = dict(self._pending)
        for trial in rest:
            self._update(found, trial)
        return list(found.values())

    def accuracy_of(self, model: str) -> Measurement | None:
        """Figures of a model that another host has measured; None where there are none."""
        return self._accuracies.get(model)

    def _update(self, pending: dict[int, HandedOver], trial: FrozenTrial) -> None:
        if interrupted(trial):
            if HANDED in trial.user_attrs:
                handed = pending[trial.number] = _read(trial)
                if handed.model is not None and handed.measurement is not None:
                    self._accuracies[handed.model] = handed.measurement
        elif TAKEN in trial.user_attrs:
            pending.pop(trial.user_attrs[TAKEN], None)


def stored(measured: Measurement | None, *, needs_accuracy: bool) -> dict[str, object]:
    """A JSON value that is kept with a trial that is handed over."""
    return {_NEEDED: needs_accuracy, _ACCURACY: None if measured is None else measured.to_json()}


def _read(trial: FrozenTrial) -> HandedOver:
    attrs = trial.user_attrs
    config, handed = attrs[CONFIG], attrs[HANDED]
    measured = handed[_ACCURACY]
    return HandedOver(
        number=trial.number,
        config=QuantizationConfig.from_json(parse_json(config) if isinstance(config, str) else config),
        note=attrs.get(NOTE, ""),
        needs_accuracy=handed[_NEEDED],
        model=attrs.get(MODEL),
        measurement=None if measured is None else Measurement.from_json(measured),
    )
