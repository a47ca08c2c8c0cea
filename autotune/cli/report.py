"""``autotune report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from autotune.cli.files import require_place
from autotune.cli.tables import print_outcome
from autotune.results.summary import read_summary


def report(
    workspace: Annotated[
        Path, typer.Argument(help="The workspace of a run, also of one that was ended or still runs.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write the report; WORKSPACE/report.html by default.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="The Optuna storage URL, where the history is not in the workspace.")
    ] = None,
    excluded: Annotated[
        bool,
        typer.Option(
            "--excluded",
            help="Print a line for each op that the answer leaves out of int8, and no more: nodes_to_exclude of ONNX "
            "Runtime's quantize_static.",
        ),
    ] = False,
) -> None:
    """Show what a run found, and write a report for the browser."""
    if output is not None:
        require_place(output)
    summary = read_summary(workspace if storage is None else storage)
    if excluded:
        for name in summary.excluded_nodes():
            typer.echo(name)
        return
    console = Console()
    print_outcome(console, summary)
    written = summary.report(workspace / "report.html" if output is None else output)
    console.print(Text(f"Report: {written}"), soft_wrap=True)
