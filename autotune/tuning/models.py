"""The models of a run's trials: made once, the best of them kept in the workspace."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic

from autotune.adapter import Adapter, ModelT
from autotune.config import QuantizationConfig
from autotune.criterion import Criterion
from autotune.host import current_host
from autotune.results.result import NEAREST
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial
from autotune.tuning.selection import asked_for_again
from autotune.tuning.setup import Setup

_BEST = "best"

_KEPT_BYTES = 2**30
"""Models that are kept for the finals take no more than this together; what is beyond is made a second time."""


class Models(Generic[ModelT]):
    """Makes and writes the models of trials.

    Args:
        adapter: Of the framework.
        criterion: The target, which a file names with what was measured.
        workspace: The folder to write to; None: nothing is written.
    """

    def __init__(self, adapter: Adapter[ModelT], criterion: Criterion, workspace: Path | None) -> None:
        self._adapter = adapter
        self._criterion = criterion
        self._workspace = workspace
        self._best: tuple[QuantizationConfig, ModelT] | None = None
        self._kept: dict[QuantizationConfig, ModelT] = {}

    def made(self, setup: Setup[ModelT], trial: Trial) -> ModelT:
        """The model of a trial.

        Raises:
            TrialError: It cannot be made a second time.
        """
        if trial.config.is_fp32:
            return setup.given
        if self._best is not None and self._best[0] == trial.config:
            return self._best[1]
        # Finalists are raced, seen to the end, and one is the answer: made once, since making one takes seconds.
        if trial.config not in self._kept:
            self._kept[trial.config] = self._adapter.apply(setup.model, trial.config, setup.statistics)
        return self._kept[trial.config]

    def keep_for_finals(self, model: ModelT, trial: Trial, trials: Sequence[Trial], objective: Objective) -> None:
        """Keep the model of a trial that the finals may ask for, and free those that they will not ask for any more.

        Args:
            model: What the trial measured.
            trial: One of ``trials``.
            trials: All so far.
            objective: What to minimise.
        """
        wanted = {each.config for each in asked_for_again(trials, objective)}
        self._kept = {config: kept for config, kept in self._kept.items() if config in wanted}
        taken = sum(kept.size_bytes for kept in self._kept.values())
        if trial.config in wanted and taken + model.size_bytes <= _KEPT_BYTES:
            self._kept[trial.config] = model

    def forget_finalists(self) -> None:
        """Free the models that are none of the answer."""
        self._kept.clear()

    def keep_best(self, model: ModelT, trial: Trial) -> None:
        """Write the best model so far, so that it is there whatever happens next, and remember it."""
        self._best = (trial.config, model)
        self._write(model, trial, _BEST)

    def keep_nearest(self, nearest: tuple[ModelT, Trial] | None) -> None:
        """Write what is offered beside the answer, in the place of what an earlier run offered."""
        if self._workspace is not None:
            for file in self._workspace.glob(f"{NEAREST}{self._adapter.suffix}*"):
                file.unlink()
        if nearest is not None:
            self._write(*nearest, NEAREST)

    def has_best(self) -> bool:
        """Whether the workspace has an answer, which an earlier run may have left."""
        return self._workspace is not None and (self._workspace / f"{_BEST}{self._adapter.suffix}").exists()

    def saver(self, model: ModelT, trial: Trial) -> Callable[[Path], None]:
        """What writes a model to the path that it is given."""
        return lambda path: self._adapter.save(model, path, self._metadata(trial))

    def _write(self, model: ModelT, trial: Trial, name: str) -> None:
        if self._workspace is not None:
            self._adapter.save(model, self._workspace / f"{name}{self._adapter.suffix}", self._metadata(trial))

    def _metadata(self, trial: Trial) -> dict[str, str]:
        """What goes into a saved model: how it was made, what it was measured at, and where."""
        host = current_host()
        measured = trial.measurement or Measurement()
        return {
            "autotune:config": json.dumps(trial.config.to_json()),
            "autotune:measurement": json.dumps(measured.to_json()),
            "autotune:criterion": str(self._criterion),
            "autotune:host": json.dumps(host.to_json()),
            "autotune:version": host.packages.get("autotune-quantization", "uninstalled"),
        }
