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
from autotune.result import TuningSummary
from autotune.trial import Measurement

_VERDICTS = {
    Verdict.MET: ("Target met", "bold green"),
    Verdict.MISSED: ("Target missed", "bold red"),
    Verdict.UNDECIDED: ("Undecided", "bold yellow"),
}


def print_outcome(console: Console, summary: TuningSummary) -> None:
    """Print what a run came to: both tables, the verdict, and what a user should know besides."""
    console.print()
    console.print(tune_results(summary))
    console.print(mixed_precision(summary))
    for line in verdict_lines(summary):
        console.print(line, soft_wrap=True, highlight=False)


def tune_results(summary: TuningSummary) -> Table:
    """Accuracy, latency and size of the baseline and of the best trial."""
    baseline, best = summary.baseline.measurement, summary.best.measurement
    assert baseline is not None
    best = best or Measurement()
    table = Table(title="Tune results", box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column("Baseline (fp32)", justify="right")
    heading = "fp32" if summary.best.config.is_fp32 else f"trial {summary.best.number}"
    table.add_column(f"Best ({heading})", justify="right", style="bold")
    table.add_row("Accuracy", number_text(baseline.accuracy), number_text(best.accuracy))
    table.add_row("Loss", "", loss_text(best.loss, summary.criterion, best.loss_interval))
    for name in best.metrics:
        if len(best.metrics) > 1:
            table.add_row(f"  {name}", number_text(baseline.metrics.get(name)), number_text(best.metrics[name]))
    table.add_row("Latency", latency_text(baseline.latency_ms), latency_text(best.latency_ms))
    table.add_row("Speedup", "", speedup_text(best.speedup, best.speedup_interval))
    table.add_row("Size", bytes_text(baseline.size_bytes), bytes_text(best.size_bytes))
    if best.peak_memory_bytes is not None:
        table.add_row("Peak memory", bytes_text(baseline.peak_memory_bytes), bytes_text(best.peak_memory_bytes))
    if summary.final is not None:
        # The best of many is picked with luck; this figure is not.
        final = summary.final
        table.add_row("Held-out accuracy", "", number_text(final.accuracy))
        table.add_row("Held-out loss", "", loss_text(final.loss, summary.criterion, final.loss_interval))
    return table


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
    """The verdict, its reason, the ops that cost most where it is not met, and where the time went."""
    word, style = _VERDICTS[summary.verdict]
    best = summary.best
    answer = f" ({target_text(summary.criterion)}). "
    if best.config.is_fp32:
        answer += "The answer is the fp32 model itself"
    else:
        answer += f"{speedup_text(best.speedup)} as fast as fp32 at a loss of {loss_text(best.loss, summary.criterion)}"
    lines = [Text(word, style=style).append(answer, style="default"), Text(f"Why this one: {summary.reason}.")]
    if summary.costly_ops:
        costly = ", ".join(f"{name} ({ratio:.2g})" for name, ratio in summary.costly_ops.items())
        lines.append(Text(f"Ops that cost most, with their noise-to-signal ratio at the outputs: {costly}."))
    end = f"The search ended: {summary.end_reason}."
    if "total" in summary.seconds:
        parts = sorted(((k, v) for k, v in summary.seconds.items() if k != "total"), key=lambda item: -item[1])
        spent = ", ".join(f"{name} {seconds_text(seconds)}" for name, seconds in parts if seconds >= 0.1)
        end += f" {len(summary.history) - 1} trials in {seconds_text(summary.seconds['total'])}: {spent}."
    lines.append(Text(end, style="dim"))
    return lines
