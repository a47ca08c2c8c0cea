"""The tables that a run ends with."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autotune.cli.figures import (
    bytes_text,
    latency_text,
    loss_text,
    number_text,
    seconds_text,
    speedup_text,
    target_text,
)
from autotune.criterion import Verdict
from autotune.results.outcome import (
    answer_text,
    holdout_text,
    leaving_text,
    nearest_text,
    proof_text,
    started_text,
    trial_name,
    verdict_text,
)
from autotune.results.summary import TuningSummary
from autotune.trial import Measurement, Trial


def print_outcome(console: Console, summary: TuningSummary) -> None:
    """Print what a run came to: both tables, the verdict, and what a user should know besides."""
    console.print()
    console.print(tune_results(summary))
    console.print(mixed_precision(summary))
    for line in verdict_lines(summary):
        console.print(line, soft_wrap=True, highlight=False)


def tune_results(summary: TuningSummary) -> Table:
    """Accuracy, latency and size of the baseline, of the answer, and of the candidate that is offered beside it."""
    baseline = summary.baseline.measurement
    assert baseline is not None
    table = Table(title="Tune results", box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column(f"Baseline ({summary.fp32_name})", justify="right")
    columns = [summary.best.measurement or Measurement()]
    table.add_column(f"Best ({_name(summary.best)})", justify="right", style="bold")
    if summary.nearest is not None:
        columns.append(summary.nearest.measurement or Measurement())
        table.add_column(f"Nearest ({_name(summary.nearest)})", justify="right")
    fp32_ms = summary.baseline_latency_ms
    latencies = [fp32_ms if summary.best.config.is_fp32 else columns[0].latency_ms]
    latencies += [each.latency_ms for each in columns[1:]]
    criterion = summary.criterion
    table.add_row("Accuracy", number_text(baseline.accuracy), *(number_text(each.accuracy) for each in columns))
    table.add_row("Loss", "", *(loss_text(each.loss, criterion, each.loss_interval) for each in columns))
    for name in columns[0].metrics:
        if len(columns[0].metrics) > 1:
            figures = (number_text(each.metrics.get(name)) for each in columns)
            table.add_row(f"  {name}", number_text(baseline.metrics.get(name)), *figures)
    table.add_row("Latency", latency_text(fp32_ms), *(latency_text(latency) for latency in latencies))
    table.add_row("Speedup", "", *(_speedup(each) for each in columns))
    if baseline.throughput is not None:
        rates = (number_text(each.throughput, 1) for each in columns)
        table.add_row("Samples per second", number_text(baseline.throughput, 1), *rates)
    table.add_row("Size", bytes_text(baseline.size_bytes), *(bytes_text(each.size_bytes) for each in columns))
    if baseline.peak_memory_bytes is not None:
        peaks = (bytes_text(each.peak_memory_bytes) for each in columns)
        table.add_row("Peak memory", bytes_text(baseline.peak_memory_bytes), *peaks)
    if summary.final is not None:
        # The best of many is picked with luck; this figure is not.
        final = summary.final
        table.add_row("Held-out accuracy", "", number_text(final.accuracy))
        table.add_row("Held-out loss", "", loss_text(final.loss, criterion, final.loss_interval))
    return table


def _name(trial: Trial) -> str:
    return "fp32" if trial.config.is_fp32 else trial_name(trial)


def _speedup(measured: Measurement) -> str:
    """A speedup with its interval; marked where the machine was too busy to tell."""
    text = speedup_text(measured.speedup, measured.speedup_interval)
    return f"{text}, undecided" if measured.latency_decided is False else text


def mixed_precision(summary: TuningSummary) -> Table:
    """How many ops of each type compute in which precision."""
    frame = summary.precision_table()
    table = Table(title="Mixed precision statistics", box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    table.add_column("Op type")
    # Both columns that users look for are there, also where one of them counts nothing.
    columns = [*dict.fromkeys(["int8", "fp32", *frame.columns.drop("total")]), "total"]
    frame = frame.reindex(columns=columns, fill_value=0)
    for name in columns:
        table.add_column("Total" if name == "total" else name.upper(), justify="right")
    for op_type, row in frame.iterrows():
        table.add_row(str(op_type), *(str(int(row[name])) for name in columns))
    table.add_section()
    table.add_row("Total", *(str(int(frame[name].sum())) for name in columns), style="bold")
    return table


def verdict_lines(summary: TuningSummary) -> list[Text]:
    """The verdicts, their reason, what would prove them, the ops that cost most, and where the time went."""
    style = "bold red" if summary.verdict is Verdict.MISSED else "bold yellow"
    if summary.success:
        style = "bold green"
    answer = f" ({target_text(summary.criterion, summary.constraints)}): {answer_text(summary)}"
    if not summary.best.config.is_fp32:
        answer += f", at a loss of {loss_text(summary.best.loss, summary.criterion)}"
    lines = [
        Text(verdict_text(summary), style=style).append(f"{answer}.", style="default"),
        Text(f"Why this one: {summary.reason}."),
    ]
    texts = (
        started_text(summary),
        leaving_text(summary),
        proof_text(summary),
        nearest_text(summary),
        holdout_text(summary),
    )
    lines += [Text(f"{text}.") for text in texts if text]
    if summary.costly_ops:
        costly = ", ".join(f"{name} ({ratio:.2g})" for name, ratio in summary.costly_ops.items())
        lines.append(Text(f"Ops that cost most, with their noise-to-signal ratio at the outputs: {costly}."))
    end = f"The search ended: {summary.end_reason}."
    if "total" in summary.seconds:
        parts = sorted(((k, v) for k, v in summary.seconds.items() if k != "total"), key=lambda item: -item[1])
        spent = ", ".join(f"{name} {seconds_text(seconds)}" for name, seconds in parts if seconds >= 0.1)
        tried = len(summary.history) - 1
        end += f" {tried} {'trial' if tried == 1 else 'trials'} in {seconds_text(summary.seconds['total'])}: {spent}."
    if any(trial.measurement and trial.measurement.latency_decided is False for trial in summary.history):
        end += " A speedup with a question mark is undecided: the machine was too busy to tell."
    lines.append(Text(end, style="dim"))
    return lines
