"""Facts about the run: model, data, strategy and host, as the report tells them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autotune.results.outcome import target_text
from autotune.results.summary import TuningSummary

_LABELS = {
    "model": "model",
    "model_fingerprint": "fingerprint of the model",
    "calibration_data": "hash of the calibration data",
    "evaluation": "evaluation",
    "framework": "framework",
    "strategy": "strategy",
    "seed": "seed",
    "threads": "threads",
    "batch_size": "batch size",
    "sampling_size": "calibration samples at the most",
}


def facts(result: TuningSummary) -> tuple[list[tuple[str, str]], str]:
    """Facts about the run, each with its name, and the command that repeats it; empty for earlier workspaces."""
    runs = result.evidence.runs
    run: Mapping[str, Any] = runs[-1] if runs else {}
    found = [(label, str(run[name])) for name, label in _LABELS.items() if run.get(name) not in (None, "")]
    if result.evidence.evaluation_data:
        found.append(("hash of the evaluation data", result.evidence.evaluation_data))
    if runs:
        times = [str(each["started"]).replace("T", " ").replace("+00:00", " UTC") for each in runs]
        found.insert(0, ("started", times[0]))
        if len(times) > 1:
            found.insert(1, ("continued", ", ".join(times[1:])))
    target = target_text(result.criterion, result.constraints)
    found += [("target", target), ("objective", str(result.objective))]
    host = result.host or str(run.get("host", ""))
    if host:
        found.append(("host", host))
    if run.get("governor"):
        found.append(("frequency governor", str(run["governor"])))
    if run.get("load"):
        found.append(("load over 1, 5 and 15 minutes at the start", ", ".join(str(each) for each in run["load"])))
    return found, str(run.get("command", ""))
