"""The prepared model among the trials: a candidate of the run, and what strategies reckon speeds from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from autotune.trial import Trial

PREPARATION = "preparation"
"""Key of :meth:`History.keep`: the speedup of the prepared model over the user's, before any op is quantized."""


def in_terms_of_prepared(trials: Sequence[Trial]) -> list[Trial]:
    """The trials as a strategy sees them: all are made of the prepared model, and speed is relative to that one.

    Args:
        trials: The baseline first, speedups relative to the user's model.
    """
    ours = next((trial for trial in trials if trial.config.prepared and trial.same_as is None), None)
    kept = [trial for trial in trials if not trial.config.prepared]
    factor = None if ours is None or ours.measurement is None else ours.measurement.speedup
    return kept if factor is None else [trial if trial is trials[0] else _slower_by(factor, trial) for trial in kept]


def _slower_by(factor: float, trial: Trial) -> Trial:
    measured = trial.measurement
    if measured is None or measured.speedup is None:
        return trial
    interval = measured.speedup_interval
    if interval is not None:
        interval = dataclasses.replace(interval, low=interval.low / factor, high=interval.high / factor)
    scaled = dataclasses.replace(measured, speedup=measured.speedup / factor, speedup_interval=interval)
    return dataclasses.replace(trial, measurement=scaled)
