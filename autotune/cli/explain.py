"""``autotune explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from autotune.errors import InputError
from autotune.results.outcome import trial_name
from autotune.results.report.ops import OpRow, op_rows
from autotune.results.report.words import milliseconds, scientific, signed_ms
from autotune.results.summary import TuningSummary, read_summary
from autotune.suggestion import nearest


def explain(
    workspace: Annotated[Path, typer.Argument(help="The workspace of a run.")],
    op: Annotated[str, typer.Argument(help="Name of an op, or a part of it that no other op has.")],
    storage: Annotated[
        str | None, typer.Option(help="The Optuna storage URL, where the history is not in the workspace.")
    ] = None,
) -> None:
    """Tell why an op is quantized or not, and what that costs in accuracy and in time."""
    summary = read_summary(storage or workspace)
    rows = {row.name: row for row in op_rows(summary)}
    row = rows[_named(op, tuple(rows))]
    console = Console()
    for line in lines_of(row, summary):
        console.print(Text(line), soft_wrap=True, highlight=False)


def lines_of(row: OpRow, summary: TuningSummary) -> list[str]:
    """All that is known of an op, a line each."""
    where = "the answer" if summary.shown.number == summary.best.number else trial_name(summary.shown)
    lines = [f"{row.name} ({row.op_type})", f"  in {where}: {row.choice}", f"  why: {row.why}"]
    if row.sensitivity is not None:
        guess = ", its share of its group's" if row.guessed else ""
        share = "" if row.share is None else f", {row.share:.0%} of all ops'"
        lines.append(f"  noise to signal at the outputs, quantized alone: {scientific(row.sensitivity)}{guess}{share}")
    if row.fp32_ms is not None:
        lines.append(f"  one call: {milliseconds(row.fp32_ms)} in fp32, {milliseconds(row.int8_ms)} quantized")
    if row.conversion_ms is not None:
        lines.append(f"  conversion of its output between fp32 and int8: {milliseconds(row.conversion_ms)}")
    if row.price_ms is not None:
        paid = "" if row.quantized else ", which is paid already"
        lines.append(f"  price of fp32 in one call: {signed_ms(row.price_ms)}{paid}")
    if row.trials:
        lines.append(f"  trials: {row.trials}")
    for tensor in summary.evidence.tensors:
        if row.name in tensor.ops:
            lines.append(
                f"  reads {tensor.name} as {tensor.scheme}: {tensor.low:.4g} to {tensor.high:.4g}, "
                f"error {tensor.noise:.2%} of its variance"
            )
    return lines


def _named(op: str, names: tuple[str, ...]) -> str:
    """The op that is meant.

    Raises:
        InputError: None is, or several are.
    """
    if op in names:
        return op
    found = [name for name in names if op in name]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
        raise InputError(f"OP must name one op, but {op!r} is a part of {listed}")
    close = nearest(op, names)
    hint = f" Did you mean {close!r}?" if close else ""
    raise InputError(
        f"OP must be an op that can be quantized, but there is no {op!r}.{hint} The run has {len(names)}, such as "
        f"{', '.join(names[:3])}; `autotune inspect MODEL --ops` lists them"
    )
