"""A run in MLflow: a nested run for each trial, and the outcome in the run around them.

    with mlflow.start_run():
        result = autotune.tune(model, loader, eval_fn, observer=MlflowObserver())
        log_result(result, result.save_files("tuned.onnx"))

Needs ``pip install 'autotune-quantization[mlflow]'``. See https://mlflow.org/docs/latest/ml/tracking/.
"""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.errors import MissingDependencyError
from autotune.observer import Observer
from autotune.owned_folder import OwnedFolder
from autotune.results.summary import TuningSummary
from autotune.trial import Trial, TrialState

_FIGURES = ("accuracy", "loss", "speedup", "latency_ms", "size_bytes", "peak_memory_bytes", "throughput")
_STATUS: Mapping[TrialState, str] = {TrialState.FAILED: "FAILED"}
"""MLflow's status of a run by the state of a trial; FINISHED for all others."""


class MlflowObserver(Observer):
    """Logs each trial, once it ended, as a run nested in the active one.

    Parameters are how many ops compute in what, and the note; metrics are what was measured, in the units of
    :class:`autotune.Measurement`; the config is a tag, by its fingerprint.

    The first trial must reach MLflow. Where a later one does not, as where the server is down for a while, the search
    goes on and the log of autotune has a warning.
    """

    def __init__(self) -> None:
        self._reached = False

    def trial_finished(self, trial: Trial, best: Trial | None) -> None:
        """Log a trial.

        Raises:
            MlflowException: The first one cannot be logged.
        """
        mlflow = _installed()
        try:
            self._log(mlflow, trial, best)
        except (mlflow.exceptions.MlflowException, OSError) as error:
            if not self._reached:
                raise
            logging.getLogger("autotune").warning("Trial %d is not in MLflow: %s", trial.number, error)
            return
        self._reached = True

    def _log(self, mlflow: Any, trial: Trial, best: Trial | None) -> None:
        with mlflow.start_run(run_name=f"trial {trial.number}", nested=True) as run:
            mlflow.set_tags(
                {
                    "autotune.trial": str(trial.number),
                    "autotune.config": trial.config.fingerprint,
                    "autotune.state": str(trial.state),
                    "autotune.reason": trial.reason or "",
                    "autotune.best_so_far": str(best is not None and best.number == trial.number),
                }
            )
            counts = {f"ops_{precision}": count for precision, count in trial.config.precisions().items()}
            mlflow.log_params({"note": trial.note, **counts})
            mlflow.log_metrics(_figures(trial))
        if status := _STATUS.get(trial.state):
            mlflow.MlflowClient().set_terminated(run.info.run_id, status)


def log_result(summary: TuningSummary, files: Sequence[Path] = ()) -> None:
    """Log the outcome to the active run: the verdict, figures of the answer, the report, and files of a model.

    Args:
        summary: The result of ``tune``, or a summary of :func:`autotune.results.summary.read_summary`.
        files: The files or folders of the model, as ``result.save_files("tuned.onnx")`` returns them.
    """
    mlflow = _installed()
    mlflow.set_tags({"autotune.verdict": str(summary.verdict), "autotune.reason": summary.reason})
    mlflow.log_param("best_trial", summary.best.number)
    mlflow.log_metrics(_figures(summary.best))
    with OwnedFolder() as folder:
        mlflow.log_artifact(str(summary.report(Path(folder) / "report.html")))
    for file in files:
        mlflow.log_artifact(str(file), "model")


def _installed() -> Any:
    """MLflow, which is imported with the first call.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        return importlib.import_module("mlflow")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"Runs are logged by MLflow, but {error.name!r} is missing: pip install 'autotune-quantization[mlflow]'"
        ) from error


def _figures(trial: Trial) -> dict[str, float]:
    found: dict[str, Any] = {name: getattr(trial.measurement, name, None) for name in _FIGURES}
    if trial.duration_s is not None:
        found["duration_s"] = trial.duration_s
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}
