"""The tables of a result, for users who filter and plot."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autotune.config import Precision
from autotune.trial import Measurement, Trial

if TYPE_CHECKING:
    import pandas as pd


def trial_table(trials: Sequence[Trial], baseline_runtime: str | None = None) -> pd.DataFrame:
    """A row per trial with what was measured, as figures; missing ones are NaN.

    Args:
        trials: The trials.
        baseline_runtime: In a run over several runtimes, that of the baseline; each row then names its runtime.
    """
    import pandas as pd  # noqa: PLC0415  a quarter of a second, which workers and `import autotune` do without

    rows = [_row(trial) for trial in trials]
    if baseline_runtime is not None:
        rows = [{**row, "runtime": t.config.runtime or baseline_runtime} for row, t in zip(rows, trials, strict=True)]
    return pd.DataFrame(rows, columns=list(rows[0])).set_index("number") if rows else pd.DataFrame()


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
        "baseline_ms": measured.fp32_latency_ms,
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
