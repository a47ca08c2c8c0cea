"""The tables of a report."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from autotune.config import CalibrationAlgorithm, TensorScheme
from autotune.results.outcome import amount_text, trial_name
from autotune.results.report.elements import Cell, Table
from autotune.results.report.ops import OpRow
from autotune.results.report.trials import brief_note, descriptions
from autotune.results.report.words import (
    figure,
    format_loss,
    format_speedup,
    megabytes,
    scientific,
    undecided,
)
from autotune.results.summary import TuningSummary
from autotune.trial import Measurement, Trial


def comparison(result: TuningSummary) -> Table:
    """Figures of fp32, the answer, and what is offered beside it."""
    measured = measured_models(result)
    loss = f"loss (at most {amount_text(result.criterion)})" if result.constraints is None else "loss"
    further = list((result.baseline.measurement or Measurement()).metrics)[1:]
    rows: list[tuple[str, Callable[[Measurement], str]]] = [
        ("accuracy", lambda m: figure(m.accuracy, "{:.4f}")),
        (loss, lambda m: format_loss(m.loss, result.criterion, m.loss_interval)),
        ("latency: median, p90, p99", _latency),
        ("speedup", lambda m: format_speedup(m.speedup, m.speedup_interval) + undecided(m)),
        ("samples per second", lambda m: figure(m.throughput, "{:.4g}")),
        ("size", lambda m: megabytes(m.size_bytes)),
        ("peak memory", lambda m: megabytes(m.peak_memory_bytes)),
        *((name, lambda m, name=name: figure(m.metrics.get(name), "{:.4f}")) for name in further),
        ("samples", lambda m: figure(m.samples, "{:d}")),
    ]
    cells = [[Cell(text=name), *(Cell(text=text(m)) for _, m in measured)] for name, text in rows]
    kept = [row for row in cells if any(cell.text != "-" for cell in row[1:])]
    return Table(columns=("", *(name for name, _ in measured)), rows=kept)


def measured_models(result: TuningSummary) -> list[tuple[str, Measurement]]:
    """The models that are compared, by name."""
    # Latency and speedup of one table come from the same calls, and a model compared with itself has no interval.
    own = dataclasses.replace(result.baseline_measurement, loss_interval=None, speedup_interval=None)
    columns = [(result.fp32_name, own)]
    if not result.best.config.is_fp32:
        name = "tuned" if result.runtime is None else f"tuned, on {result.runtime}"
        columns.append((name, result.best.measurement or Measurement()))
    if result.nearest is not None:
        columns.append((f"nearest: {trial_name(result.nearest)}", result.nearest.measurement or Measurement()))
    if result.final is not None:
        columns.append(("tuned, on data held out", result.final))
    return columns


def _latency(measured: Measurement) -> str:
    if measured.latency_ms is None:
        return "-"
    times = (measured.latency_ms, measured.latency_p90_ms, measured.latency_p99_ms)
    return ", ".join(f"{time:.3f}" for time in times if time is not None) + " ms"


def op_table(rows: Sequence[OpRow]) -> Table:
    """A row per op."""
    columns = ("op", "type", "precision and scheme", "sensitivity", "fp32, ms", "quantized, ms", "conversion, ms",
               "price of fp32, ms", "what the trials say", "why")  # fmt: skip
    return Table(
        columns=columns,
        rows=[
            [
                Cell(text=row.name),
                Cell(text=row.op_type),
                Cell(text=_scheme(row)),
                Cell(text="-" if row.sensitivity is None else scientific(row.sensitivity), key=_key(row.sensitivity)),
                Cell(text=figure(row.fp32_ms, "{:.4f}"), key=_key(row.fp32_ms)),
                Cell(text=figure(row.int8_ms, "{:.4f}"), key=_key(row.int8_ms)),
                Cell(text=figure(row.conversion_ms, "{:.4f}"), key=_key(row.conversion_ms)),
                Cell(text=figure(row.price_ms, "{:+.4f}"), key=_key(row.price_ms)),
                Cell(text=row.trials),
                Cell(text=row.why),
            ]
            for row in rows
        ],
        words=frozenset({0, 1, 2, 8, 9}),
        roomy=frozenset({2, 8, 9}),
        searchable=True,
    )


def _key(value: float | None) -> float:
    return -math.inf if value is None else value


def _scheme(row: OpRow) -> str:
    """A choice in short: ``int8, u8 per tensor, s8 per channel, kl``."""
    parts: list[TensorScheme | CalibrationAlgorithm | None] = [
        row.choice.activation,
        row.choice.weight,
        row.choice.calibration,
    ]
    words = [
        f"{part.dtype} {part.granularity}".replace("_", " ") if isinstance(part, TensorScheme) else str(part)
        for part in parts
        if part is not None
    ]
    return ", ".join([str(row.choice.precision), *words])


def trial_rows(result: TuningSummary) -> Table:
    """A row per trial."""
    columns = ("trial", "what", "state", "accuracy", "loss", "speedup", "size", "seconds", "why")
    said = descriptions(result.history)
    rows = [_trial(result, trial, said[trial.number]) for trial in result.history]
    marked = frozenset(i for i, trial in enumerate(result.history) if trial.number == result.best.number)
    sentences = frozenset({1, 8})
    return Table(columns=columns, rows=rows, words=sentences, roomy=sentences, marked=marked, searchable=True)


def _trial(result: TuningSummary, trial: Trial, what: str) -> list[Cell]:
    measured = trial.measurement or Measurement()
    note = brief_note(trial)
    if result.baseline_runtime is not None:
        note = f"{trial.config.runtime or result.baseline_runtime}: {note}"
    return [
        Cell(text=str(trial.number), key=trial.number),
        Cell(text=what),
        Cell(text=str(measured.verdict or trial.state)),
        Cell(text=figure(measured.accuracy, "{:.4f}"), key=_key(measured.accuracy)),
        Cell(text=format_loss(measured.loss, result.criterion, measured.loss_interval), key=_key(measured.loss)),
        Cell(
            text=format_speedup(measured.speedup, measured.speedup_interval) + undecided(measured),
            key=_key(measured.speedup),
        ),
        Cell(text=megabytes(measured.size_bytes), key=_key(measured.size_bytes)),
        Cell(text=figure(trial.duration_s, "{:.1f}"), key=_key(trial.duration_s)),
        Cell(
            text=f"{note}; {trial.state}: {trial.reason}" if trial.reason and note else trial.reason or note,
            title=trial.note if trial.note not in note else "",
        ),
    ]


def precision_counts(result: TuningSummary) -> Table:
    """How many ops of each type compute in which precision."""
    frame = result.precision_table().reset_index()
    rows = [[Cell(text=str(value)) for value in row] for row in frame.itertuples(index=False)]
    return Table(columns=[str(name) for name in frame.columns], rows=rows)


def time_spent(result: TuningSummary) -> Table | None:
    """Seconds by activity; None where nobody counted them."""
    spent = sorted(result.seconds.items(), key=lambda each: (each[0] != "total", -each[1]))
    rows = [[Cell(text=name), Cell(text=f"{value:.1f}")] for name, value in spent if value >= 0.05]
    return Table(columns=("activity", "seconds"), rows=rows) if rows else None
