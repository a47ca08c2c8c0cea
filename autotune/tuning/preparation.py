"""The prepared model among the trials: a candidate of the run, and what strategies reckon speeds from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from autotune.trial import Trial

PREPARATION = "preparation"
"""Key of :meth:`History.keep`: the speedup of the prepared model over the user's, before any op is quantized."""


def in_terms_of_fp32(trials: Sequence[Trial], given: float = 1.0) -> list[Trial]:
    """The trials as a strategy sees them: with speeds relative to the model that candidates are made of.

    That is the prepared model, where it is a trial, and else the user's on the same runtime. Trained candidates are
    left out: they are made of other weights, of which a strategy predicts nothing.

    Args:
        trials: The baseline first, then the trials of one runtime; speedups relative to the baseline.
        given: Speed of the user's model on this runtime, relative to the baseline.
    """
    ours = next((trial for trial in trials if trial.config.prepared and trial.same_as is None), None)
    kept = [trial for trial in trials if not (trial.config.prepared or trial.config.trained)]
    prepared = None if ours is None or ours.measurement is None else ours.measurement.speedup
    factor = given if prepared is None else prepared
    return kept if factor == 1.0 else [trial if trial is trials[0] else _slower_by(factor, trial) for trial in kept]


def _slower_by(factor: float, trial: Trial) -> Trial:
    measured = trial.measurement
    if measured is None or measured.speedup is None:
        return trial
    interval = measured.speedup_interval
    if interval is not None:
        interval = dataclasses.replace(interval, low=interval.low / factor, high=interval.high / factor)
    scaled = dataclasses.replace(measured, speedup=measured.speedup / factor, speedup_interval=interval)
    return dataclasses.replace(trial, measurement=scaled)
