"""Gathers the statistics of a model on the user's data, or takes them from the workspace."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune import data
from autotune.adapter import OwnStatistics, Statistics, statistics_type
from autotune.batch import axes_of
from autotune.cache import keep_within_limit, used
from autotune.errors import WorkspaceError
from autotune.notes import counted
from autotune.tuning.loading import Loaded
from autotune.tuning.stages import Stages

if TYPE_CHECKING:
    from autotune.tuning.tuner import Tuner


class Calibrating:
    """Calibrates the models of one run.

    Args:
        tuner: The options.
        stages: Stages of this run.
    """

    def __init__(self, tuner: Tuner, stages: Stages) -> None:
        self._tuner = tuner
        self._stages = stages

    def batches(self, model: Any, loader: Iterable[object]) -> Iterable[data.Batch]:
        """The batches to calibrate on, read anew at each call so that memory does not grow with their number."""
        batches = data.iterate(loader, model.inputs, axes=axes_of(model))
        return self._stages.timetable.watched(data.limit(batches, self._tuner.sampling_size))

    def __call__(self, loaded: Loaded, loader: Iterable[object], fingerprint: str, shares: int) -> Statistics:
        """The statistics of a model on this data, from the workspace where they are there.

        Args:
            loaded: The model.
            loader: The calibration data.
            fingerprint: A hash of the data.
            shares: Number of models among which the time for calibration is divided.
        """
        adapter, model = loaded.adapter, loaded.model
        self._stages.begin("calibrate", loaded.runtime or "")
        cached = self._cached(loaded, fingerprint)
        if cached is not None and cached.exists():
            try:
                found: Statistics = statistics_type(adapter).load(cached)
            except WorkspaceError:
                self._stages.note(f"Calibrated anew: {cached.name} in the workspace is damaged or of another version")
            else:
                used(cached)
                return found
        with self._stages.timed("calibrate"):
            batches = self._stages.timetable.shortened(self.batches(model, loader), shares)
            statistics: Statistics = adapter.calibrate(model, (batch.feeds for batch in batches), seed=self._tuner.seed)
            if batches.cut:
                self._stages.note(
                    f"Calibration read {counted(batches.samples, 'sample')} only: more would have "
                    f"taken too large a part of the "
                    f"{self._tuner.timeout_s:g} s given to the run"
                )
            if cached is not None:
                cached.parent.mkdir(parents=True, exist_ok=True)
                statistics.save(cached)
                keep_within_limit(cached.parent, cached)
        return statistics

    def _cached(self, loaded: Loaded, fingerprint: str) -> Path | None:
        """The file that keeps the statistics; None where there is no workspace."""
        if self._tuner.workspace is None:
            return None
        # Two frameworks may call a model alike; what is theirs alone is kept under their names.
        apart = loaded.runtime is not None or isinstance(loaded.adapter, OwnStatistics)
        whose = f"{loaded.runtime or loaded.adapter.name}-" if apart else ""
        name = f"statistics-{whose}{loaded.model.fingerprint}-{fingerprint}.npz"
        return Path(self._tuner.workspace) / "cache" / name
