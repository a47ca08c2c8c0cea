"""``autotune diff``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autotune.cli.figures import bytes_text, latency_text, loss_text, number_text, speedup_text
from autotune.config import QuantizationConfig
from autotune.errors import InputError
from autotune.results.result import TuningSummary, read_summary
from autotune.trial import Trial
from autotune.tuning.history import DATABASE


@dataclass(frozen=True, kw_only=True)
class _Side:
    """One of the two that are compared.

    Attributes:
        name: Its name as the user gave it.
        config: Its config.
        trial: The trial that measured it; None for a config from a file.
        summary: The run of that trial.
    """

    name: str
    config: QuantizationConfig
    trial: Trial | None = None
    summary: TuningSummary | None = None


def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A workspace, WORKSPACE:TRIAL, or a config as JSON.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
) -> None:
    """Show in which ops and recipes two configs differ, and what was measured of each."""
    sides = (_side(first), _side(second))
    console = Console()
    if any(side.trial is not None for side in sides):
        console.print(_figures(sides))
    hosts = [side.summary.host for side in sides if side.summary is not None and side.summary.host]
    if len(set(hosts)) > 1:
        line = f"The hosts or versions differ, so that times cannot be compared: {' and '.join(hosts)}."
        console.print(Text(line), soft_wrap=True, highlight=False)
    changes = sides[0].config.diff(sides[1].config)
    console.print(Text(changes or "The configs are equal."), soft_wrap=True, highlight=False)


def _side(given: str) -> _Side:
    """Read what the user names.

    Raises:
        InputError: It is neither a workspace, nor a trial of one, nor a file with a config.
    """
    path = Path(given)
    if path.is_dir():
        summary = read_summary(path)
        return _Side(name=given, config=summary.best.config, trial=summary.best, summary=summary)
    folder, colon, number = given.rpartition(":")
    if colon and number.isdigit() and (Path(folder) / DATABASE).is_file():
        summary = read_summary(Path(folder))
        trial = next((each for each in summary.history if each.number == int(number)), None)
        if trial is None:
            raise InputError(f"{folder} must have trial {number}, but has 0 to {summary.history[-1].number}")
        return _Side(name=given, config=trial.config, trial=trial, summary=summary)
    try:
        return _Side(name=given, config=QuantizationConfig.from_json(json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{given} must be a workspace, WORKSPACE:TRIAL, or a JSON file that `config.to_json()` wrote, but: {error}"
        ) from error


def _figures(sides: tuple[_Side, _Side]) -> Table:
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
