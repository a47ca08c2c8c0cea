"""``autotune diff``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autotune.cli.figures import bytes_text, latency_text, loss_text, number_text, speedup_text
from autotune.results.stored_config import StoredConfig, read_config


def diff(
    first: Annotated[
        str, typer.Argument(metavar="A", help="A workspace, WORKSPACE:TRIAL, a tuned model, or a config as JSON.")
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
) -> None:
    """Show in which ops and recipes two configs differ, and what was measured of each."""
    sides = (read_config(first), read_config(second))
    console = Console()
    if any(side.trial is not None for side in sides):
        console.print(_figures(sides))
    hosts = [side.summary.host for side in sides if side.summary is not None and side.summary.host]
    if len(set(hosts)) > 1:
        line = f"The hosts or versions differ, so that times cannot be compared: {' and '.join(hosts)}."
        console.print(Text(line), soft_wrap=True, highlight=False)
    if _share_no_op(sides):
        line = "No op is in both: the ops of these models have other names, so that every one differs."
        console.print(Text(line), soft_wrap=True, highlight=False)
    changes = sides[0].config.diff(sides[1].config)
    console.print(Text(changes or "The configs are equal."), soft_wrap=True, highlight=False)


def _share_no_op(sides: tuple[StoredConfig, StoredConfig]) -> bool:
    """Whether both models are known by their ops, and have none of one name."""
    ops = [set(side.summary.op_types) if side.summary else set(side.config.ops) for side in sides]
    return all(ops) and not ops[0] & ops[1]


def _figures(sides: tuple[StoredConfig, StoredConfig]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for side in sides:
        named = "" if side.trial is None or ":" in side.name else f" (trial {side.trial.number})"
        table.add_column(Text(f"{side.name}{named}"), justify="right", overflow="fold")
    rows: dict[str, list[str]] = {"Accuracy": [], "Loss": [], "Latency": [], "Speedup": [], "Size": []}
    for side in sides:
        measured = None if side.trial is None else side.trial.measurement
        rows["Accuracy"].append(number_text(measured.accuracy if measured else None))
        rows["Loss"].append(
            loss_text(measured.loss, side.summary.criterion, measured.loss_interval)
            if measured and side.summary
            else "-"
        )
        rows["Latency"].append(latency_text(measured.latency_ms if measured else None))
        rows["Speedup"].append(speedup_text(measured.speedup, measured.speedup_interval) if measured else "-")
        rows["Size"].append(bytes_text(measured.size_bytes if measured else None))
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table
