"""What a run returns."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from autotune.adapter import Array
from autotune.config import Precision
from autotune.criterion import Criterion, Verdict
from autotune.errors import WorkspaceError
from autotune.history import SETUP, SUMMARY, read_study
from autotune.selection import conclude, pareto_front
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial


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
        final: ``best`` on data that the search never saw, where some was held out.
        notes: What a user should know of the model or the run.
        seconds: Wall time by activity, with ``total``.
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
    final: Measurement | None = None
    notes: Sequence[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def trials(self) -> pd.DataFrame:
        """A row per trial, by number."""
        return trial_table(self.history)

    @cached_property
    def pareto(self) -> pd.DataFrame:
        """The trials that no other one beats in both loss and speedup, fastest first."""
        return trial_table(pareto_front(self.history))

    def precision_table(op_types: Mapping[str, str], trial: Trial) -> pd.DataFrame:
    """How many ops of each type compute in which precision in a trial's config, the most frequent type first."""
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
