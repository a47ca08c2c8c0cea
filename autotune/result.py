"""What a run returns."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from autotune.adapter import Array
from autotune.criterion import Criterion, Verdict
from autotune.selection import pareto_front
from autotune.space import TuningSpace
from autotune.trial import Measurement, Trial


@dataclass(frozen=True, kw_only=True)
class TuningResult:
    """The tuned model, how good it is, and how it was found.

    Attributes:
        verdict: Whether ``best`` keeps the accuracy target.
        best: The answer; where the verdict is not ``met``, the candidate that came nearest.
        baseline: The fp32 model, measured in the same run.
        reason: Why this one is the answer.
        end_reason: Why the search ended.
        interrupted: Whether the user ended it.
        criterion: The target.
        history: Every trial by number, the baseline first.
        space: What could be chosen.
        costly_ops: The ops whose quantization costs most, worst first, with their noise-to-signal ratio at the
            model's outputs; empty where the target is met.
        final: ``best`` on data that the search never saw, where some was held out.
        notes: What a user should know of the model or the run.
        seconds: Wall time by activity, with ``total``.
    """

    verdict: Verdict
    best: Trial
    baseline: Trial
    reason: str
    end_reason: str
    interrupted: bool
    criterion: Criterion
    history: Sequence[Trial]
    space: TuningSpace
    costly_ops: Mapping[str, float]
    final: Measurement | None
    notes: Sequence[str]
    seconds: Mapping[str, float]
    _run: Callable[[object], Array | tuple[Array, ...]]
    _save: Callable[[Path], None]

    def model(self, inputs: object) -> Array | tuple[Array, ...]:
        """Run the tuned model on one batch.

        Args:
            inputs: An array, a tuple in graph order or a dict by input name.

        Returns:
            One array, or a tuple where the model has several outputs.
        """
        return self._run(inputs)

    def save(self, path: str | Path) -> Path:
        """Write the tuned model, with its config, measured loss, host and our version in its metadata.

        Raises:
            WorkspaceError: The file cannot be written.
        """
        self._save(Path(path))
        return Path(path)

    @cached_property
    def trials(self) -> pd.DataFrame:
        """A row per trial, by number."""
        return trial_table(self.history)

    @cached_property
    def pareto(self) -> pd.DataFrame:
        """The trials that no other one beats in both loss and speedup, fastest first."""
        return trial_table(pareto_front(self.history))

    def precision_table(self) -> pd.DataFrame:
        """How many ops of each type compute in which precision, in the best model."""
        return precision_table(self.space, self.best)

    def report(self, path: str | Path) -> Path:
        """Write a report that a browser shows, in one file that needs nothing else.

        Raises:
            WorkspaceError: The file cannot be written.
        """
        from autotune.report import write_report  # noqa: PLC0415  a report reads results, results need no report

        return write_report(self, Path(path))


def trial_table(trials: Sequence[Trial]) -> pd.DataFrame:
    """A row per trial with what was measured, as figures; missing ones are NaN."""
    rows = [_row(trial) for trial in trials]
    columns = list(_row(trials[0])) if trials else []
    return pd.DataFrame(rows, columns=columns).set_index("number") if rows else pd.DataFrame()


def precision_table(space: TuningSpace, trial: Trial) -> pd.DataFrame:
    """How many ops of each type compute in which precision in a trial's config."""
    rows = [{"op type": op.op_type, "precision": str(trial.config[op.name].precision)} for op in space.ops]
    if not rows:
        return pd.DataFrame(columns=["total"])
    table = pd.crosstab(*(pd.Series([row[key] for row in rows], name=key) for key in ("op type", "precision")))
    table.columns.name = None
    table.insert(0, "total", table.sum(axis=1))
    return table.sort_values("total", ascending=False, kind="stable")


def _row(trial: Trial) -> dict[str, Any]:
    measured = trial.measurement or Measurement()
    loss, speed = measured.loss_interval, measured.speedup_interval
    return {
        "number": trial.number,
        "state": str(trial.state),
        "verdict": None if measured.verdict is None else str(measured.verdict),
        "accuracy": measured.accuracy,
        "loss": measured.loss,
        "loss_low": None if loss is None else loss.low,
        "loss_high": None if loss is None else loss.high,
        "latency_ms": measured.latency_ms,
        "speedup": measured.speedup,
        "speedup_low": None if speed is None else speed.low,
        "speedup_high": None if speed is None else speed.high,
        "size_bytes": measured.size_bytes,
        "peak_memory_bytes": measured.peak_memory_bytes,
        "samples": measured.samples,
        "quantized_ops": sum(trial.config.precisions().values()),
        "duration_s": trial.duration_s,
        "note": trial.note,
        "reason": trial.reason,
        "config": json.dumps(trial.config.to_json()),
    }
