"""Evidence that a run keeps beside its trials so that reports explain them: graph, worst tensors, facts of runs."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from autotune.adapter import Adapter, CostModel, NamesTensors, Statistics, host_of
from autotune.algorithms import activation_range, noise_to_signal
from autotune.calibration import CalibrationStatistics
from autotune.config import Precision, QuantizationConfig
from autotune.source import Convertible
from autotune.tuning.history import History
from autotune.tuning.identity import EVALUATION_DATA
from autotune.tuning.side import SideHistory, key_of

if TYPE_CHECKING:
    from autotune.tuning.tuner import Tuner

RUNS = "runs"
"""Key of :meth:`History.keep`: of each run in this workspace, what ran when on what, the first one first."""
RETURNED = "returned"
"""Key of :meth:`History.keep`: how much longer a call of the shown config takes with an op in fp32, by op."""
_GRAPH, _TENSORS = "graph", "tensors"
_WORST = 9
"""Tensors of which a histogram is kept."""
_BARS = 80


@dataclass(frozen=True, kw_only=True)
class TensorEvidence:
    """The histogram of one quantized tensor, and the range that was chosen for it.

    Attributes:
        name: Name of the tensor.
        ops: The int8 ops that read it.
        scheme: Its scheme and the algorithm that chose its range, in words.
        low: Lower end of the chosen range.
        high: Upper end of the chosen range; what lies outside saturates.
        noise: Expected squared error of its integers as a share of its variance.
        counts: Number of values in each bar.
        start: Lower edge of the first bar.
        stop: Upper edge of the last bar.
    """

    name: str
    ops: Sequence[str]
    scheme: str
    low: float
    high: float
    noise: float
    counts: Sequence[int]
    start: float
    stop: float


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Figures beside the trials, as far as a run measured and kept them. Earlier versions kept fewer.

    Attributes:
        sensitivity: By op: noise-to-signal ratio at the outputs where this op alone is quantized.
        alone: The ops whose sensitivity is a figure of their own and no share of a group's; None where all are.
        seconds: By op, by precision: seconds of one call.
        crossing: By op: seconds of converting its output between fp32 and int8 once.
        readers: By op: the ops that read its output; None where the run did not keep them.
        returned: By op that was timed in both precisions within the shown config: both ends of how much longer a call
            takes with it in fp32, as a share of a call of that config.
        returned_in: Fingerprint of that config.
        tensors: The quantized tensors with most noise, worst first.
        runs: Facts about each run in the workspace: model, data, options, host and time.
        evaluation_data: Hash of the labelled data; empty where the user's function alone knows them.
    """

    sensitivity: Mapping[str, float] = field(default_factory=dict)
    alone: frozenset[str] | None = None
    seconds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    crossing: Mapping[str, float] = field(default_factory=dict)
    readers: Mapping[str, Sequence[str]] | None = None
    returned: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    returned_in: str = ""
    tensors: Sequence[TensorEvidence] = ()
    runs: Sequence[Mapping[str, Any]] = ()
    evaluation_data: str = ""

    @classmethod
    def of(cls, kept: Callable[[str], Any], runtime: str | None) -> Self:
        """Read the evidence of one runtime from a history.

        Args:
            kept: The value that the history keeps under a name, or None.
            runtime: Name of the runtime; None in a run of one framework.
        """

        def own(name: str) -> Any:
            return kept(key_of(runtime) + name)

        seconds = {
            op: {
                name: float(value) if isinstance(value, (int, float)) else float(value[0]) for name, value in by.items()
            }
            for op, by in (own("op_latency") or {}).items()
        }
        alone, returned = own("sensitivity measured"), own(RETURNED) or {}
        return cls(
            sensitivity=own("sensitivity") or {},
            alone=None if alone is None else frozenset(alone),
            seconds=seconds,
            crossing=own("crossing_latency") or {},
            returned={op: (ends[0], ends[1]) for op, ends in returned.get("shares", {}).items() if ends},
            returned_in=returned.get("config", ""),
            readers=(own(_GRAPH) or {}).get("readers"),
            tensors=tuple(TensorEvidence(**each) for each in own(_TENSORS) or ()),
            runs=tuple(kept(RUNS) or ()),
            evaluation_data=kept(EVALUATION_DATA) or "",
        )


def keep_graph(history: SideHistory, adapter: Adapter[Any], model: Any) -> None:
    """Keep which ops read each other and which tensors they read, where the adapter can tell."""
    if history.kept(_GRAPH) is not None:
        return
    graph: dict[str, Any] = {}
    if isinstance(adapter, CostModel):
        graph["readers"] = {op: list(readers) for op, readers in adapter.neighbours(model).items()}
    if isinstance(adapter, NamesTensors):
        graph["reads"] = {op: list(names) for op, names in adapter.tensors_read(model).items()}
    history.keep(_GRAPH, graph)


def keep_tensors(history: SideHistory, statistics: Statistics, config: QuantizationConfig, ops: Sequence[str]) -> None:
    """Keep the histograms of the tensors that a config quantizes worst, with the ranges that it chooses.

    Args:
        history: Takes them.
        statistics: Statistics of the calibration; those of a type of the adapter's own have no histograms.
        config: The config that is shown.
        ops: All ops in graph order: the first int8 op that reads a tensor decides on its scheme.
    """
    reads = (history.kept(_GRAPH) or {}).get("reads", {})
    if not isinstance(statistics, CalibrationStatistics):
        return
    readers: dict[str, list[str]] = {}
    for op in ops:
        if config[op].precision is Precision.INT8:
            for name in dict.fromkeys(reads.get(op, ())):
                readers.setdefault(name, []).append(op)
    found = [_tensor(name, of, statistics, config) for name, of in readers.items() if name in statistics.tensors]
    worst = sorted((each for each in found if each is not None), key=lambda each: -each["noise"])[:_WORST]
    history.keep(_TENSORS, worst)


def _tensor(
    name: str, ops: Sequence[str], statistics: CalibrationStatistics, config: QuantizationConfig
) -> dict[str, Any] | None:
    """One tensor as :class:`TensorEvidence` reads it; None where its op has no range from calibration."""
    choice, found = config[ops[0]], statistics.tensors[name]
    if choice.activation is None or choice.calibration is None:
        return None
    low, high = activation_range(found, choice.calibration, choice.activation)
    counts, start, stop = _bars(found.histogram.counts, found.histogram.low, found.histogram.width)
    return {
        "name": name,
        "ops": list(ops),
        "scheme": f"{choice.activation}, {choice.calibration}",
        "low": low,
        "high": high,
        "noise": noise_to_signal(found, low, high),
        "counts": counts,
        "start": start,
        "stop": stop,
    }


def _bars(counts: Any, low: float, width: float) -> tuple[list[int], float, float]:
    """The occupied part of a histogram in few bars, and its edges."""
    occupied = np.flatnonzero(counts)
    if not occupied.size:
        return [0], low, low + width
    first, last = int(occupied[0]), int(occupied[-1]) + 1
    per_bar = -(-(last - first) // _BARS)
    bars = -(-(last - first) // per_bar)
    padded = np.zeros(bars * per_bar, np.int64)
    padded[: last - first] = counts[first:last]
    start = low + width * first
    return padded.reshape(bars, per_bar).sum(1).tolist(), start, start + width * per_bar * bars


def keep_run(
    history: History,
    tuner: Tuner,
    adapter: Adapter[Any],
    *,
    source: object,
    model: str,
    calibration_data: str,
    evaluation: str,
) -> None:
    """Keep what runs now on what, beside the earlier runs in the same workspace.

    Args:
        history: Takes it.
        tuner: The options.
        adapter: The framework's adapter.
        source: The model as the user gave it.
        model: Fingerprint of the model.
        calibration_data: Hash of what the data loader yields; empty where it was not taken.
        evaluation: Identity of the evaluation.
    """
    host = host_of(adapter)
    run = {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": tuner.command or _call(tuner),
        "model": _name(source),
        "model_fingerprint": model,
        "calibration_data": calibration_data,
        "evaluation": evaluation,
        "framework": adapter.name,
        "strategy": tuner.strategy if isinstance(tuner.strategy, str) else type(tuner.strategy).__name__,
        "seed": tuner.seed,
        "threads": tuner.threads,
        "batch_size": tuner.batch_size,
        "sampling_size": tuner.sampling_size,
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "host": str(host),
        "governor": host.governor,
    }
    history.keep(RUNS, [*(history.kept(RUNS) or ()), run])


def _name(source: object) -> str:
    if isinstance(source, Convertible):
        source = source.source
    return Path(source).name if isinstance(source, (str, Path)) else type(source).__name__


def _call(tuner: Tuner) -> str:
    """The call of :class:`autotune.Tuner` with the options of this one that can be written down."""
    given = []
    for name in ("framework", "runtimes", "strategy", "objective", "max_trials", "timeout_s", "seed", "threads",
                 "batch_size", "sampling_size", "isolation", "portable", "workspace"):  # fmt: skip
        value = getattr(tuner, name)
        value = str(value) if isinstance(value, (Path, str)) else value
        if isinstance(value, (str, int, float, tuple)) and value != getattr(type(tuner), name):
            given.append(f"{name}={value!r}")
    criterion = {"relative": tuner.criterion.relative, "absolute": tuner.criterion.absolute}
    target = ", ".join(f"{name}={value!r}" for name, value in criterion.items() if value is not None)
    return (
        f"autotune.Tuner({', '.join([f'criterion=autotune.Criterion({target})', *given])}).tune(model, dataloader, …)"
    )
