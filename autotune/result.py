"""What a run returns."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.adapter import Array
from autotune.config import Precision
from autotune.criterion import Criterion, Verdict
from autotune.errors import WorkspaceError
from autotune.history import SETUP, SUMMARY, read_study
from autotune.selection import conclude, pareto_front
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class TuningSummary:
    """What a run found and how; what a report shows, and what a workspace keeps.

    Attributes:
        verdict: Whether ``best`` keeps the accuracy target.
        best: The answer; where the verdict is not ``met``, the candidate that came nearest.
        baseline: The fp32 model, measured in the same run.
        reason: Why this one is the answer.
        end_reason: Why the search ended.
        interrupted: Whether the user ended it.
        criterion: The target.
        history: Every trial by number, the baseline first.
        op_types: The type of every op that could be tuned, by name.
        costly_ops: The ops whose quantization costs most, worst first, with their noise-to-signal ratio at the
            model's outputs; empty where the target is met.
        saturation_risk: The ops of ``best`` whose products can saturate on x86 CPUs without VNNI, where its
            accuracy may be another one; see ``Tuner.portable``.
        final: ``best`` on data that the search never saw, where some was held out.
        notes: What a user should know of the model or the run.
        seconds: Wall time by activity, with ``total``.
        host: The machine that the figures are of.
    """

    verdict: Verdict
    best: Trial
    baseline: Trial
    reason: str
    end_reason: str
    interrupted: bool = False
    criterion: Criterion
    history: Sequence[Trial]
    op_types: Mapping[str, str]
    costly_ops: Mapping[str, float] = field(default_factory=dict)
    saturation_risk: Sequence[str] = ()
    final: Measurement | None = None
    notes: Sequence[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    host: str = ""

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
        return precision_table(self.op_types, self.best)

    def report(self, path: str | Path) -> Path:
        """Write a report that a browser shows, in one file that needs nothing else.

        Raises:
            WorkspaceError: The file cannot be written.
        """
        from autotune.report import write_report  # noqa: PLC0415  a report reads results, results need no report

        return write_report(self, Path(path))

    def to_json(self) -> dict[str, Any]:
        """All but the trials, which are in the history."""
        return {
            "verdict": str(self.verdict),
            "best": self.best.number,
            "reason": self.reason,
            "end_reason": self.end_reason,
            "interrupted": self.interrupted,
            "criterion": dataclasses.asdict(self.criterion),
            "op_types": dict(self.op_types),
            "costly_ops": dict(self.costly_ops),
            "saturation_risk": list(self.saturation_risk),
            "final": None if self.final is None else self.final.to_json(),
            "notes": list(self.notes),
            "seconds": dict(self.seconds),
            "host": self.host,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], history: Sequence[Trial]) -> TuningSummary:
        """Read what :meth:`to_json` wrote.

        Args:
            data: The JSON value.
            history: Every trial by number, the baseline first.
        """
        values = {
            **data,
            "verdict": Verdict(data["verdict"]),
            "best": next(trial for trial in history if trial.number == data["best"]),
            "criterion": Criterion(**data["criterion"]),
            "final": None if data["final"] is None else Measurement.from_json(data["final"]),
        }
        return cls(baseline=history[0], history=history, **values)


@dataclass(frozen=True, kw_only=True)
class TuningResult(TuningSummary):
    """What a run returns: the summary, and the tuned model itself."""

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


def read_summary(storage: Path | str) -> TuningSummary:
    """The summary of a run from its workspace, also of one that was killed or still runs.

    Args:
        storage: The workspace folder, or the Optuna storage URL.

    Raises:
        WorkspaceError: There is no history, or none with a measured baseline.
    """
    trials, about = read_study(storage)
    if not trials or trials[0].measurement is None:
        raise WorkspaceError(f"{storage} holds no measured baseline yet, so that there is nothing to report")
    stored = about.get(SUMMARY)
    if stored is not None and stored["trials"] == len(trials):
        return TuningSummary.from_json({k: v for k, v in stored.items() if k != "trials"}, trials)
    setup = about[SETUP]
    conclusion = conclude(trials, Objective(setup["objective"]))
    return TuningSummary(
        verdict=conclusion.verdict,
        best=conclusion.best,
        baseline=trials[0],
        reason=conclusion.reason,
        end_reason="it has not: the run was killed, or is still running",
        criterion=Criterion(**setup["criterion"]),
        history=trials,
        op_types=setup["op_types"],
    )


def trial_table(trials: Sequence[Trial]) -> pd.DataFrame:
    """A row per trial with what was measured, as figures; missing ones are NaN."""
    import pandas as pd  # noqa: PLC0415  a quarter of a second, which workers and `import autotune` do without

    rows = [_row(trial) for trial in trials]
    columns = list(_row(trials[0])) if trials else []
    return pd.DataFrame(rows, columns=columns).set_index("number") if rows else pd.DataFrame()


def precision_table(op_types: Mapping[str, str], trial: Trial) -> pd.DataFrame:
    """How many ops of each type compute in which precision in a trial's config, the most frequent type first."""
    import pandas as pd  # noqa: PLC0415  as above

    counts: dict[str, Counter[str]] = {}
    for op, kind in op_types.items():
        counts.setdefault(kind, Counter())[str(trial.config[op].precision)] += 1
    used = [str(precision) for precision in Precision if any(count[precision] for count in counts.values())]
    rows = [
        {"op type": kind, "total": count.total(), **{name: count[name] for name in used}}
        for kind, count in sorted(counts.items(), key=lambda item: -item[1].total())
    ]
    return pd.DataFrame(rows, columns=["op type", "total", *used]).set_index("op type")


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
        "latency_p90_ms": measured.latency_p90_ms,
        "latency_p99_ms": measured.latency_p99_ms,
        "latency_decided": measured.latency_decided,
        "speedup": measured.speedup,
        "speedup_low": None if speed is None else speed.low,
        "speedup_high": None if speed is None else speed.high,
        "size_bytes": measured.size_bytes,
        "peak_memory_bytes": measured.peak_memory_bytes,
        "samples": measured.samples,
        "samples_total": measured.samples_total,
        "quantized_ops": sum(trial.config.precisions().values()),
        "duration_s": trial.duration_s,
        "note": trial.note,
        "reason": trial.reason,
        "config": json.dumps(trial.config.to_json()),
    }
